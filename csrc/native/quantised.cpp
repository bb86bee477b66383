#include "native/quantised.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "parallel.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

// The index of weight k of a row of `in` weights after interleaving groups.
std::size_t interleaved(std::size_t k, std::size_t in, std::size_t group) {
  const std::size_t start = k / group * group;
  if (start + group > in) return k;
  const std::size_t within = k - start;
  return start + within / 2 + (within % 2) * (group / 2);
}

}  // namespace

Quantised::Quantised(const Kernels& kernels, const Projection& projection, std::size_t in_features,
                     const char* name)
    : kernels_(kernels),
      in_features_(in_features),
      values_(projection.out_features * in_features),
      scales_(projection.out_features),
      bias_(projection.bias) {
  if (in_features > kMostInputs) {
    throw std::invalid_argument("transformer: " + std::string(name) + " has " +
                                std::to_string(in_features) + " inputs, more than " +
                                std::to_string(kMostInputs) + "; run the model with torch");
  }
  parallel_for(scales_.size(), 64, [&](std::size_t n) {
    const BFloat16* row = projection.weight + n * in_features;
    float largest = 0.0f;
    bool finite = true;
    for (std::size_t k = 0; k < in_features; ++k) {
      const float magnitude = std::abs(widen(row[k]));
      finite &= std::isfinite(magnitude);
      largest = std::max(largest, magnitude);
    }
    if (!finite) {
      throw std::invalid_argument("transformer: " + std::string(name) + " holds NaN or infinity");
    }
    scales_[n] = largest / 127.0f;
    if (largest == 0.0f) return;
    for (std::size_t k = 0; k < in_features; ++k) {
      values_[n * in_features + interleaved(k, in_features, kernels.group)] =
          static_cast<std::int8_t>(std::nearbyint(widen(row[k]) / scales_[n]));
    }
  });
}

void Quantised::multiply(const PackedRows& input, std::size_t first, std::size_t last, float* out,
                         std::size_t stride) const {
  kernels_.dot_products_int8(
      {input.data(), input.rows(), in_features_, values_.data(), first, last, out, stride});
  for (std::size_t r = 0; r < input.rows(); ++r) {
    for (std::size_t n = first; n < last; ++n) {
      float& product = out[r * stride + n];
      product *= scales_[n];
      if (bias_ != nullptr) product += widen(bias_[n]);
    }
  }
}

}  // namespace tokentiming::native
