#include "tokentiming/verify.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "blocks/blocks.h"

using tokentiming::Chains;
using tokentiming::Laws;
using tokentiming::Rows;
using tokentiming::Statement;

namespace {

template <class T>
Laws laws(const std::vector<T>& values, std::size_t columns,
          Statement statement = Statement::kProbabilities) {
  return {Rows<const T>{values.data(), values.size() / columns, columns,
                        static_cast<std::ptrdiff_t>(columns)},
          statement};
}

template <class T>
void check_kernels(double tolerance) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal(0.0, 8.0);
  for (std::size_t count : {1, 15, 16, 17, 255, 256, 300, 4096}) {
    std::vector<T> x(count);
    for (T& entry : x) entry = static_cast<T>(normal(random));
    const auto& reference = tokentiming::block_kernels<T>().back();
    const T maximum = reference.maximum(x.data(), count);
    std::vector<T> powers(count);
    reference.exponentials(x.data(), count, maximum, T{0.5}, T{3}, powers.data());
    const double sum = reference.sum(powers.data(), count);
    double exact_sum = 0.0;
    for (std::size_t k = 0; k < count; ++k) {
      const double exact = 3.0 * std::exp((double{x[k]} - double{maximum}) * 0.5);
      REQUIRE(std::abs(powers[k] - exact) <= exact * tolerance * 32);
      exact_sum += exact;
      REQUIRE(x[k] <= maximum);
    }
    CHECK(sum == doctest::Approx(exact_sum).epsilon(tolerance * 16));
    for (const auto& kernels : tokentiming::block_kernels<T>()) {
      CAPTURE(kernels.name);
      std::vector<T> here(count);
      CHECK(kernels.maximum(x.data(), count) == maximum);
      kernels.exponentials(x.data(), count, maximum, T{0.5}, T{3}, here.data());
      CHECK(here == powers);
      CHECK(kernels.sum(here.data(), count) == sum);
      std::vector<T> halves(count, T{0.5});
      kernels.subtract(here.data(), halves.data(), count);
      for (std::size_t k = 0; k < count; ++k) {
        REQUIRE(here[k] == std::max(powers[k] - T{0.5}, T{0}));
      }
      for (T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
        std::vector<T> broken(powers);
        broken[count / 2] = bad;
        CHECK(kernels.maximum(broken.data(), count) == std::numeric_limits<T>::infinity());
        CHECK(std::isnan(kernels.sum(broken.data(), count)));
        broken[count / 2] = T{-1};
        CHECK(std::isnan(kernels.sum(broken.data(), count)));
      }
    }
  }
}

}  // namespace

TEST_CASE("every kernel gives the same bits, and they are right") {
  check_kernels<float>(0x1p-24);
  check_kernels<double>(0x1p-53);
}

TEST_CASE("exponentials fade to zero") {
  const std::vector<float> x{0.0f, -80.0f, -200.0f, -std::numeric_limits<float>::infinity()};
  std::vector<float> out(4);
  for (const auto& kernels : tokentiming::block_kernels<float>()) {
    kernels.exponentials(x.data(), 4, 0.0f, 1.0f, 1.0f, out.data());
    CHECK(out[0] == 1.0f);
    CHECK(out[1] == doctest::Approx(std::exp(-80.0)).epsilon(1e-5));
    CHECK(out[2] == 0.0f);
    CHECK(out[3] == 0.0f);
  }
}

TEST_CASE("a ragged batch: accepted, rejected and empty chains") {
  const std::vector<std::int64_t> ids{1, 0, 1};
  const std::vector<std::int64_t> offsets{0, 2, 2, 3};
  const std::vector<double> q{0.5, 0.5, 0.5, 0.5, 0.25, 0.75};
  const std::vector<double> p{0.25, 0.75, 0.5, 0.5, 1.0, 0.0,  // chain 0: rows 0, 1 and the bonus
                              0.0,  1.0,                       // chain 1: the bonus
                              0.75, 0.25, 0.5, 0.5};           // chain 2
  const std::vector<double> uniforms{0.9, 0.9, 0.5, 0.5, 0.4, 0.9};
  std::vector<std::int32_t> tokens(9);
  std::vector<std::int32_t> accepted(3);
  const Chains<std::int64_t> chains{
      {ids, offsets}, laws(q, 2), laws(p, 2), 1.0, std::span<const double>(uniforms)};
  tokentiming::verify(chains, Rows<std::int32_t>{tokens.data(), 3, 3, 3}, accepted);
  CHECK(accepted == std::vector<std::int32_t>{2, 0, 0});
  CHECK(tokens == std::vector<std::int32_t>{1, 0, 0, 1, -1, -1, 0, -1, -1});
}

TEST_CASE("errors leave the outputs alone") {
  const std::vector<std::int32_t> ids{1};
  const std::vector<std::int64_t> offsets{0, 1};
  const std::vector<float> logits{0, 0, 0, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<float> uniforms{0.0f, 0.5f};
  std::vector<std::int32_t> tokens(2, -7);
  std::vector<std::int32_t> accepted(1, -7);
  Chains<std::int32_t> chains{{ids, offsets},
                              std::nullopt,
                              laws(logits, 2, Statement::kLogits),
                              1.0,
                              std::span<const float>(uniforms)};
  const Rows<std::int32_t> out{tokens.data(), 1, 2, 2};
  CHECK_THROWS_WITH(tokentiming::verify(chains, out, accepted),
                    "verify: target_logits[1] holds NaN or +inf");
  chains.temperature = -1.0;
  CHECK_THROWS_AS(tokentiming::verify(chains, out, accepted), std::invalid_argument);
  CHECK(tokens == std::vector<std::int32_t>{-7, -7});
  CHECK(accepted == std::vector<std::int32_t>{-7});
}
