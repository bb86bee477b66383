// verify with a map between vocabularies, a pool of rows, and a temperature for each chain.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "memory.h"
#include "numbers.h"
#include "tokentiming/verify.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

// Expansions of draft tokens, many of which begin with target token 0.
struct Expansions {
  std::vector<std::vector<std::int32_t>> of;
  std::vector<std::int32_t> first, ids;
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> inverse_offsets{0}, inverse_ids;

  Expansions(std::mt19937& random, std::size_t size, std::size_t columns) {
    for (std::size_t d = 0; d < size; ++d) {
      std::vector<std::int32_t> expansion;
      const std::size_t length = d % 10 == 0 ? 0 : d % 3 == 0 ? 1 + random() % 3 : 1;
      for (std::size_t k = 0; k < length; ++k) {
        expansion.push_back(static_cast<std::int32_t>(random() % (d % 4 ? columns : 3) % columns));
      }
      if (!expansion.empty() && d % 2) expansion[0] = 0;
      first.push_back(expansion.empty() ? -1 : expansion[0]);
      ids.insert(ids.end(), expansion.begin(), expansion.end());
      offsets.push_back(static_cast<std::int64_t>(ids.size()));
      of.push_back(expansion);
    }
    for (std::size_t t = 0; t < columns; ++t) {
      for (std::size_t d = 0; d < size; ++d) {
        if (first[d] == static_cast<std::int32_t>(t)) {
          inverse_ids.push_back(static_cast<std::int32_t>(d));
        }
      }
      inverse_offsets.push_back(static_cast<std::int32_t>(inverse_ids.size()));
    }
  }
};

struct Outcome {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> accepted;
  bool operator==(const Outcome&) const = default;
};

// The arguments of one call with ragged or even chains.
template <class Target, class Draft>
struct Case {
  std::optional<Expansions> expansions;  // without it the pool has the targets' vocabulary
  Matrix<Target> targets{0, 1, 0, 1};
  Matrix<Draft> pool{0, 1, 0, 1};
  bool draft_is_logits = false;
  std::vector<std::int64_t> ids, draft_rows;
  std::vector<std::int64_t> offsets{0};
  std::vector<float> uniforms, temperatures;

  std::size_t batch() const { return offsets.size() - 1; }
  std::size_t width() const { return ids.size() + 1; }

  Chains<std::int64_t> chains(const Rows<const Target>& target, const Rows<const Draft>& draft,
                              const VocabularyMap* map) const {
    Chains<std::int64_t> made{
        {{}, {}}, Distributions{draft, draft_is_logits}, {target, true}, 1.0, {}};
    if (expansions) made.draft_map = map;
    return made;
  }

  Outcome on_cpu() const {
    Outcome out{std::vector<std::int32_t>(batch() * width(), -7),
                std::vector<std::int32_t>(batch(), -7)};
    VocabularyMap map;
    if (expansions) map = {{}, expansions->first, expansions->offsets, expansions->ids};
    auto made = chains(targets.here(), pool.here(), &map);
    made.draft = {ids, offsets};
    made.draft_rows = draft_rows;
    made.temperatures = temperatures;
    made.uniforms = std::span<const float>(uniforms);
    verify(made, {out.tokens.data(), batch(), width(), static_cast<std::ptrdiff_t>(width())},
           out.accepted);
    return out;
  }

  Outcome on_gpu() const {
    const DeviceArray device_ids(ids), device_rows(draft_rows), device_offsets(offsets);
    const DeviceArray target_memory(targets.memory);
    const DeviceArray pool_memory(pool.memory);
    const DeviceArray device_uniforms(uniforms), device_temperatures(temperatures);
    const DeviceArray tokens(std::vector<std::int32_t>(batch() * width(), -7));
    const DeviceArray accepted(std::vector<std::int32_t>(batch(), -7));
    const auto ints = [&](auto member) {
      return DeviceArray(expansions ? (*expansions).*member : std::vector<std::int32_t>{});
    };
    const DeviceArray first = ints(&Expansions::first), expansion_ids = ints(&Expansions::ids);
    const DeviceArray inverse_offsets = ints(&Expansions::inverse_offsets);
    const DeviceArray inverse_ids = ints(&Expansions::inverse_ids);
    const DeviceArray starts(expansions ? expansions->offsets : std::vector<std::int64_t>{});
    const VocabularyMap map{{},
                            first.span(),
                            starts.span(),
                            expansion_ids.span(),
                            {},
                            {inverse_offsets.span(), inverse_ids.span()}};
    auto made = chains(targets.in(target_memory.data()), pool.in(pool_memory.data()), &map);
    made.draft = {device_ids.span(), device_offsets.span()};
    made.draft_rows = device_rows.span();
    made.temperatures = device_temperatures.span();
    made.uniforms = std::span<const float>(device_uniforms.span());
    const DeviceArray workspace(garbage_workspace(cuda::verify_workspace(made, batch())));
    cuda::verify(made, {tokens.data(), batch(), width(), static_cast<std::ptrdiff_t>(width())},
                 accepted.span(), workspace.span(), {});
    return {tokens.read(), accepted.read()};
  }
};

template <class Target, class Draft>
Case<Target, Draft> random_case(std::mt19937& random, bool mapped) {
  Case<Target, Draft> one;
  const std::size_t columns = 4 + random() % (random() % 2 ? 60 : 5000);
  const std::size_t size = mapped ? 250 + random() % 200 : columns;
  if (mapped) one.expansions.emplace(random, size, columns);
  one.draft_is_logits = random() % 2;
  const std::size_t batch = random() % 5;
  const std::size_t rows = 1 + random() % 8;
  one.pool = random_matrix<Draft>(random, rows, size + (mapped ? random() % 4 : 0));
  std::normal_distribution<double> normal;
  for (std::size_t r = 0; r < rows; ++r) {
    std::vector<double> row(one.pool.columns);
    double sum = 0.0;
    for (double& x : row) sum += std::exp(x = 2.0 * normal(random));
    // Columns beyond the map pad the draft's head, and are not read.
    for (std::size_t d = size; d < row.size(); ++d) {
      sum -= std::exp(row[d]);
      row[d] = std::nan("");
    }
    for (std::size_t d = 0; d < row.size(); ++d) {
      one.pool.at(r, d) = narrow<Draft>(one.draft_is_logits ? row[d] : std::exp(row[d]) / sum);
    }
  }
  for (std::size_t b = 0; b < batch; ++b) {
    const std::size_t drafted = random() % 4;
    for (std::size_t k = 0; k < drafted; ++k) {
      // Each draft token has a row of its own, unlike that of the one before.
      const auto row = static_cast<std::int64_t>((b + k) % rows);
      if (rows == 1 && k > 0) break;
      const std::size_t d = random() % size;
      if (!mapped) {
        one.ids.push_back(static_cast<std::int64_t>(d));
        one.draft_rows.push_back(row);
      } else if (one.expansions->of[d].empty()) {
        one.ids.push_back(-1);
        one.draft_rows.push_back(row);
        break;
      } else {
        for (const std::int32_t t : one.expansions->of[d]) {
          one.ids.push_back(t);
          one.draft_rows.push_back(row);
        }
      }
    }
    one.offsets.push_back(static_cast<std::int64_t>(one.ids.size()));
    one.temperatures.push_back(b % 3 == 0 ? 0.0f : 0.5f + static_cast<float>(random() % 3));
  }
  one.targets = random_matrix<Target>(random, one.ids.size() + batch, columns);
  for (std::size_t r = 0; r < one.targets.rows; ++r) {
    for (std::size_t v = 0; v < columns; ++v) {
      one.targets.at(r, v) = narrow<Target>(normal(random));
    }
  }
  // The proposed tokens are likely, so that some are accepted.
  for (std::size_t b = 0; b < batch; ++b) {
    for (std::int64_t t = one.offsets[b]; t < one.offsets[b + 1]; ++t) {
      const auto id = one.ids[static_cast<std::size_t>(t)];
      if (id < 0 || random() % 4 == 0) continue;
      one.targets.at(static_cast<std::size_t>(t) + b, static_cast<std::size_t>(id)) =
          narrow<Target>(6.0);
    }
  }
  std::uniform_real_distribution<double> uniform;
  for (std::size_t k = 0; k < one.ids.size() + batch; ++k) {
    one.uniforms.push_back(static_cast<float>(0.999 * uniform(random)));
  }
  return one;
}

struct Count {
  int chains = 0;
  int equal = 0;
  int accepted = 0;
  int rejected = 0;
};

template <class Target, class Draft>
void compare_random(std::mt19937& random, Count& count, bool mapped, int repeats) {
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto one = random_case<Target, Draft>(random, mapped);
    const Outcome expected = one.on_cpu();
    for_each_schedule([&] {
      const Outcome found = one.on_gpu();
      for (std::size_t b = 0; b < one.batch(); ++b) {
        const auto tokens = [&](const Outcome& outcome) {
          const auto begin = outcome.tokens.begin() + static_cast<std::ptrdiff_t>(b * one.width());
          return std::vector(begin, begin + static_cast<std::ptrdiff_t>(one.width()));
        };
        const bool equal =
            found.accepted[b] == expected.accepted[b] && tokens(found) == tokens(expected);
        if (one.temperatures[b] == 0.0f) REQUIRE(equal);
        REQUIRE(found.accepted[b] >= 0);
        count.chains += 1;
        count.equal += equal;
        count.accepted += found.accepted[b] > 0;
        count.rejected += found.accepted[b] < one.offsets[b + 1] - one.offsets[b];
      }
    });
  }
}

}  // namespace

TEST_CASE("verify: the draft's rows through a map, and a pool of rows, as on the CPU") {
  std::mt19937 random(3);
  for (const bool mapped : {true, false}) {
    CAPTURE(mapped);
    Count count;
    compare_random<float, float>(random, count, mapped, 14);
    compare_random<BFloat16, float>(random, count, mapped, 8);
    compare_random<Half, BFloat16>(random, count, mapped, 8);
    MESSAGE(count.equal << " of " << count.chains << " chains as on the CPU, " << count.accepted
                        << " with accepted tokens, " << count.rejected << " rejected");
    CHECK(count.equal >= 0.97 * count.chains);
    CHECK(count.accepted >= 0.15 * count.chains);
    CHECK(count.rejected >= 0.05 * count.chains);
  }
}

TEST_CASE("verify: what the map and the pool of rows hold is checked on the device") {
  std::mt19937 random(4);
  auto valid = random_case<float, float>(random, true);
  while (valid.batch() < 3 || valid.draft_is_logits || valid.offsets[2] < valid.offsets[1] + 2 ||
         valid.ids[static_cast<std::size_t>(valid.offsets[1])] < 0) {
    valid = random_case<float, float>(random, true);
  }
  const auto begin = static_cast<std::size_t>(valid.offsets[1]);
  valid.temperatures.assign(valid.batch(), 1.0f);
  valid.uniforms[begin + 1] = 0.999f;
  const auto check = [&](const char* what, const auto& break_it) {
    CAPTURE(what);
    auto one = valid;
    break_it(one);
    for_each_schedule([&] { CHECK(one.on_gpu().accepted[1] == -1); });
  };
  check("a row", [&](auto& one) { one.draft_rows[begin] = 99; });
  check("a negative row", [&](auto& one) { one.draft_rows[begin] = -1; });
  // A later token of the row is read by other blocks, which may run first.
  for (const std::int64_t id : {std::int64_t{-1} << 30, (std::int64_t{1} << 31) - 1}) {
    check("a token that another of its row follows", [&](auto& one) {
      one.ids[begin] = id;
      one.draft_rows[begin + 1] = one.draft_rows[begin];
    });
  }
  check("a temperature", [](auto& one) { one.temperatures[1] = -1.0f; });
  check("a temperature that is NaN", [](auto& one) { one.temperatures[1] = NAN; });
  check("a negative probability", [&](auto& one) {
    const auto row = static_cast<std::size_t>(one.draft_rows[begin]);
    for (std::size_t d = 0; d < one.pool.columns; ++d) one.pool.at(row, d) = -1.0f;
  });
  check("a draft token of the inverse", [&](auto& one) {
    for (auto& d : one.expansions->inverse_ids) d = 100000;
  });
  check("an offset of the inverse", [&](auto& one) {
    for (auto& offset : one.expansions->inverse_offsets) offset = -1;
  });
}
