#include "tokentiming/candidates.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "race_term.h"
#include "simd/dispatch.h"

using tokentiming::Candidates;
using tokentiming::kWordEdge;
using tokentiming::Noise;
using tokentiming::Rows;
using tokentiming::State;
namespace simd = tokentiming::simd;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<std::uint64_t> random_keys(std::size_t n) {
  std::mt19937_64 random(n);
  std::vector<std::uint64_t> keys(n);
  for (auto& key : keys) key = random();
  return keys;
}

// The results of one call.
struct Found {
  std::vector<std::int64_t> ids;
  std::vector<float> shares;

  Found(std::size_t rows, std::size_t count)
      : ids(rows * count, -7), shares(rows * count, -7.0f), rows_(rows), count_(count) {}
  Candidates out() {
    const auto stride = static_cast<std::ptrdiff_t>(count_);
    return {{ids.data(), rows_, count_, stride}, {shares.data(), rows_, count_, stride}};
  }

 private:
  std::size_t rows_, count_;
};

}  // namespace

TEST_CASE("1 / E in single precision") {
  // All words that make it hard: at both ends, and around powers of two and the change of formula.
  std::vector<std::uint32_t> words{kWordEdge, ~kWordEdge};
  for (int bit = 15; bit < 32; ++bit) {
    for (const int step : {-2, -1, 0, 1, 2}) {
      words.push_back((std::uint32_t{1} << bit) + static_cast<std::uint32_t>(step));
      words.push_back(~words.back());
    }
  }
  const auto change = static_cast<std::uint32_t>((1 - std::sqrt(0.5)) * 0x1p32);
  for (std::uint32_t k = 0; k < 2000; ++k) words.push_back(change - 100'000 + 100 * k);
  std::mt19937 random(0);
  for (int k = 0; k < 100'000; ++k) {
    const auto word = static_cast<std::uint32_t>(random() >> random() % 17);
    words.push_back(k % 2 ? word : ~word);
  }
  CHECK(tokentiming::needs_all_bits(kWordEdge - 1));
  CHECK(tokentiming::needs_all_bits(~kWordEdge + 1));
  CHECK(tokentiming::needs_all_bits(0));
  CHECK(tokentiming::needs_all_bits(~0u));
  for (const std::uint32_t word : words) {
    if (word < kWordEdge || word > ~kWordEdge) continue;
    CAPTURE(word);
    REQUIRE_FALSE(tokentiming::needs_all_bits(word));
    for (const double low : {0.0, 0.999}) {  // what the other bits may be
      const double u = (word + low) * 0x1p-32;
      const double expected = 1.0 / std::log2(1.0 - u);
      const double found = 1.0 / static_cast<double>(tokentiming::log2_survival(word));
      REQUIRE(std::abs(found / expected - 1.0) < 4e-5);
    }
  }
}

TEST_CASE("every variant computes the same words, finds the same tokens and adds the same terms") {
  const std::size_t n = 10'003;
  const auto keys = random_keys(n);
  const Noise noise(7, {3, 1000, 2});
  const simd::NoiseWords constants{{noise.key()[0], noise.key()[1]}, {1000, 2}};
  std::vector<std::uint32_t> expected(n);
  for (std::size_t k = 0; k < n; ++k) {
    expected[k] = static_cast<std::uint32_t>(noise.bits(keys[k]) >> 32);
  }
  std::mt19937 random(1);
  std::normal_distribution<float> normal(-4.0f, 3.0f);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = normal(random);
  logits[5] = -kInfinity;
  logits[6] = -1e30f;
  const float greatest = *std::ranges::max_element(logits);
  double sum = 0.0;
  for (std::size_t k = 0; k < n; ++k) {
    sum += std::exp(double{logits[k]} - double{greatest} - noise.log_exponential(keys[k]));
  }
  REQUIRE_FALSE(std::ranges::any_of(expected, tokentiming::needs_all_bits));
  const simd::Kernels& portable = *simd::supported_kernels().back();
  const simd::RaceSum total = portable.race_sum(expected.data(), logits.data(), n);
  CHECK(std::abs(total.sum / sum - 1.0) < 2e-5);
  for (const simd::Kernels* kernels : simd::supported_kernels()) {
    CAPTURE(kernels->name);
    for (const std::size_t count : {n, n - 1, std::size_t{17}, std::size_t{1}, std::size_t{0}}) {
      CAPTURE(count);
      std::vector<std::uint32_t> words(n, 7);
      kernels->upper_words(constants, keys.data(), count, words.data());
      CHECK(std::equal(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(count),
                       words.begin()));
      CHECK(std::all_of(words.begin() + static_cast<std::ptrdiff_t>(count), words.end(),
                        [](std::uint32_t word) { return word == 7; }));
      const auto of = kernels->race_sum(expected.data(), logits.data(), count);
      const auto reference = portable.race_sum(expected.data(), logits.data(), count);
      CHECK(of.sum == reference.sum);
      CHECK(of.maximum == reference.maximum);
      CHECK(of.inaccurate == reference.inaccurate);
    }
    for (const std::uint32_t word : {kWordEdge - 1, kWordEdge, ~kWordEdge, ~kWordEdge + 1}) {
      std::vector<std::uint32_t> words(40, 1u << 31);
      for (std::uint32_t& place : words) {
        place = word;
        const auto of = kernels->race_sum(words.data(), logits.data(), words.size());
        CHECK(of.inaccurate == tokentiming::needs_all_bits(word));
        place = 1u << 31;
      }
    }
    for (std::size_t k = 0; k < n; ++k) {
      const std::size_t next =
          k + kernels->first_reaching(expected.data() + k, logits.data() + k, n - k, 0.0f);
      REQUIRE(next == k + simd::first_candidate_portable(constants, keys.data() + k,
                                                         logits.data() + k, n - k, 0.0f));
      k = next;
    }
  }
}

TEST_CASE("the candidates are those of the highest exact scores") {
  const std::size_t columns = 20'000;
  const auto keys = random_keys(columns);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(2 * columns);
  for (float& logit : logits) logit = normal(random);
  logits[10] = -kInfinity;
  const Rows<const float> rows{logits.data(), 2, columns, std::ptrdiff_t{columns}};
  const std::vector<State> states{{0, 5, 0}, {1, 5, 0}};
  for (const std::size_t count : {1, 4, 16}) {
    Found found(2, count);
    tokentiming::candidates(rows, keys, 42, states, found.out());
    for (std::size_t row = 0; row < 2; ++row) {
      const Noise noise(42, states[row]);
      std::vector<std::pair<double, std::int64_t>> scores;  // negative, so that they sort by id
      double total = 0.0;
      for (std::size_t v = 0; v < columns; ++v) {
        const double score = double{rows[row][v]} - noise.log_exponential(keys[v]);
        scores.emplace_back(-score, v);
        total += std::exp(score);
      }
      std::ranges::sort(scores);
      for (std::size_t k = 0; k < count; ++k) {
        CHECK(found.ids[row * count + k] == scores[k].second);
        const double share = std::exp(-scores[k].first) / total;
        CHECK(std::abs(static_cast<double>(found.shares[row * count + k]) / share - 1.0) < 1e-4);
      }
    }
  }
}

TEST_CASE("a word that needs all bits has the share of its exact noise") {
  const State state{0, 0, 0};
  const Noise noise(0, state);
  std::vector<std::uint64_t> keys;
  for (std::uint64_t key = 0; keys.size() < 8; ++key) {
    const auto word = static_cast<std::uint32_t>(noise.bits(key) >> 32);
    if (tokentiming::needs_all_bits(word)) keys.push_back(key);
  }
  const std::vector<double> zeros(keys.size());
  std::vector<std::pair<double, std::size_t>> weights;
  double total = 0.0;
  for (std::size_t k = 0; k < keys.size(); ++k) {
    weights.emplace_back(std::exp(-noise.log_exponential(keys[k])), k);
    total += weights.back().first;
  }
  std::ranges::sort(weights, std::greater<>());
  Found found(1, keys.size());
  const Rows<const double> rows{zeros.data(), 1, keys.size(), 8};
  tokentiming::candidates(rows, keys, 0, {&state, 1}, found.out());
  for (std::size_t k = 0; k < keys.size(); ++k) {
    CHECK(found.ids[k] == static_cast<std::int64_t>(weights[k].second));
    const double share = weights[k].first / total;
    CHECK(std::abs(static_cast<double>(found.shares[k]) / share - 1.0) < 1e-6);
  }
}

TEST_CASE("candidates: errors name the argument and write no output") {
  const auto keys = random_keys(3);
  const std::vector<State> states{{0, 0, 0}, {0, 1, 0}};
  Found found(2, 2);
  const Found untouched = found;
  std::vector<double> logits{0, 0, 0, 0, std::numeric_limits<double>::quiet_NaN(), 0};
  const Rows<const double> rows{logits.data(), 2, 3, 3};
  const auto call = [&](const Candidates& out) {
    tokentiming::candidates(rows, keys, 0, states, out);
  };
  CHECK_THROWS_WITH(call(found.out()), "candidates: logits[1] holds NaN or +inf");
  std::fill(logits.begin() + 3, logits.end(), -std::numeric_limits<double>::infinity());
  CHECK_THROWS_WITH(call(found.out()), "candidates: logits[1] has no finite entry to draw");
  logits[3] = 0;
  Candidates out = found.out();
  out.shares.rows = 1;
  CHECK_THROWS_WITH(call(out), "candidates: out.shares has shape [1, 2], out.ids has shape [2, 2]");
  out = found.out();
  out.ids.columns = 17;
  CHECK_THROWS_WITH(call(out), "candidates: count is 17; it must be in [1, 16]");
  CHECK(found.ids == untouched.ids);
  CHECK(found.shares == untouched.shares);
  call(found.out());
  CHECK(found.ids[2] == 0);
  CHECK(found.shares[2] == doctest::Approx(1.0).epsilon(1e-6));
  CHECK(found.ids[3] == -1);
  CHECK(found.shares[3] == 0.0f);
}
