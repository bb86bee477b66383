// Every barrier of the kernels is necessary: without it some schedule gives another result.

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulation/device.h"
#include "memory.h"
#include "numbers.h"
#include "tokentiming/align.h"
#include "tokentiming/candidates.h"
#include "tokentiming/sample.h"
#include "tokentiming/transfer.h"
#include "tokentiming/verify.h"
#include "vocabularies.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

// A kernel without one of its barriers may access any address, and AddressSanitizer would abort.
#ifdef TOKENTIMING_ASAN
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

template <class Run>
void check_each_barrier(const Run& run) {
  emulation::barriers().clear();
  emulation::schedule().order = emulation::Order::kForward;
  emulation::schedule().resident_blocks = 8;
  const auto expected = run();
  const std::set<std::string> barriers = emulation::barriers();
  CHECK_FALSE(barriers.empty());
  for (const std::string& barrier : barriers) {
    CAPTURE(barrier);
    emulation::schedule().dropped = barrier;
    emulation::schedule().fill = std::byte{0};
    int different = 0;
    for_each_schedule([&] {
      try {
        different += run() != expected;
      } catch (const std::runtime_error&) {
        ++different;
      }
    });
    emulation::schedule().dropped.clear();
    emulation::schedule().fill = std::byte{0xCD};
    CHECK(different > 0);
  }
}

Matrix<float> random_rows(std::size_t rows, std::size_t columns, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  Matrix<float> matrix(rows, columns, 0, columns);
  for (float& x : matrix.memory) x = normal(random);
  return matrix;
}

}  // namespace

TEST_CASE("barriers: sample" * doctest::skip(kSanitized)) {
  const auto logits = random_rows(20, 5000, 1);
  std::vector<std::uint64_t> keys(5000);
  std::mt19937_64 random(1);
  for (auto& key : keys) key = random();
  check_each_barrier([&] {
    const DeviceArray device_keys(keys);
    std::vector<State> states(20);
    for (std::size_t r = 0; r < 20; ++r) states[r].row = static_cast<std::int64_t>(r);
    const DeviceArray device_states(states);
    const DeviceArray ids(std::vector<std::int64_t>(20, -7));
    const DeviceArray workspace(garbage_workspace(cuda::sample_workspace(20, 5000)));
    cuda::sample<float>(logits.here(), device_keys.span(), 3, device_states.span(), ids.span(),
                        workspace.span(), {});
    return ids.read();
  });
}

TEST_CASE("barriers: candidates" * doctest::skip(kSanitized)) {
  constexpr std::size_t kCount = 3;
  const auto logits = random_rows(20, 5000, 1);
  std::vector<std::uint64_t> keys(5000);
  std::mt19937_64 random(1);
  for (auto& key : keys) key = random();
  check_each_barrier([&] {
    const DeviceArray device_keys(keys);
    std::vector<State> states(20);
    for (std::size_t r = 0; r < 20; ++r) states[r].row = static_cast<std::int64_t>(r);
    const DeviceArray device_states(states);
    const DeviceArray ids(std::vector<std::int64_t>(20 * kCount, -7));
    const DeviceArray shares(std::vector<float>(20 * kCount, -7.0f));
    const DeviceArray workspace(garbage_workspace(cuda::candidates_workspace(20, 5000, kCount)));
    cuda::candidates<float>(logits.here(), device_keys.span(), 3, device_states.span(),
                            {{ids.data(), 20, kCount, kCount}, {shares.data(), 20, kCount, kCount}},
                            workspace.span(), {});
    return std::pair(ids.read(), shares.read());
  });
}

namespace {

std::vector<std::int32_t> verified(double temperature, float uniform) {
  constexpr std::size_t kColumns = 9000;
  auto targets = random_rows(6, kColumns, 2);
  const auto proposals = random_rows(4, kColumns, 3);
  const std::vector<std::int64_t> ids{5, 6, 7, 8};
  // Rejected only because of a logit that neither the first nor the last warp of a block reads:
  // under some schedule it is read after both have continued.
  targets.at(4, 8) = 5.0f;
  targets.at(4, 7600) = 20.0f;
  const std::vector<float> uniforms{0.0f, 0.0f, 0.6f, 0.0f, uniform, 0.2f};
  const DeviceArray tokens(std::vector<std::int32_t>(6, -7));
  const DeviceArray accepted(std::vector<std::int32_t>(2, -7));
  const Chains<std::int64_t> chains{{ids, {}},
                                    Distributions{proposals.here(), /*is_logits=*/true},
                                    {targets.here(), /*is_logits=*/true},
                                    temperature,
                                    std::span<const float>(uniforms)};
  const DeviceArray workspace(garbage_workspace(cuda::verify_workspace(chains, 2)));
  cuda::verify(chains, {tokens.data(), 2, 3, 3}, accepted.span(), workspace.span(), {});
  return tokens.read();
}

}  // namespace

TEST_CASE("barriers: verify" * doctest::skip(kSanitized)) {
  check_each_barrier([] { return verified(1.0, 0.99f); });
}

TEST_CASE("barriers: verify at temperature 0" * doctest::skip(kSanitized)) {
  check_each_barrier([] { return verified(0.0, 0.5f); });
}

TEST_CASE("barriers: align" * doctest::skip(kSanitized)) {
  std::mt19937 random(5);
  std::vector<std::string> tokens;
  for (std::size_t k = 0; k < 40; ++k) tokens.push_back(random_string(random, 1 + k % 7));
  const Table table(tokens);
  // A pair with more cells than threads, and one with an invalid last token.
  std::vector<std::int64_t> draft(80), target(60);
  for (auto& id : draft) id = random() % 40;
  for (auto& id : target) id = random() % 40;
  target.back() = 40;
  check_each_barrier([&] {
    const DeviceTable device_table(table);
    const DeviceArray draft_ids(draft), target_ids(target);
    const DeviceArray spans(std::vector<std::int32_t>(2 * target.size(), -7));
    const DeviceArray costs(std::vector<std::int64_t>(2, -7));
    cuda::align<std::int64_t>({draft_ids.span(), {}}, {target_ids.span(), {}}, device_table.there(),
                              device_table.there(), 8, spans.span(), costs.span(), {});
    return std::pair(spans.read(), costs.read());
  });
}

namespace {

// A map to 1030 target tokens, more than a block has columns. Every 40th has many draft tokens.
struct Crowd {
  static constexpr std::size_t kTargets = 1030;
  std::vector<std::int32_t> offsets{0}, draft_ids, first;

  Crowd() {
    for (std::size_t t = 0; t < kTargets; ++t) {
      for (int k = 0; k < (t % 40 == 0 ? 100 : 1); ++k) {
        draft_ids.push_back(static_cast<std::int32_t>(first.size()));
        first.push_back(static_cast<std::int32_t>(t));
      }
      offsets.push_back(static_cast<std::int32_t>(first.size()));
    }
  }

  // Without expansion_offsets.
  VocabularyMap map() const {
    return {first, first, {}, first, {offsets, draft_ids}, {offsets, draft_ids}};
  }

  // Rows whose sums are exact.
  Matrix<double> rows(std::size_t count) const {
    Matrix<double> rows(count, first.size(), 0, first.size());
    std::mt19937 random(4);
    for (double& x : rows.memory) x = static_cast<double>(random() % 100);
    return rows;
  }
};

}  // namespace

TEST_CASE("barriers: restrict" * doctest::skip(kSanitized)) {
  const Crowd crowd;
  const auto rows = crowd.rows(2);
  check_each_barrier([&] {
    const DeviceArray out(std::vector<double>(2 * Crowd::kTargets, -7.0));
    const DeviceArray workspace(garbage_workspace(cuda::restrict_workspace(2)));
    cuda::restrict_to_shared<double>(rows.here(), crowd.map(),
                                     {out.data(), 2, Crowd::kTargets, Crowd::kTargets},
                                     workspace.span(), {});
    return out.read();
  });
}

TEST_CASE("barriers: transfer" * doctest::skip(kSanitized)) {
  const Crowd crowd;
  auto rows = crowd.rows(1);
  // The case kWithin, with mass on only one of the last draft tokens of a block.
  std::fill(rows.memory.begin(), rows.memory.end(), 0.0);
  const auto place = std::ranges::find(crowd.first, 1000) - crowd.first.begin();
  rows.memory[static_cast<std::size_t>(place)] = 1.0;
  const std::vector<std::int64_t> ids{0};
  const std::vector<std::int32_t> spans{0, 1};
  std::vector<std::int64_t> starts(crowd.first.size() + 1);
  std::iota(starts.begin(), starts.end(), 0);
  const std::vector<std::uint8_t> bytes(crowd.first.size(), 'a');
  const ByteTable table{bytes, starts};
  const Ragged<std::int64_t> side{ids, {}};
  check_each_barrier([&] {
    const DeviceArray out(std::vector<double>(Crowd::kTargets, -7.0));
    const DeviceArray cases(std::vector<std::int8_t>{-7});
    const DeviceArray workspace(garbage_workspace(cuda::transfer_workspace(1)));
    VocabularyMap map = crowd.map();
    map.expansion_offsets = starts;
    cuda::transfer(rows.here(), side, side, spans, table, table, map,
                   {out.data(), 1, Crowd::kTargets, Crowd::kTargets}, cases.span(),
                   workspace.span(), {});
    auto result = out.read();
    result.push_back(static_cast<double>(cases.read()[0]));
    return result;
  });
}

TEST_CASE("barriers: verify with a map" * doctest::skip(kSanitized)) {
  const Crowd crowd;
  // A token of which the draft is sure and the target is not: the row at its rejection is needed.
  Matrix<float> proposals(1, crowd.first.size(), 0, crowd.first.size());
  for (float& x : proposals.memory) x = 1.0f / static_cast<float>(crowd.first.size());
  // Its row is shorter than the targets', and the token drawn lies in their second tile.
  auto targets = random_rows(2, 9000, 5);
  targets.at(0, 7600) = 8.0f;
  const std::vector<std::int64_t> ids{40}, rows{0};
  std::vector<std::int64_t> starts(crowd.first.size() + 1);
  std::iota(starts.begin(), starts.end(), 0);
  VocabularyMap map = crowd.map();
  map.expansion_offsets = starts;
  const std::vector<float> uniforms{0.9f, 0.8f};
  check_each_barrier([&] {
    const DeviceArray tokens(std::vector<std::int32_t>(2, -7));
    const DeviceArray accepted(std::vector<std::int32_t>(1, -7));
    Chains<std::int64_t> chains{{ids, {}},
                                Distributions{proposals.here(), /*is_logits=*/false},
                                {targets.here(), /*is_logits=*/true},
                                1.0,
                                std::span<const float>(uniforms)};
    chains.draft_rows = rows;
    chains.draft_map = &map;
    const DeviceArray workspace(garbage_workspace(cuda::verify_workspace(chains, 1)));
    cuda::verify(chains, {tokens.data(), 1, 2, 2}, accepted.span(), workspace.span(), {});
    return tokens.read();
  });
}
