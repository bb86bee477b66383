#include "native/linear.h"

#include <doctest/doctest.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "native/bfloat16.h"
#include "native/kernels.h"
#include "support.h"
#include "widen.h"

using namespace tokentiming::native;
using tokentiming::BFloat16;
using tokentiming::widen;

namespace {

// A sum in double, and the sum of the magnitudes of its terms.
struct Exact {
  double value = 0.0;
  double magnitude = 0.0;

  void add(double term) {
    value += term;
    magnitude += std::abs(term);
  }
};

// The slow twin: output [r, n] of a layer.
Exact exact_output(const Linear& layer, std::size_t r, std::size_t n) {
  Exact sum;
  if (layer.bias) sum.add(widen(layer.bias[n]));
  for (std::size_t k = 0; k < layer.in_features; ++k) {
    sum.add(double{widen(layer.input[r * layer.in_features + k])} *
            double{widen(layer.weight[n * layer.in_features + k])});
  }
  return sum;
}

}  // namespace

TEST_CASE("bfloat16 is rounded to nearest even") {
  const auto bits = [](float x) { return to_bfloat16(x).bits; };
  CHECK(bits(1.0f) == 0x3f80);
  CHECK(bits(1.0f + 0x1p-8f) == 0x3f80);
  CHECK(bits(1.0f + 0x3p-8f) == 0x3f82);
  CHECK(bits(1.0f + 0x1p-8f + 0x1p-20f) == 0x3f81);
  CHECK(bits(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(std::isnan(widen(to_bfloat16(std::nanf("1")))));
}

TEST_CASE("the portable variant is the last one, and the only one without kernels") {
  const auto all = variants();
  REQUIRE(!all.empty());
  CHECK(all.back().name == std::string_view("portable"));
  for (const Variant& variant : all) {
    CHECK((variant.kernels == nullptr) == (&variant == &all.back()));
  }
  CHECK(linear_is_fast() == (all.size() > 1));
}

TEST_CASE("every variant of linear agrees with double up to rounding") {
  for (const Variant& variant : variants()) {
    CAPTURE(variant.name);
    for (std::size_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 33, 70}) {
      for (std::size_t inner : {1, 15, 16, 31, 32, 100, 1600}) {
        for (std::size_t outputs : {1, 5, 20, 48, 101}) {
          const auto input = random_bfloat16(rows * inner, 1);
          const auto weight = random_bfloat16(outputs * inner, 2);
          const auto bias = random_bfloat16(outputs, 3);
          std::vector<BFloat16> output(rows * outputs);
          for (const BFloat16* with_bias : {bias.data(), static_cast<const BFloat16*>(nullptr)}) {
            const Linear layer{input.data(), weight.data(), with_bias, output.data(),
                               rows,         inner,         outputs};
            linear(layer, variant);
            for (std::size_t r = 0; r < rows; ++r) {
              for (std::size_t n = 0; n < outputs; ++n) {
                const Exact exact = exact_output(layer, r, n);
                const double bound = std::abs(exact.value) * 0x1p-8 +
                                     exact.magnitude * static_cast<double>(inner + 2) * 0x1p-23;
                REQUIRE(std::abs(widen(output[r * outputs + n]) - exact.value) <= bound);
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a row of many has the same bits as alone") {
  // More rows than share a tile, more outputs than a call computes, and inputs that fill the cache.
  constexpr std::size_t kRows = 150, kInner = 4000, kOutputs = 450;
  const auto input = random_bfloat16(kRows * kInner, 1);
  const auto weight = random_bfloat16(kOutputs * kInner, 2);
  const auto bias = random_bfloat16(kOutputs, 3);
  for (const Variant& variant : variants()) {
    CAPTURE(variant.name);
    if (variant.kernels == nullptr) continue;
    std::vector<BFloat16> all(kRows * kOutputs), alone(kOutputs);
    linear({input.data(), weight.data(), bias.data(), all.data(), kRows, kInner, kOutputs},
           variant);
    for (std::size_t r = 0; r < kRows; r += 7) {
      linear({input.data() + r * kInner, weight.data(), bias.data(), alone.data(), 1, kInner,
              kOutputs},
             variant);
      for (std::size_t n = 0; n < kOutputs; ++n) {
        REQUIRE(all[r * kOutputs + n].bits == alone[n].bits);
      }
    }
  }
}

TEST_CASE("linear takes the fastest variant") {
  const auto input = random_bfloat16(3 * 40, 1);
  const auto weight = random_bfloat16(50 * 40, 2);
  std::vector<BFloat16> chosen(3 * 50);
  std::vector<BFloat16> fastest(3 * 50);
  linear({input.data(), weight.data(), nullptr, chosen.data(), 3, 40, 50});
  linear({input.data(), weight.data(), nullptr, fastest.data(), 3, 40, 50}, variants().front());
  for (std::size_t i = 0; i < chosen.size(); ++i) REQUIRE(chosen[i].bits == fastest[i].bits);
}

TEST_CASE("linear gives the same bits on one thread and on several") {
  const auto input = random_bfloat16(8 * 64, 1);
  const auto weight = random_bfloat16(500 * 64, 2);
  const int threads = omp_get_max_threads();
  for (const Variant& variant : variants()) {
    const auto bits = [&](int count) {
      omp_set_num_threads(count);
      std::vector<BFloat16> output(8 * 500);
      linear({input.data(), weight.data(), nullptr, output.data(), 8, 64, 500}, variant);
      omp_set_num_threads(threads);
      std::vector<std::uint16_t> found;
      for (const BFloat16& value : output) found.push_back(value.bits);
      return found;
    };
    CHECK(bits(1) == bits(4));
  }
}
