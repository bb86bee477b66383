#include "tokentiming/verify.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "memory.h"
#include "numbers.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

// The tolerance within which CPU and GPU may decide differently.
constexpr double kTolerance = 1e-5;

// Values of Distributions::is_logits.
constexpr bool kLogits = true;
constexpr bool kProbs = false;

struct Outcome {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> accepted;
};

// The arguments of one call, for any types of rows.
template <class Target, class Draft, class Uniform, class Id>
struct Case {
  std::vector<Id> ids;
  std::vector<std::int64_t> offsets;
  bool padded;
  Matrix<Target> targets;
  std::optional<Matrix<Draft>> proposals;
  bool target_is_logits;
  bool draft_is_logits;
  double temperature;
  std::vector<Uniform> uniforms;
  std::size_t width;

  std::size_t batch() const { return offsets.size() - 1; }

  Outcome on_cpu() const {
    Outcome out{std::vector<std::int32_t>(batch() * width, -7),
                std::vector<std::int32_t>(batch(), -7)};
    Chains<Id> chains{{ids, offsets},
                      std::nullopt,
                      {targets.here(), target_is_logits},
                      temperature,
                      std::span<const Uniform>(uniforms)};
    if (proposals) chains.proposals = {proposals->here(), draft_is_logits};
    verify(chains, {out.tokens.data(), batch(), width, static_cast<std::ptrdiff_t>(width)},
           out.accepted);
    return out;
  }

  Outcome on_gpu() const {
    const DeviceArray device_ids(ids);
    const DeviceArray device_offsets(offsets);
    const DeviceArray target_memory(targets.memory);
    const DeviceArray draft_memory(proposals ? proposals->memory : std::vector<Draft>{});
    const DeviceArray device_uniforms(uniforms);
    const DeviceArray tokens(std::vector<std::int32_t>(batch() * width, -7));
    const DeviceArray accepted(std::vector<std::int32_t>(batch(), -7));
    Chains<Id> chains{{device_ids.span(), {}},
                      std::nullopt,
                      {targets.in(target_memory.data()), target_is_logits},
                      temperature,
                      std::span<const Uniform>(device_uniforms.span())};
    if (!padded) chains.draft.offsets = device_offsets.span();
    if (proposals) chains.proposals = {proposals->in(draft_memory.data()), draft_is_logits};
    const DeviceArray workspace(garbage_workspace(cuda::verify_workspace(chains, batch())));
    cuda::verify(chains, {tokens.data(), batch(), width, static_cast<std::ptrdiff_t>(width)},
                 accepted.span(), workspace.span(), {});
    return {tokens.read(), accepted.read()};
  }

  // ---- the rule, written plainly in double ----

  template <class Number>
  std::vector<double> distribution(const Matrix<Number>& rows, std::size_t row,
                                   bool is_logits) const {
    std::vector<double> p(rows.columns);
    for (std::size_t v = 0; v < p.size(); ++v) p[v] = rows.value(row, v);
    if (!is_logits) return p;
    const double greatest = *std::ranges::max_element(p);
    for (double& x : p) x = std::exp((x - greatest) / temperature);
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& x : p) x /= sum;
    return p;
  }

  // Checks the outcome of chain b against the rule, up to the tolerance.
  void check_chain(std::size_t b, const Outcome& found) const {
    const auto begin = static_cast<std::size_t>(offsets[b]);
    const auto length = static_cast<std::size_t>(offsets[b + 1]) - begin;
    const auto count = static_cast<std::size_t>(found.accepted[b]);
    REQUIRE(count <= length);
    for (std::size_t i = 0; i <= count && i < length; ++i) {
      const auto id = static_cast<std::int64_t>(ids[begin + i]);
      const auto p = distribution(targets, begin + i + b, target_is_logits);
      const double u = uniforms[begin + i + b];
      double q_id = 1.0;
      if (proposals && id >= 0) {
        q_id = distribution(*proposals, begin + i, draft_is_logits)[static_cast<std::size_t>(id)];
      }
      const double p_id = id < 0 ? 0.0 : p[static_cast<std::size_t>(id)];
      if (i < count) REQUIRE(u * q_id <= p_id * (1 + kTolerance) + 1e-30);
      if (i == count) REQUIRE(u * q_id >= p_id * (1 - kTolerance) - 1e-30);
    }
    auto weights = distribution(targets, begin + count + b, target_is_logits);
    if (count < length) {
      if (proposals) {
        const auto q = distribution(*proposals, begin + count, draft_is_logits);
        for (std::size_t v = 0; v < weights.size(); ++v) {
          weights[v] = std::max(weights[v] - q[v], 0.0);
        }
      } else {
        weights[static_cast<std::size_t>(ids[begin + count])] = 0.0;
      }
    }
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    if (total < kTolerance) return;  // rounding may leave no mass: then the token is drawn from p
    const auto token = static_cast<std::size_t>(found.tokens[b * width + count]);
    REQUIRE(token < weights.size());
    const double before =
        std::accumulate(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(token), 0.0);
    const double index = static_cast<double>(uniforms[begin + length + b]) * total;
    REQUIRE(index >= before - kTolerance);
    REQUIRE(index <= before + weights[token] + kTolerance);
  }
};

struct Count {
  int chains = 0;
  int equal = 0;
  int accepted = 0;
  int rejected = 0;
};

template <class C>
void compare(const C& one, Count& count) {
  const Outcome expected = one.on_cpu();
  for_each_schedule([&] {
    const Outcome found = one.on_gpu();
    for (std::size_t b = 0; b < one.batch(); ++b) {
      const auto row = [&](const Outcome& outcome) {
        const auto first = outcome.tokens.begin() + static_cast<std::ptrdiff_t>(b * one.width);
        return std::vector<std::int32_t>(first, first + static_cast<std::ptrdiff_t>(one.width));
      };
      const bool equal = found.accepted[b] == expected.accepted[b] && row(found) == row(expected);
      if (one.temperature == 0.0) {
        REQUIRE(equal);
      } else {
        one.check_chain(b, found);
      }
      count.chains += 1;
      count.equal += equal;
      count.accepted += found.accepted[b] > 0;
      count.rejected += found.accepted[b] < one.offsets[b + 1] - one.offsets[b];
    }
  });
}

template <class Target, class Draft, class Uniform, class Id>
Case<Target, Draft, Uniform, Id> random_case(std::mt19937& random) {
  const std::size_t batch = random() % 5;
  const bool padded = random() % 2;
  const std::size_t longest = random() % 5;
  const std::size_t columns = 1 + (random() % 2 ? random() % 60 : random() % 9000);
  std::vector<std::int64_t> offsets{0};
  for (std::size_t b = 0; b < batch; ++b) {
    const std::size_t length = padded ? longest : random() % (longest + 1);
    offsets.push_back(offsets.back() + static_cast<std::int64_t>(length));
  }
  const auto drafted = static_cast<std::size_t>(offsets.back());
  Case<Target, Draft, Uniform, Id> one{
      std::vector<Id>(drafted),
      offsets,
      padded,
      random_matrix<Target>(random, drafted + batch, columns),
      std::nullopt,
      std::is_same_v<Target, float> && random() % 2 ? kProbs : kLogits,
      std::is_same_v<Draft, float> && random() % 2 ? kProbs : kLogits,
      1.0,
      std::vector<Uniform>(drafted + batch),
      longest + 1 + random() % 2};
  if (random() % 4) one.proposals.emplace(random_matrix<Draft>(random, drafted, columns));
  if (one.target_is_logits && random() % 2) {
    one.temperature = random() % 3 ? 0.6 : 0.0;
  }
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  for (auto& u : one.uniforms) u = static_cast<Uniform>(0.999 * uniform(random));
  // For each proposal a target that is the proposal plus noise.
  for (std::size_t b = 0; b < batch; ++b) {
    const auto begin = static_cast<std::size_t>(offsets[b]);
    const auto end = static_cast<std::size_t>(offsets[b + 1]);
    for (std::size_t t = begin; t <= end; ++t) {
      std::vector<double> p(columns), q(columns);
      for (std::size_t v = 0; v < columns; ++v) {
        q[v] = 2.0 * normal(random);
        p[v] = q[v] + 1.5 * normal(random);
        if (random() % 20 == 0) p[v] = -INFINITY;
        if (random() % 20 == 0) q[v] = -INFINITY;
      }
      p[0] = q[0] = 0.5;
      const auto state = [&](std::vector<double>& row, bool is_logits, double mass) {
        if (is_logits) return;
        for (double& x : row) x = std::exp(x);
        const double sum = std::accumulate(row.begin(), row.end(), 0.0);
        for (double& x : row) x *= mass / sum;
      };
      state(p, one.target_is_logits, 1.0);
      state(q, one.draft_is_logits, 0.9);
      for (std::size_t v = 0; v < columns; ++v) one.targets.at(t + b, v) = narrow<Target>(p[v]);
      if (t == end) continue;
      if (one.proposals) {
        for (std::size_t v = 0; v < columns; ++v) one.proposals->at(t, v) = narrow<Draft>(q[v]);
      }
      // Mostly likely tokens, so that some are accepted.
      std::size_t id = random() % columns;
      for (int tries = 0; tries < 6; ++tries) {
        const std::size_t other = random() % columns;
        if (p[other] > p[id]) id = other;
      }
      if (one.temperature == 0.0 && random() % 4) {
        id = static_cast<std::size_t>(std::ranges::max_element(p) - p.begin());
      }
      one.ids[t] = static_cast<Id>(id);
      const bool may_miss = one.proposals && one.draft_is_logits == kProbs;
      if (may_miss && random() % 10 == 0) one.ids[t] = -1;
    }
  }
  return one;
}

template <class Target, class Draft, class Uniform = float, class Id = std::int64_t>
void compare_random(std::mt19937& random, Count& count, int repeats) {
  for (int repeat = 0; repeat < repeats; ++repeat) {
    compare(random_case<Target, Draft, Uniform, Id>(random), count);
  }
}

}  // namespace

TEST_CASE("verify: follows the rule, and nearly always emits the CPU's tokens") {
  std::mt19937 random(5);
  Count count;
  compare_random<float, float>(random, count, 12);
  compare_random<BFloat16, BFloat16, double, std::int32_t>(random, count, 6);
  compare_random<Half, float, float, std::int32_t>(random, count, 6);
  compare_random<float, BFloat16, double>(random, count, 6);
  MESSAGE(count.equal << " of " << count.chains << " chains as on the CPU, " << count.accepted
                      << " with accepted tokens, " << count.rejected << " rejected");
  CHECK(count.equal >= 0.95 * count.chains);
  CHECK(count.accepted >= 0.15 * count.chains);
  CHECK(count.rejected >= 0.2 * count.chains);
}

TEST_CASE("verify: one chain over a large vocabulary, by many blocks") {
  constexpr std::size_t kColumns = 151936;
  std::mt19937 random(6);
  std::normal_distribution<double> normal(0.0, 2.0);
  Case<BFloat16, BFloat16, float, std::int64_t> one{{7, 140000},
                                                    {0, 2},
                                                    true,
                                                    {3, kColumns, 0, kColumns},
                                                    Matrix<BFloat16>(2, kColumns, 0, kColumns),
                                                    kLogits,
                                                    kLogits,
                                                    1.0,
                                                    {0.5f, 0.9f, 0.7f},
                                                    3};
  for (auto& x : one.targets.memory) x = narrow<BFloat16>(normal(random));
  for (auto& x : one.proposals->memory) x = narrow<BFloat16>(normal(random));
  one.targets.at(0, 7) = narrow<BFloat16>(9.0);  // accepted
  one.targets.at(1, 140000) = narrow<BFloat16>(-9.0);
#if defined(TOKENTIMING_EMULATED) && !defined(TOKENTIMING_ASAN)
  // More blocks than a warp has lanes, so that a lane reduces the partial results of several.
  emulation::schedule().order = emulation::Order::kForward;
  emulation::schedule().resident_blocks = 40;
#endif
  const Outcome found = one.on_gpu();
  CHECK(found.accepted[0] == 1);
  one.check_chain(0, found);
}

namespace {

// Two chains over an odd vocabulary, whose rows begin at every alignment.
template <class Number>
void compare_odd_vocabulary(std::mt19937& random, double temperature) {
  constexpr std::size_t kColumns = 50257;
  std::normal_distribution<double> normal(0.0, 2.0);
  Case<Number, Number, float, std::int64_t> one{{7, 50256, 3, 40000, 9},
                                                {0, 3, 5},
                                                false,
                                                {7, kColumns, 1, kColumns},
                                                Matrix<Number>(5, kColumns, 0, kColumns),
                                                kLogits,
                                                kLogits,
                                                temperature,
                                                {0.5f, 0.5f, 0.5f, 0.7f, 0.5f, 0.9f, 0.3f},
                                                4};
  for (auto& x : one.targets.memory) x = narrow<Number>(normal(random));
  for (auto& x : one.proposals->memory) x = narrow<Number>(normal(random));
  // The first two tokens of the first chain are accepted, among them the last of the vocabulary;
  // its third and the second chain's first are rejected.
  one.targets.at(0, 7) = one.targets.at(1, 50256) = narrow<Number>(20.0);
  one.targets.at(4, 0) = narrow<Number>(20.0);
  one.proposals->at(2, 3) = one.proposals->at(3, 40000) = narrow<Number>(20.0);
  const Outcome expected = one.on_cpu();
  CHECK(expected.accepted == std::vector<std::int32_t>{2, 0});
  const Outcome found = one.on_gpu();
  CHECK(found.accepted == expected.accepted);
  CHECK(found.tokens == expected.tokens);
}

}  // namespace

TEST_CASE("verify: an odd vocabulary, whose rows begin anywhere") {
  std::mt19937 random(9);
  for (const double temperature : {0.0, 1.0}) {
    CAPTURE(temperature);
    compare_odd_vocabulary<BFloat16>(random, temperature);
    compare_odd_vocabulary<Half>(random, temperature);
    compare_odd_vocabulary<float>(random, temperature);
  }
}

namespace {

// Three valid chains of two tokens.
Case<float, float, float, std::int64_t> valid_case() {
  Case<float, float, float, std::int64_t> one{{1, 2, 1, 2, 1, 2},
                                              {0, 2, 4, 6},
                                              false,
                                              {9, 5, 0, 5},
                                              Matrix<float>(6, 5, 0, 5),
                                              kLogits,
                                              kProbs,
                                              1.0,
                                              std::vector<float>(9, 0.3f),
                                              3};
  for (float& x : one.targets.memory) x = 1.0f;
  for (float& x : one.proposals->memory) x = 0.2f;
  return one;
}

}  // namespace

TEST_CASE("verify: an invalid chain is marked, the others are verified") {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const auto valid = valid_case();
  const Outcome expected = valid.on_cpu();
  const auto check = [&](const char* what, const auto& break_it) {
    CAPTURE(what);
    auto one = valid;
    break_it(one);
    for_each_schedule([&] {
      const Outcome found = one.on_gpu();
      CHECK(found.accepted ==
            std::vector<std::int32_t>{expected.accepted[0], -1, expected.accepted[2]});
      for (std::size_t k = 0; k < 9; ++k) {
        CHECK(found.tokens[k] == (k / 3 == 1 ? -1 : expected.tokens[k]));
      }
    });
  };
  check("an id", [](auto& one) { one.ids[2] = 5; });
  check("missing mass of logits", [](auto& one) {
    one.ids[3] = -1;
    one.draft_is_logits = kLogits;
  });
  check("a uniform", [](auto& one) { one.uniforms[4] = 1.0f; });
  check("the last uniform", [](auto& one) { one.uniforms[5] = kNaN; });
  check("NaN in logits", [](auto& one) { one.targets.at(4, 3) = kNaN; });
  check("+inf in logits", [](auto& one) { one.targets.at(4, 0) = INFINITY; });
  check("no finite logit", [](auto& one) {
    for (std::size_t v = 0; v < 5; ++v) one.targets.at(4, v) = -INFINITY;
  });
  check("a negative probability", [](auto& one) { one.proposals->at(2, 1) = -0.1f; });
  check("NaN in a difference", [](auto& one) {
    one.ids[2] = -1;
    one.proposals->at(2, 4) = kNaN;
  });
}

#ifdef TOKENTIMING_EMULATED
TEST_CASE("verify: threads that round differently from thread 0 follow its decision") {
  // A token of probability 1/2 and uniforms so close to it that rounding decides. With one block
  // and with several.
  for (const std::size_t columns : {300, 5000}) {
    CAPTURE(columns);
    Case<float, float, float, std::int64_t> one{
        {3}, {0, 1},       true, {2, columns, 0, columns}, std::nullopt, kLogits, kLogits,
        1.0, {0.5f, 0.3f}, 2};
    std::mt19937 random(8);
    std::normal_distribution<float> normal;
    for (float& x : one.targets.memory) x = normal(random);
    double others = 0.0;
    for (std::size_t v = 0; v < columns; ++v) {
      if (v != 3) others += std::exp(one.targets.value(0, v));
    }
    one.targets.at(0, 3) = static_cast<float>(std::log(others));
    emulation::schedule().inexact_exp2 = true;
    for (int step = -20; step <= 20; ++step) {
      CAPTURE(step);
      one.uniforms[0] = 0.5f + 1e-4f * static_cast<float>(step);
      for_each_schedule([&] {
        Outcome found;
        CHECK_NOTHROW(found = one.on_gpu());
        if (found.accepted.empty()) return;
        const auto accepted = static_cast<std::size_t>(found.accepted[0]);
        REQUIRE(accepted <= 1);
        CHECK((found.tokens[0] == 3) == (accepted == 1));
        CHECK(found.tokens[accepted] >= 0);
      });
    }
    emulation::schedule().inexact_exp2 = false;
  }
}
#endif

TEST_CASE("verify: nothing after a rejection is read") {
  auto one = valid_case();
  one.uniforms = std::vector<float>(9, 0.9f);
  for (std::size_t b = 0; b < 3; ++b) {
    one.targets.at(3 * b, 1) = -50.0f;
    for (std::size_t v = 0; v < 5; ++v) one.targets.at(3 * b + 1, v) = NAN;
  }
  one.ids[1] = 77;
  for_each_schedule([&] { CHECK(one.on_gpu().accepted == std::vector<std::int32_t>{0, 0, 0}); });
}

TEST_CASE("verify: invalid offsets are detected on the device") {
  auto one = valid_case();
  one.offsets = {0, 7, 4, 6};
  for_each_schedule([&] {
    const auto accepted = one.on_gpu().accepted;
    CHECK(accepted[0] == -1);
    CHECK(accepted[1] == -1);
    CHECK(accepted[2] >= 0);
  });
  one.offsets = {0, 2, 4, 6};
  one.width = 2;  // too narrow for a chain of two tokens and one more
  for_each_schedule([&] { CHECK(one.on_gpu().accepted == std::vector<std::int32_t>{-1, -1, -1}); });
}

TEST_CASE("verify: what the host can check throws") {
  Case<float, float, float, std::int64_t> one = valid_case();
  one.padded = true;
  one.width = 2;
  CHECK_THROWS_WITH(one.on_gpu(), "verify: out.tokens must be [3, 3], got [3, 2]");
  one.width = 3;
  one.temperature = -1;
  CHECK_THROWS_AS(one.on_gpu(), std::invalid_argument);
  Case<double, float, float, std::int64_t> wide{{},      {0, 0},  true, {1, 5, 0, 5}, std::nullopt,
                                                kLogits, kLogits, 1.0,  {0.5f},       1};
  CHECK_THROWS_WITH(wide.on_gpu(), doctest::Contains("target_logits are float64"));
}
