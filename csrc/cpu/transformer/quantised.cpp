#include "quantised.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "linear/kernels.h"
#include "parallel.h"

namespace tokentiming {
namespace {

constexpr std::size_t kRun = 16;

// Where the weight at place k of a row of `in` lies.
std::size_t place(std::size_t k, std::size_t in) {
  const std::size_t start = k / kRun * kRun;
  if (start + kRun > in) return k;
  const std::size_t within = k - start;
  return start + within / 2 + (within % 2) * (kRun / 2);
}

}  // namespace

Quantised::Quantised(const Projection& projection, std::size_t in_features, const char* name)
    : in_features_(in_features),
      values_(projection.out_features * in_features),
      scales_(projection.out_features),
      bias_(projection.bias) {
  parallel_for(scales_.size(), 64, [&](std::size_t n) {
    const BFloat16* row = projection.weight + n * in_features;
    float greatest = 0.0f;
    bool finite = true;
    for (std::size_t k = 0; k < in_features; ++k) {
      const float magnitude = std::abs(widen(row[k]));
      finite &= std::isfinite(magnitude);
      greatest = std::max(greatest, magnitude);
    }
    if (!finite) {
      throw std::invalid_argument("transformer: " + std::string(name) + " holds NaN or infinity");
    }
    scales_[n] = greatest / 127.0f;
    if (greatest == 0.0f) return;
    for (std::size_t k = 0; k < in_features; ++k) {
      values_[n * in_features + place(k, in_features)] =
          static_cast<std::int8_t>(std::nearbyint(widen(row[k]) / scales_[n]));
    }
  });
}

void Quantised::multiply(const float* floats, std::size_t rows, std::size_t first, std::size_t last,
                         float* out, std::size_t stride) const {
#ifdef TOKENTIMING_X86
  dot_products_avx2(floats, rows, in_features_, values_.data(), first, last, out, stride);
#endif
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t n = first; n < last; ++n) {
      float& product = out[r * stride + n];
      product *= scales_[n];
      if (bias_ != nullptr) product += widen(bias_[n]);
    }
  }
}

}  // namespace tokentiming
