#include "tokentiming/sample.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "memory.h"
#include "numbers.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

template <class Logit>
std::vector<std::int64_t> on_gpu(const Matrix<Logit>& logits,
                                 const std::vector<std::uint64_t>& keys, std::uint64_t seed,
                                 const std::vector<State>& states) {
  const DeviceArray memory(logits.memory);
  const DeviceArray device_keys(keys);
  const DeviceArray device_states(states);
  const DeviceArray ids(std::vector<std::int64_t>(logits.rows, -7));
  const DeviceArray workspace(garbage_workspace(cuda::sample_workspace(logits.rows, keys.size())));
  cuda::sample<Logit>(logits.in(memory.data()), device_keys.span(), seed, device_states.span(),
                      ids.span(), workspace.span(), {});
  return ids.read();
}

template <class Logit>
void compare(std::mt19937& random) {
  const std::size_t rows = random() % 12;
  const std::size_t columns = 1 + (random() % 2 ? random() % 40 : random() % 9000);
  auto logits = random_matrix<Logit>(random, rows, columns);
  std::normal_distribution<double> normal(0.0, random() % 2 ? 3.0 : 0.1);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t v = 0; v < columns; ++v) {
      logits.at(r, v) = narrow<Logit>(random() % 16 ? normal(random) : -INFINITY);
    }
    logits.at(r, 0) = narrow<Logit>(0.0);
  }
  std::vector<std::uint64_t> keys(1 + random() % columns);
  for (auto& key : keys) key = std::uint64_t{random()} << 32 | random();
  // Equal keys and logits: the lowest id wins a tie.
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
  std::vector<std::int64_t> expected(rows);
  sample<Logit>(logits.here(), keys, seed, states, expected);
  for_each_schedule([&] { REQUIRE(on_gpu(logits, keys, seed, states) == expected); });
}

}  // namespace

TEST_CASE("sample: ids equal those of the CPU") {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 6; ++repeat) {
    compare<Half>(random);
    compare<BFloat16>(random);
    compare<float>(random);
    compare<double>(random);
  }
}

namespace {

// The token of the highest exact score, of equal scores the lowest id. Scores every token.
std::int64_t highest(const Matrix<float>& logits, std::size_t row,
                     const std::vector<std::uint64_t>& keys, std::uint64_t seed,
                     const State& state) {
  const Noise noise(seed, state);
  double best = -std::numeric_limits<double>::infinity();
  std::int64_t id = -1;
  for (std::size_t v = 0; v < keys.size(); ++v) {
    const double score = logits.value(row, v) - noise.log_exponential(keys[v]);
    if (score > best) best = score, id = static_cast<std::int64_t>(v);
  }
  return id;
}

}  // namespace

TEST_CASE("sample: large logits, where rounding exceeds the margin of the bound") {
  constexpr std::size_t kRows = 16;
  constexpr std::size_t kColumns = 1500;
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  std::vector<std::uint64_t> keys(kColumns);
  for (auto& key : keys) key = std::uint64_t{random()} << 32 | random();
  std::vector<State> states(kRows);
  for (std::size_t r = 0; r < kRows; ++r) states[r].row = static_cast<std::int64_t>(r);
  for (const double magnitude : {1e5, 1e6, 1e7, 1e9, 1e30, 3e38}) {
    CAPTURE(magnitude);
    Matrix<float> logits(kRows, kColumns, 0, kColumns);
    std::vector<std::int64_t> expected(kRows);
    for (std::size_t r = 0; r < kRows; ++r) {
      const double spread = r % 4 < 2 ? 1.0 : 1e-7 * magnitude;  // about a unit in the last place
      for (std::size_t v = 0; v < kColumns; ++v) {
        const double logit = (r % 2 ? 1 : -1) * magnitude + spread * normal(random);
        logits.at(r, v) = static_cast<float>(logit);
      }
      expected[r] = highest(logits, r, keys, 5, states[r]);
    }
    std::vector<std::int64_t> on_cpu(kRows);
    sample<float>(logits.here(), keys, 5, states, on_cpu);
    CHECK(on_cpu == expected);
    for_each_schedule([&] { CHECK(on_gpu(logits, keys, 5, states) == expected); });
  }
}

TEST_CASE("sample: only a row without a distribution gets -1") {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  std::mt19937 random(2);
  Matrix<double> logits(7, 300, 0, 300);
  for (double& x : logits.memory) x = std::normal_distribution<double>(0.0, 1.0)(random);
  std::vector<std::uint64_t> keys(290);
  for (auto& key : keys) key = random();
  std::vector<State> states(7);
  std::vector<std::int64_t> expected(7);
  sample<double>(logits.here(), keys, 3, states, expected);
  logits.at(1, 17) = kNaN;
  logits.at(2, 280) = INFINITY;
  for (std::size_t v = 0; v < 300; ++v) logits.at(3, v) = -INFINITY;
  logits.at(4, 295) = kNaN;  // a column without a key
  logits.at(5, 0) = -1e308;
  states[6].byte_offset = std::int64_t{1} << 32;
  for (std::size_t r : {1, 2, 3, 6}) expected[r] = -1;
  for_each_schedule([&] { CHECK(on_gpu(logits, keys, 3, states) == expected); });
}

TEST_CASE("log_noise: equals that of the CPU, and is NaN for an invalid state") {
  std::mt19937_64 random(3);
  for (const std::size_t count : {0, 1, 2, 300}) {
    std::vector<std::uint64_t> keys(count);
    for (auto& key : keys) key = random();
    std::vector<State> states{{0, 0, 0}, {3, 99, 1}, {1, 0xFFFFFFFF, 2}};
    std::vector<double> expected(count * states.size());
    log_noise(keys, 11, states, expected);
    const auto on_gpu = [&] {
      const DeviceArray device_keys(keys);
      const DeviceArray device_states(states);
      const DeviceArray noise(std::vector<double>(count * states.size(), -7.0));
      cuda::log_noise(device_keys.span(), 11, device_states.span(), noise.span(), {});
      return noise.read();
    };
    for_each_schedule([&] { REQUIRE(on_gpu() == expected); });
    if (count == 0) continue;
    states[1].empty_tokens = -1;
    const auto some = on_gpu();
    for (std::size_t i = 0; i < some.size(); ++i) {
      CHECK((i / count == 1 ? std::isnan(some[i]) : some[i] == expected[i]));
    }
  }
}

TEST_CASE("sample: wrong sizes throw as on the CPU") {
  const Matrix<float> logits(2, 3, 0, 3);
  CHECK_THROWS_WITH(on_gpu(logits, {1, 2, 3, 4}, 0, {{}, {}}),
                    "sample: keys has 4 entries, logits only 3 columns");
  CHECK_THROWS_WITH(on_gpu(logits, {1, 2, 3}, 0, {{}}), "sample: states has 1 rows, logits has 2");
}
