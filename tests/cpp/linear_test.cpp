#include "tokentiming/linear.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "linear/kernels.h"

using tokentiming::BFloat16;
using tokentiming::widen;

namespace {

std::vector<BFloat16> random_numbers(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> numbers(n);
  for (auto& x : numbers) x = tokentiming::to_bfloat16(normal(random));
  return numbers;
}

}  // namespace

TEST_CASE("bfloat16 is rounded to nearest even") {
  const auto bits = [](float x) { return tokentiming::to_bfloat16(x).bits; };
  CHECK(bits(1.0f) == 0x3f80);
  CHECK(bits(1.0f + 0x1p-8f) == 0x3f80);
  CHECK(bits(1.0f + 0x3p-8f) == 0x3f82);
  CHECK(bits(1.0f + 0x1p-8f + 0x1p-20f) == 0x3f81);
  CHECK(bits(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(std::isnan(widen(tokentiming::to_bfloat16(std::nanf("1")))));
}

TEST_CASE("the fast way and the portable one agree with double up to rounding") {
  for (std::size_t rows : {0, 1, 3, 6, 7, 13}) {
    for (std::size_t inner : {1, 15, 16, 100}) {
      for (std::size_t outputs : {1, 5, 48, 101}) {
        const auto input = random_numbers(rows * inner, 1);
        const auto weight = random_numbers(outputs * inner, 2);
        const auto bias = random_numbers(outputs, 3);
        std::vector<BFloat16> fast(rows * outputs);
        std::vector<BFloat16> portable(rows * outputs);
        tokentiming::Linear layer{input.data(), weight.data(), bias.data(), fast.data(),
                                  rows,         inner,         outputs};
        tokentiming::linear(layer);
        layer.output = portable.data();
        tokentiming::linear_portable(layer);
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t n = 0; n < outputs; ++n) {
            double exact = widen(bias[n]);
            double magnitude = std::abs(exact);
            for (std::size_t k = 0; k < inner; ++k) {
              const double product =
                  double{widen(input[r * inner + k])} * double{widen(weight[n * inner + k])};
              exact += product;
              magnitude += std::abs(product);
            }
            const double bound =
                std::abs(exact) * 0x1p-8 + magnitude * static_cast<double>(inner + 2) * 0x1p-23;
            REQUIRE(std::abs(widen(fast[r * outputs + n]) - exact) <= bound);
            REQUIRE(std::abs(widen(portable[r * outputs + n]) - exact) <= bound);
          }
        }
      }
    }
  }
}
