#include "tokentiming/sample.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "simd/dispatch.h"

using tokentiming::Noise;
using tokentiming::Rows;
using tokentiming::State;
namespace simd = tokentiming::simd;

namespace {

std::vector<std::uint64_t> random_keys(std::size_t n) {
  std::mt19937_64 random(n);
  std::vector<std::uint64_t> keys(n);
  for (auto& key : keys) key = random();
  return keys;
}

}  // namespace

TEST_CASE("log E keeps its resolution at both ends") {
  using tokentiming::log_exponential;
  const auto near = [](double x) { return doctest::Approx(x).epsilon(1e-14); };
  CHECK(log_exponential(0) == near(-65 * std::log(2.0)));
  CHECK(log_exponential(1) == near(std::log(1.5) - 64 * std::log(2.0)));
  CHECK(log_exponential(~std::uint64_t{0}) == near(std::log(65 * std::log(2.0))));
  std::mt19937_64 random(0);
  double previous = -100.0;
  for (int shift = 63; shift >= 0; --shift) {
    const std::uint64_t bits = (std::uint64_t{1} << 63 | random() >> 1) >> shift;
    const long double u = (static_cast<long double>(bits) + 0.5L) / 0x1p64L;
    const double expected = static_cast<double>(std::log(-std::log1p(-u)));
    CHECK(log_exponential(bits) == doctest::Approx(expected).epsilon(1e-13));
    CHECK(log_exponential(bits) > previous);
    previous = log_exponential(bits);
  }
  // Continuous where the two halves meet.
  const std::uint64_t half = std::uint64_t{1} << 63;
  CHECK(log_exponential(half - 1) == near(log_exponential(half)));
}

TEST_CASE(
    "every variant finds the same candidates: all that may reach the threshold, and few others") {
  const std::size_t n = 100'003;
  const auto keys = random_keys(n);
  const Noise noise(7, {3, 1000, 2});
  const simd::NoiseWords words{{noise.key()[0], noise.key()[1]}, {1000, 2}};
  std::vector<double> gains;
  for (const std::uint64_t key : keys) gains.push_back(-noise.log_exponential(key));
  // The candidates among these logits at a threshold of 0.
  const auto candidates = [&](simd::FirstCandidate first, const std::vector<float>& logits) {
    std::vector<std::size_t> found;
    for (std::size_t k = 0; k < n; ++k) {
      k += first(words, keys.data() + k, logits.data() + k, n - k, 0.0F);
      if (k < n) found.push_back(k);
    }
    return found;
  };
  const auto with_margin = [&](double margin) {
    std::vector<float> logits;
    for (const double gain : gains) logits.push_back(static_cast<float>(margin - gain));
    return logits;
  };
  std::mt19937 random(1);
  std::normal_distribution<float> normal(-4.0F, 3.0F);
  std::vector<float> drawn(n);
  for (float& logit : drawn) logit = normal(random);
  drawn[5] = -std::numeric_limits<float>::infinity();
  drawn[50'000] = std::numeric_limits<float>::quiet_NaN();
  drawn[n - 1] = std::numeric_limits<float>::infinity();
  const auto reference = candidates(simd::first_candidate_portable, drawn);
  CHECK(reference.size() > 1000);
  CHECK(reference.size() < n / 2);
  CHECK(std::ranges::count(reference, 5U) == 0);
  CHECK(std::ranges::count(reference, 50'000U) == 1);
  CHECK(reference.back() == n - 1);
  for (const simd::Kernels* kernels : simd::supported_kernels()) {
    CAPTURE(kernels->name);
    CHECK(candidates(kernels->first_candidate, drawn) == reference);
    CHECK(candidates(kernels->first_candidate, with_margin(1e-5)).size() == n);
    for (const std::size_t k : candidates(kernels->first_candidate, with_margin(-0.1))) {
      REQUIRE(gains[k] <= 3.0);  // for great E the bound is loose
    }
  }
}

TEST_CASE("the race is won by the highest exact score") {
  const std::size_t columns = 20'000;
  const auto keys = random_keys(columns);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(2 * columns);
  for (float& logit : logits) logit = normal(random);
  const std::vector<State> states{{0, 5, 0}, {1, 5, 0}};
  std::vector<std::int64_t> ids(2);
  tokentiming::sample(Rows<const float>{logits.data(), 2, columns, std::ptrdiff_t{columns}}, keys,
                      42, states, ids);
  for (std::size_t row = 0; row < 2; ++row) {
    const Noise noise(42, states[row]);
    std::size_t best = 0;
    const auto score = [&](std::size_t v) {
      return double{logits[row * columns + v]} - noise.log_exponential(keys[v]);
    };
    for (std::size_t v = 1; v < columns; ++v) {
      if (score(v) > score(best)) best = v;
    }
    CHECK(ids[row] == static_cast<std::int64_t>(best));
  }
}

TEST_CASE("errors name the row and write no output") {
  const auto keys = random_keys(3);
  const std::vector<State> states{{0, 0, 0}, {0, 1, 0}};
  std::vector<std::int64_t> ids(2, -7);
  std::vector<double> logits{0, 0, 0, 0, std::numeric_limits<double>::quiet_NaN(), 0};
  const Rows<const double> rows{logits.data(), 2, 3, 3};
  CHECK_THROWS_WITH(tokentiming::sample(rows, keys, 0, states, ids),
                    "sample: logits[1] holds NaN or +inf");
  CHECK(ids == std::vector<std::int64_t>{-7, -7});
  logits[4] = 0;
  tokentiming::sample(rows, keys, 0, states, ids);
  CHECK(ids[0] >= 0);
  const std::vector<State> beyond{{0, 0, 0}, {0, std::int64_t{1} << 32, 0}};
  CHECK_THROWS_AS(tokentiming::sample(rows, keys, 0, beyond, ids), std::invalid_argument);
}
