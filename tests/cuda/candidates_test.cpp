#include "tokentiming/candidates.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "memory.h"
#include "numbers.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

struct Found {
  std::vector<std::int64_t> ids;
  std::vector<float> shares;
};

template <class Logit>
Found on_gpu(const Matrix<Logit>& logits, const std::vector<std::uint64_t>& keys,
             std::uint64_t seed, const std::vector<State>& states, std::size_t count) {
  const DeviceArray memory(logits.memory);
  const DeviceArray device_keys(keys);
  const DeviceArray device_states(states);
  const DeviceArray ids(std::vector<std::int64_t>(logits.rows * count, -7));
  const DeviceArray shares(std::vector<float>(logits.rows * count, -7.0f));
  const DeviceArray workspace(
      garbage_workspace(cuda::candidates_workspace(logits.rows, keys.size(), count)));
  const auto stride = static_cast<std::ptrdiff_t>(count);
  cuda::candidates<Logit>(
      logits.in(memory.data()), device_keys.span(), seed, device_states.span(),
      {{ids.data(), logits.rows, count, stride}, {shares.data(), logits.rows, count, stride}},
      workspace.span(), {});
  return {ids.read(), shares.read()};
}

template <class Logit>
Found on_cpu(const Matrix<Logit>& logits, const std::vector<std::uint64_t>& keys,
             std::uint64_t seed, const std::vector<State>& states, std::size_t count) {
  Found found{std::vector<std::int64_t>(logits.rows * count),
              std::vector<float>(logits.rows * count)};
  const auto stride = static_cast<std::ptrdiff_t>(count);
  candidates<Logit>(logits.here(), keys, seed, states,
                    {{found.ids.data(), logits.rows, count, stride},
                     {found.shares.data(), logits.rows, count, stride}});
  return found;
}

void require_same(const Found& found, const Found& expected) {
  REQUIRE(found.ids == expected.ids);
  for (std::size_t k = 0; k < found.shares.size(); ++k) {
    const float share = expected.shares[k];
    REQUIRE(std::abs(found.shares[k] - share) <= 1e-4f * share + 1e-30f);
  }
}

template <class Logit>
void compare(std::mt19937& random) {
  const std::size_t rows = random() % 12;
  const std::size_t columns = 1 + (random() % 2 ? random() % 40 : random() % 9000);
  const std::size_t count = 1 + random() % kMaxCandidates;
  auto logits = random_matrix<Logit>(random, rows, columns);
  std::normal_distribution<double> normal(0.0, random() % 2 ? 3.0 : 0.1);
  for (std::size_t r = 0; r < rows; ++r) {
    const unsigned finite = r % 3 == 0 ? 1 : 15;  // of 16: some rows have few finite logits
    for (std::size_t v = 0; v < columns; ++v) {
      logits.at(r, v) = narrow<Logit>(random() % 16 < finite ? normal(random) : -INFINITY);
    }
    logits.at(r, 0) = narrow<Logit>(0.0);
  }
  std::vector<std::uint64_t> keys(1 + random() % columns);
  for (auto& key : keys) key = std::uint64_t{random()} << 32 | random();
  // Equal keys and logits: of a tie the lower id comes first.
  for (std::size_t v = keys.size() / 2; v + 1 < keys.size(); ++v) {
    keys[v + 1] = keys[0];
    for (std::size_t r = 0; r < rows; ++r) logits.at(r, v + 1) = logits.at(r, 0);
  }
  std::vector<State> states;
  for (std::size_t r = 0; r < rows; ++r) {
    const std::int64_t row = random() % 5;
    const std::int64_t bytes = random() % 3 ? random() % 100 : 0xFFFFFFFF;
    states.push_back({row, bytes, r % 2 ? 1 : 0});
  }
  const std::uint64_t seed = std::uint64_t{random()} << 32 | random();
  const Found expected = on_cpu(logits, keys, seed, states, count);
  for_each_schedule([&] { require_same(on_gpu(logits, keys, seed, states, count), expected); });
}

}  // namespace

TEST_CASE("candidates: ids equal those of the CPU, and shares up to rounding") {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 6; ++repeat) {
    compare<Half>(random);
    compare<BFloat16>(random);
    compare<float>(random);
    compare<double>(random);
  }
}

TEST_CASE("candidates: large logits") {
  constexpr std::size_t kRows = 4;
  constexpr std::size_t kColumns = 1500;
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  std::vector<std::uint64_t> keys(kColumns);
  for (auto& key : keys) key = std::uint64_t{random()} << 32 | random();
  std::vector<State> states(kRows);
  for (std::size_t r = 0; r < kRows; ++r) states[r].row = static_cast<std::int64_t>(r);
  for (const double magnitude : {1e5, 1e7, 1e30, 3e38}) {
    CAPTURE(magnitude);
    Matrix<double> logits(kRows, kColumns, 0, kColumns);
    for (std::size_t r = 0; r < kRows; ++r) {
      const double spread = r < 2 ? 1.0 : 1e-7 * magnitude;
      for (std::size_t v = 0; v < kColumns; ++v) {
        logits.at(r, v) = (r % 2 ? 1 : -1) * magnitude + spread * normal(random);
      }
    }
    const Found expected = on_cpu(logits, keys, 5, states, 5);
    for_each_schedule([&] { require_same(on_gpu(logits, keys, 5, states, 5), expected); });
  }
}

TEST_CASE("candidates: a word that needs all bits has the share of its exact noise") {
  const std::vector<State> states(1);
  const Noise noise(0, states[0]);
  std::vector<std::uint64_t> keys;
  for (std::uint64_t key = 0; keys.size() < 8; ++key) {
    const std::uint64_t upper = noise.bits(key) >> 32;
    if (upper < 1u << 15 || upper >= 0xFFFF8000) keys.push_back(key);
  }
  const Matrix<float> logits(1, keys.size(), 0, keys.size());
  const Found expected = on_cpu(logits, keys, 0, states, 8);
  for_each_schedule([&] { require_same(on_gpu(logits, keys, 0, states, 8), expected); });
}

TEST_CASE("candidates: only a row without a distribution gets -1") {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  constexpr std::size_t kCount = 3;
  std::mt19937 random(2);
  Matrix<double> logits(7, 300, 0, 300);
  for (double& x : logits.memory) x = std::normal_distribution<double>(0.0, 1.0)(random);
  std::vector<std::uint64_t> keys(290);
  for (auto& key : keys) key = random();
  std::vector<State> states(7);
  Found expected = on_cpu(logits, keys, 3, states, kCount);
  logits.at(1, 17) = kNaN;
  logits.at(2, 280) = INFINITY;
  for (std::size_t v = 0; v < 300; ++v) logits.at(3, v) = -INFINITY;
  logits.at(4, 295) = kNaN;  // a column without a key
  states[6].byte_offset = std::int64_t{1} << 32;
  for (std::size_t r : {1, 2, 3, 6}) {
    for (std::size_t k = r * kCount; k < (r + 1) * kCount; ++k) {
      expected.ids[k] = -1;
      expected.shares[k] = 0.0f;
    }
  }
  for_each_schedule([&] {
    const Found found = on_gpu(logits, keys, 3, states, kCount);
    require_same(found, expected);
    for (std::size_t r : {1, 2, 3, 6}) CHECK(found.shares[r * kCount] == 0.0f);
  });
}

TEST_CASE("candidates: wrong sizes throw as on the CPU") {
  const Matrix<float> logits(2, 3, 0, 3);
  CHECK_THROWS_WITH(on_gpu(logits, {1, 2, 3, 4}, 0, {{}, {}}, 1),
                    "candidates: keys has 4 entries, logits only 3 columns");
  CHECK_THROWS_WITH(on_gpu(logits, {1, 2, 3}, 0, {{}, {}}, 17),
                    "candidates: count is 17; it must be in [1, 16]");
}
