#include "native/quantised.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>

#include "parallel.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

// The largest error of 4 bits, over all weights, as a share of the weights: root mean squares. For
// weights of a Q4_1 file it is below 0.01, as its groups are these; for those of other 4-bit files
// it is 0.04 or more, and for normally distributed weights 0.08.
constexpr double kTolerance = 0.02;

std::size_t groups_of(std::size_t in_features) {
  return (in_features + kRoundedInputs - 1) / kRoundedInputs;
}

// The smallest bfloat16 number that is not smaller than x, which is positive or 0.
BFloat16 rounded_up(double x) {
  auto near = static_cast<float>(x);
  if (near < x) near = std::nextafter(near, std::numeric_limits<float>::infinity());
  const auto bits = std::bit_cast<std::uint32_t>(near);
  return {static_cast<std::uint16_t>((bits + 0xFFFFu) >> 16)};
}

// How a group of up to kRoundedInputs weights of an output is rounded.
struct Rounding {
  Rounding(std::span<const BFloat16> weights, bool eight_bits) {
    const auto less = [](BFloat16 a, BFloat16 b) { return widen(a) < widen(b); };
    const auto [low, high] = std::ranges::minmax(weights, less);
    const double range = double{widen(high)} - widen(low);
    minimum = low;
    scale = rounded_up(range / (eight_bits ? 255.0 : 15.0));
  }

  std::uint8_t value(BFloat16 weight) const {
    if (widen(scale) == 0.0f) return 0;
    const double steps = (double{widen(weight)} - widen(minimum)) / widen(scale);
    return static_cast<std::uint8_t>(static_cast<int>(steps + 0.5));
  }

  double error(BFloat16 weight) const {
    return double{widen(weight)} - widen(minimum) - double{widen(scale)} * value(weight);
  }

  BFloat16 minimum, scale;
};

// Writes a group of an output into its place in a tile.
void write_group(std::uint8_t* group, std::size_t output, std::span<const BFloat16> weights,
                 bool eight_bits) {
  const Rounding rounding(weights, eight_bits);
  const std::size_t place = output * sizeof(BFloat16);
  std::memcpy(group + place, &rounding.scale, sizeof(BFloat16));
  std::memcpy(group + kScaleBytes / 2 + place, &rounding.minimum, sizeof(BFloat16));
  for (std::size_t k = 0; k < weights.size(); ++k) {
    const std::size_t step = k / kStepInputs;
    const std::size_t vector = eight_bits ? step : step / 2;
    const std::size_t shift = eight_bits || step % 2 == 0 ? 0 : 4;
    std::uint8_t& byte =
        group[kScaleBytes + (vector * kTileOutputs + output) * kStepInputs + k % kStepInputs];
    byte = static_cast<std::uint8_t>(byte | rounding.value(weights[k]) << shift);
  }
}

// Calls f(group, weights) for each group of a row.
template <class F>
void for_each_group(std::span<const BFloat16> row, const F& f) {
  for (std::size_t k = 0; k < row.size(); k += kRoundedInputs) {
    f(k / kRoundedInputs, row.subspan(k, std::min(kRoundedInputs, row.size() - k)));
  }
}

std::span<const BFloat16> row_of(const Projection& projection, std::size_t in, std::size_t n) {
  return {projection.weight + n * in, in};
}

// Whether 4 bits approximate the weights too badly.
bool needs_eight_bits(const Projection& projection, std::size_t in_features) {
  std::vector<double> errors(projection.out_features), squares(projection.out_features);
  parallel_for(projection.out_features, 64, [&](std::size_t n) {
    for_each_group(row_of(projection, in_features, n), [&](std::size_t, const auto& weights) {
      const Rounding rounding(weights, false);
      for (const BFloat16 weight : weights) {
        const double error = rounding.error(weight), number = widen(weight);
        errors[n] += error * error;
        squares[n] += number * number;
      }
    });
  });
  const auto total = [](const std::vector<double>& of) {
    return std::accumulate(of.begin(), of.end(), 0.0);
  };
  return total(errors) > kTolerance * kTolerance * total(squares);
}

void require_finite(const Projection& projection, std::size_t in_features, const char* name) {
  parallel_for(projection.out_features, 64, [&](std::size_t n) {
    const auto is_finite = [](BFloat16 x) { return std::isfinite(widen(x)); };
    if (!std::ranges::all_of(row_of(projection, in_features, n), is_finite)) {
      throw std::invalid_argument("transformer: " + std::string(name) + " holds NaN or infinity");
    }
  });
}

}  // namespace

RoundedRows::RoundedRows(const Kernels& kernels, const float* input, std::size_t rows,
                         std::size_t in_features)
    : rows_(rows),
      groups_(groups_of(in_features)),
      values_(rows * groups_ * kRoundedInputs),
      scales_(rows * groups_) {
  for (std::size_t r = 0; r < rows; ++r) {
    kernels.round_row(input + r * in_features, in_features,
                      values_.data() + r * groups_ * kRoundedInputs, scales_.data() + r * groups_);
  }
}

Quantised::Quantised(const Kernels& kernels, const Projection& projection, std::size_t in_features,
                     const char* name)
    : kernels_(kernels),
      outputs_(projection.out_features),
      groups_(groups_of(in_features)),
      bias_(projection.bias) {
  require_finite(projection, in_features, name);
  eight_bits_ = needs_eight_bits(projection, in_features);
  const std::size_t tiles = (outputs_ + kTileOutputs - 1) / kTileOutputs;
  tiles_.resize(tiles * tile_bytes());
  parallel_for(tiles, 8, [&](std::size_t tile) {
    const std::size_t first = tile * kTileOutputs;
    for (std::size_t n = first; n < std::min(first + kTileOutputs, outputs_); ++n) {
      for_each_group(row_of(projection, in_features, n), [&](std::size_t g, const auto& weights) {
        std::uint8_t* group =
            tiles_.data() + tile * tile_bytes() + g * quantised_group_bytes(eight_bits_);
        write_group(group, n - first, weights, eight_bits_);
      });
    }
  });
}

std::size_t Quantised::tile_bytes() const { return groups_ * quantised_group_bytes(eight_bits_); }

void Quantised::multiply(const RoundedRows& input, std::size_t first, std::size_t last, float* out,
                         std::size_t stride) const {
  kernels_.quantised_products({input.view(), tiles_.data() + first / kTileOutputs * tile_bytes(),
                               eight_bits_, last - first, out + first, stride});
  if (bias_ == nullptr) return;
  for (std::size_t r = 0; r < input.rows(); ++r) {
    for (std::size_t n = first; n < last; ++n) out[r * stride + n] += widen(bias_[n]);
  }
}

}  // namespace tokentiming::native
