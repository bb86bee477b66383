#include "native/quantised.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "native/bfloat16.h"
#include "native/kernels.h"
#include "small_model.h"
#include "support.h"
#include "widen.h"

using namespace tokentiming::native;
using tokentiming::BFloat16;
using tokentiming::widen;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Weights minimum + step * (0 .. 15) whose groups hold 0 and 15, as those of a 4-bit file do.
std::vector<BFloat16> four_bit_weights(std::size_t outputs, std::size_t inner) {
  std::mt19937 random(4);
  std::vector<BFloat16> weights;
  for (std::size_t n = 0; n < outputs; ++n) {
    for (std::size_t k = 0; k < inner; ++k) {
      const std::size_t within = k % kRoundedInputs;
      const auto value = within == 0   ? 0u
                         : within == 1 ? 15u
                                       : static_cast<unsigned>(random() % 16);
      const float step = 0.01f * static_cast<float>(1 + (n + k / kRoundedInputs) % 5);
      weights.push_back(to_bfloat16(step * (static_cast<float>(value) - 6.5f)));
    }
  }
  return weights;
}

// The slow twin of one group: what its weights are rounded to.
std::vector<double> rounded_group(const BFloat16* weights, std::size_t count, double most) {
  double low = widen(weights[0]), high = low;
  for (std::size_t k = 0; k < count; ++k) {
    low = std::min<double>(low, widen(weights[k]));
    high = std::max<double>(high, widen(weights[k]));
  }
  // bfloat16 keeps the upper 8 bits of the significand.
  int exponent = 0;
  const double fraction = std::frexp((high - low) / most, &exponent);
  const double scale = std::ldexp(std::ceil(std::ldexp(fraction, 8)), exponent - 8);
  std::vector<double> rounded;
  for (std::size_t k = 0; k < count; ++k) {
    const double value = scale == 0.0 ? 0.0 : std::floor((widen(weights[k]) - low) / scale + 0.5);
    REQUIRE(value <= most);
    rounded.push_back(low + scale * value);
    REQUIRE(std::abs(rounded.back() - widen(weights[k])) <= scale / 2);
  }
  return rounded;
}

std::vector<double> rounded_row(const BFloat16* weights, std::size_t inner, double most) {
  std::vector<double> row;
  for (std::size_t k = 0; k < inner; k += kRoundedInputs) {
    const auto group = rounded_group(weights + k, std::min(kRoundedInputs, inner - k), most);
    row.insert(row.end(), group.begin(), group.end());
  }
  return row;
}

std::vector<float> random_floats(std::size_t count, unsigned seed) {
  std::vector<float> numbers;
  for (const BFloat16 x : random_bfloat16(count, seed)) numbers.push_back(widen(x));
  return numbers;
}

// Input k of row r, as it is rounded.
double input_at(const RoundedRows& rows, std::size_t r, std::size_t k) {
  const RoundedInput view = rows.view();
  const GroupScale group = view.scales[r * view.groups + k / kRoundedInputs];
  return double{group.scale} * view.values[r * view.groups * kRoundedInputs + k];
}

}  // namespace

TEST_CASE("inputs are rounded to 127ths of the largest magnitude of their group") {
  for_each_usable([&](const Variant& variant) {
    for (std::size_t inner : {1, 31, 32, 33, 100}) {
      std::vector<float> input = random_floats(3 * inner, 1);
      for (std::size_t k = 0; k < inner; ++k) input[2 * inner + k] *= 0x1p-110f;  // becomes 0
      const RoundedRows rows(*variant.kernels, input.data(), 3, inner);
      const RoundedInput view = rows.view();
      CHECK(view.rows == 3);
      for (std::size_t r = 0; r < 3; ++r) {
        for (std::size_t g = 0; g < view.groups; ++g) {
          const std::size_t end = std::min(inner, (g + 1) * kRoundedInputs);
          double largest = 0.0, sum = 0.0;
          for (std::size_t k = g * kRoundedInputs; k < end; ++k) {
            largest = std::max(largest, std::abs(double{input[r * inner + k]}));
            sum += input_at(rows, r, k);
          }
          const GroupScale group = view.scales[r * view.groups + g];
          const double scale = r == 2 ? 0.0 : largest / 127.0;
          REQUIRE(std::abs(group.scale - scale) <= 1e-6 * scale);
          REQUIRE(std::abs(group.sum - sum) <= 1e-3 * scale);
          for (std::size_t k = g * kRoundedInputs; k < end && r != 2; ++k) {
            REQUIRE(std::abs(input_at(rows, r, k) - input[r * inner + k]) <= largest / 253.9);
          }
        }
      }
    }
  });
}

TEST_CASE("products with rounded weights agree with double up to rounding") {
  for_each_usable([&](const Variant& variant) {
    for (const bool eight_bits : {false, true}) {
      for (std::size_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 17}) {
        for (std::size_t inner : {2, 32, 33, 100, 1600}) {
          for (std::size_t outputs : {1, 8, 20, 48, 101}) {
            const auto weights =
                eight_bits ? random_bfloat16(outputs * inner, 2) : four_bit_weights(outputs, inner);
            const auto bias = random_bfloat16(outputs, 3);
            const Quantised layer(*variant.kernels, {weights.data(), bias.data(), outputs}, inner,
                                  "query");
            if (inner >= 32) REQUIRE(layer.eight_bits() == eight_bits);
            const auto input = random_floats(rows * inner, 1);
            const RoundedRows rounded(*variant.kernels, input.data(), rows, inner);
            const std::size_t first = outputs / 2 / kTileOutputs * kTileOutputs;
            std::vector<float> found(rows * outputs, -1.0f);
            layer.multiply(rounded, first, outputs, found.data(), outputs);
            for (std::size_t n = 0; n < outputs; ++n) {
              const auto row =
                  rounded_row(weights.data() + n * inner, inner, layer.eight_bits() ? 255 : 15);
              for (std::size_t r = 0; r < rows; ++r) {
                double expected = widen(bias[n]), magnitude = std::abs(expected);
                for (std::size_t k = 0; k < inner; ++k) {
                  expected += input_at(rounded, r, k) * row[k];
                  magnitude += std::abs(input_at(rounded, r, k)) * std::abs(row[k]);
                }
                const double bound = 0x1p-20 * (magnitude + 1.0);
                if (n < first) expected = -1.0;
                REQUIRE(std::abs(found[r * outputs + n] - expected) <= bound);
              }
            }
          }
        }
      }
    }
  });
}

TEST_CASE("the largest products do not overflow their sums") {
  constexpr std::size_t kInner = 64;
  for_each_usable([&](const Variant& variant) {
    for (const bool eight_bits : {false, true}) {
      // All values are the largest one but for the first of each group, and one for 8 bits.
      std::vector<BFloat16> weights(8 * kInner, to_bfloat16(15.0f));
      for (std::size_t k = 0; k < weights.size(); k += kRoundedInputs) {
        weights[k] = to_bfloat16(0.0f);
        if (eight_bits) weights[k + 1] = to_bfloat16(7.4375f);
      }
      const Quantised layer(*variant.kernels, {weights.data(), nullptr, 8}, kInner, "query");
      for (const float input : {1.0f, -1.0f}) {
        const std::vector<float> inputs(kInner, input);
        const RoundedRows rounded(*variant.kernels, inputs.data(), 1, kInner);
        float found[8];
        layer.multiply(rounded, 0, 8, found, 8);
        const double expected = input * (eight_bits ? 2 * (30 * 15.0 + 7.4375) : 2 * 31 * 15.0);
        for (const float one : found) CHECK(one == doctest::Approx(expected).epsilon(0.003));
      }
    }
  });
}

TEST_CASE("products of a row with NaN or infinity are not finite, and those of others are") {
  constexpr std::size_t kInner = 70;
  const auto weights = random_bfloat16(20 * kInner, 2);
  for_each_usable([&](const Variant& variant) {
    const Quantised layer(*variant.kernels, {weights.data(), nullptr, 20}, kInner, "query");
    for (const float broken : {std::nanf("1"), kInfinity, -kInfinity}) {
      std::vector<float> input(2 * kInner, 1.0f);
      input[kInner + 69] = broken;
      const RoundedRows rounded(*variant.kernels, input.data(), 2, kInner);
      std::vector<float> found(2 * 20);
      layer.multiply(rounded, 0, 20, found.data(), 20);
      for (std::size_t n = 0; n < 20; ++n) {
        REQUIRE(std::isfinite(found[n]));
        REQUIRE(!std::isfinite(found[20 + n]));
      }
    }
  });
}

TEST_CASE("weights of equal or extreme magnitude are rounded") {
  for_each_usable([&](const Variant& variant) {
    for (const float magnitude : {0.0f, 3.0f, 0x1p-133f, 3e38f}) {
      std::vector<BFloat16> weights(2 * 32, to_bfloat16(magnitude));
      for (std::size_t k = 32; k < 64; k += 2) weights[k] = to_bfloat16(-magnitude);
      const Quantised layer(*variant.kernels, {weights.data(), nullptr, 2}, 32, "query");
      std::vector<float> input(32, 0.0f);
      input[2] = 1.0f;
      const RoundedRows rounded(*variant.kernels, input.data(), 1, 32);
      float found[2];
      layer.multiply(rounded, 0, 2, found, 2);
      CHECK(std::abs(double{found[0]} - widen(weights[2])) <= 0.01 * magnitude);
      CHECK(std::abs(double{found[1]} - widen(weights[34])) <= 0.01 * magnitude);
    }
  });
}
