// Every barrier of the kernels is needed: without it some order of the threads gives another
// result.

#include <doctest/doctest.h>

#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulation.h"
#include "memory.h"
#include "numbers.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

// A kernel without one of its barriers may go astray anywhere, which AddressSanitizer would end.
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
    in_every_order([&] {
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
    const OnGpu device_keys(keys);
    std::vector<State> states(20);
    for (std::size_t r = 0; r < 20; ++r) states[r].row = static_cast<std::int64_t>(r);
    const OnGpu device_states(states);
    const OnGpu ids(std::vector<std::int64_t>(20, -7));
    const OnGpu workspace(rubbish(cuda::sample_workspace(20, 5000)));
    cuda::sample<float>(logits.here(), device_keys.span(), 3, device_states.span(), ids.span(),
                        workspace.span(), {});
    return ids.read();
  });
}

namespace {

std::vector<std::int32_t> verified(double temperature, float uniform) {
  constexpr std::size_t kColumns = 9000;
  const auto targets = random_rows(6, kColumns, 2);
  const auto proposals = random_rows(4, kColumns, 3);
  const std::vector<std::int64_t> ids{5, 6, 7, 8};
  const std::vector<float> uniforms{0.0f, 0.0f, 0.6f, 0.0f, uniform, 0.2f};
  const OnGpu tokens(std::vector<std::int32_t>(6, -7));
  const OnGpu accepted(std::vector<std::int32_t>(2, -7));
  const OnGpu workspace(rubbish(cuda::verify_workspace(2)));
  const Chains<std::int64_t> chains{{ids, {}},
                                    Laws{proposals.here(), Statement::kLogits},
                                    {targets.here(), Statement::kLogits},
                                    temperature,
                                    std::span<const float>(uniforms)};
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

TEST_CASE("barriers: restrict" * doctest::skip(kSanitized)) {
  const auto logits = random_rows(3, 600, 4);
  std::vector<std::int32_t> offsets(601), draft_ids(600);
  for (std::int32_t t = 0; t < 600; ++t) offsets[static_cast<std::size_t>(t) + 1] = t + 1;
  for (std::int32_t t = 0; t < 600; ++t) draft_ids[static_cast<std::size_t>(t)] = t;
  Matrix<double> rows(3, 600, 0, 600);
  for (std::size_t k = 0; k < rows.memory.size(); ++k) {
    rows.memory[k] = std::abs(static_cast<double>(logits.memory[k]));
  }
  check_each_barrier([&] {
    const OnGpu out(std::vector<double>(1800, -7.0));
    const OnGpu workspace(rubbish(cuda::restrict_workspace(3)));
    cuda::restrict_to_shared<double>(rows.here(), {offsets, draft_ids}, {out.data(), 3, 600, 600},
                                     workspace.span(), {});
    return out.read();
  });
}
