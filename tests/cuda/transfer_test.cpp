#include "tokentiming/transfer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.h"
#include "numbers.h"
#include "vocabularies.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

// The draft tokens that go to each target token.
struct Inverse {
  std::vector<std::int32_t> offsets{0};
  std::vector<std::int32_t> draft_ids;

  Inverse(const std::vector<std::int32_t>& map, std::size_t columns) {
    for (std::size_t t = 0; t < columns; ++t) {
      for (std::size_t d = 0; d < map.size(); ++d) {
        if (map[d] == static_cast<std::int32_t>(t)) {
          draft_ids.push_back(static_cast<std::int32_t>(d));
        }
      }
      offsets.push_back(static_cast<std::int32_t>(draft_ids.size()));
    }
  }
};

struct InverseOnGpu {
  DeviceArray<std::int32_t> offsets;
  DeviceArray<std::int32_t> draft_ids;

  explicit InverseOnGpu(const Inverse& inverse)
      : offsets(inverse.offsets), draft_ids(inverse.draft_ids) {}
  InverseMap there() const { return {offsets.span(), draft_ids.span()}; }
};

// A map with only whole tokens.
struct ExactOnGpu {
  DeviceArray<std::int32_t> exact;
  InverseOnGpu inverse;

  ExactOnGpu(const std::vector<std::int32_t>& map, std::size_t columns)
      : exact(map), inverse(Inverse(map, columns)) {}
  VocabularyMap there() const { return {exact.span(), {}, {}, {}, inverse.there(), {}}; }
};

template <class Number>
std::vector<std::uint64_t> bits(const std::vector<Number>& values) {
  std::vector<std::uint64_t> result;
  for (Number x : values) result.push_back(std::bit_cast<std::uint64_t>(static_cast<double>(x)));
  return result;
}

template <class Number>
struct Result {
  std::vector<Number> probs;
  std::vector<std::int8_t> cases;
};

// Two vocabularies over three letters; the target has each letter, and many words start with "a".
template <class Number, class Id>
struct World {
  std::vector<std::string> draft_tokens, target_tokens;
  std::vector<std::int32_t> first, expansion_ids;
  std::vector<std::int64_t> expansion_offsets{0};
  std::size_t columns;

  std::vector<Id> draft, target;
  std::vector<std::int64_t> draft_offsets{0}, target_offsets{0};
  std::vector<std::int32_t> spans;
  Matrix<Number> rows{0, 1, 0, 1};
  bool ragged = true;

  explicit World(std::mt19937& random) {
    target_tokens = {"a", "b", "c", ""};
    for (int k = 0; k < 20; ++k) target_tokens.push_back(random_string(random, 2 + random() % 2));
    for (int k = 0; k < 150; ++k) {
      std::string token = random_string(random, random() % 5);
      if (!token.empty() && random() % 3) token[0] = 'a';
      draft_tokens.push_back(token);
    }
    columns = target_tokens.size() + (random() % 2 ? 1500 : 3);
    for (const std::string& token : draft_tokens) {
      const bool spelled = !token.empty() && random() % 10;
      const auto expansion =
          spelled ? spell(token, random() % 4 == 0, random) : std::vector<std::size_t>{};
      first.push_back(expansion.empty() ? -1 : static_cast<std::int32_t>(expansion[0]));
      for (std::size_t t : expansion) expansion_ids.push_back(static_cast<std::int32_t>(t));
      expansion_offsets.push_back(static_cast<std::int64_t>(expansion_ids.size()));
    }
    rows = random_matrix<Number>(random, 0, draft_tokens.size() + random() % 3);
  }

  // Many more draft tokens, many of them with one target token: more than a warp reads at once, and
  // more such target tokens than a block has warps.
  void crowd(std::mt19937& random) {
    target_tokens.resize(1100);
    columns = target_tokens.size() + 3;
    for (std::size_t t = 0; t < target_tokens.size(); ++t) {
      const std::size_t count = t % 24 == 0 ? 60 + random() % 200 : random() % 3;
      for (std::size_t k = 0; k < count; ++k) {
        draft_tokens.push_back(random_string(random, 1 + random() % 3));
        first.push_back(static_cast<std::int32_t>(t));
        expansion_ids.push_back(static_cast<std::int32_t>(t));
        expansion_offsets.push_back(static_cast<std::int64_t>(expansion_ids.size()));
      }
    }
    rows = random_matrix<Number>(random, 0, draft_tokens.size());
  }

  // The longest target tokens that fit, or random ones.
  std::vector<std::size_t> spell(const std::string& text, bool wildly, std::mt19937& random) const {
    std::vector<std::size_t> ids;
    for (std::size_t at = 0; at < text.size(); at += target_tokens[ids.back()].size()) {
      std::vector<std::size_t> fitting;
      for (std::size_t t = 0; t < target_tokens.size(); ++t) {
        const std::string& token = target_tokens[t];
        if (!token.empty() && text.compare(at, token.size(), token) == 0) fitting.push_back(t);
      }
      ids.push_back(wildly ? fitting[random() % fitting.size()]
                           : *std::ranges::max_element(fitting, {}, [&](std::size_t t) {
                               return target_tokens[t].size();
                             }));
    }
    return ids;
  }

  void add_sequence(std::size_t drafted, std::mt19937& random) {
    std::string text;
    std::vector<std::size_t> starts{0};
    for (std::size_t k = 0; k < drafted; ++k) {
      draft.push_back(static_cast<Id>(random() % draft_tokens.size()));
      text += draft_tokens[static_cast<std::size_t>(draft.back())];
      starts.push_back(text.size());
    }
    std::size_t at = 0;
    for (const std::size_t t : spell(text, random() % 2, random)) {
      target.push_back(static_cast<Id>(t));
      const std::size_t end = at + target_tokens[t].size();
      // The draft tokens that share a byte with it; sometimes a range that disagrees with the
      // bytes.
      const auto after = std::ranges::upper_bound(starts, at) - starts.begin();
      const auto until = std::ranges::lower_bound(starts, end) - starts.begin();
      spans.push_back(static_cast<std::int32_t>(after - 1));
      spans.push_back(static_cast<std::int32_t>(random() % 10 ? until : after - 1));
      at = end;
    }
    if (random() % 3 == 0 && drafted > 0) {
      target.push_back(3);  // without bytes
      spans.push_back(0);
      spans.push_back(1);
    }
    draft_offsets.push_back(static_cast<std::int64_t>(draft.size()));
    target_offsets.push_back(static_cast<std::int64_t>(target.size()));
  }

  void add_rows(std::mt19937& random) {
    rows = random_matrix<Number>(random, draft.size(), rows.columns);
    for (std::size_t r = 0; r < rows.rows; ++r) {
      double sum = 0.0;
      std::vector<double> distribution(rows.columns);
      const bool sparse = random() % 3 == 0;
      for (double& x : distribution) {
        x = sparse && random() % 20 ? 0.0 : std::exp(std::normal_distribution<double>()(random));
        sum += x;
      }
      for (std::size_t d = 0; d < rows.columns; ++d) {
        rows.at(r, d) = static_cast<Number>(distribution[d] / (sum + 1e-9));
      }
    }
  }

  Result<Number> empty_result() const {
    return {std::vector<Number>(target.size() * columns, Number{-7}),
            std::vector<std::int8_t>(target.size(), -7)};
  }
  Rows<Number> out(Number* where) const {
    return {where, target.size(), columns, static_cast<std::ptrdiff_t>(columns)};
  }

  Result<Number> on_cpu() const {
    const Table draft_table(draft_tokens), target_table(target_tokens);
    auto result = empty_result();
    transfer(rows.here(), Ragged<Id>{draft, draft_offsets}, Ragged<Id>{target, target_offsets},
             spans, draft_table.here(), target_table.here(),
             VocabularyMap{{}, first, expansion_offsets, expansion_ids}, out(result.probs.data()),
             result.cases);
    return result;
  }

  Result<Number> on_gpu() const {
    const DeviceTable draft_table{Table(draft_tokens)}, target_table{Table(target_tokens)};
    const DeviceArray memory(rows.memory);
    const DeviceArray draft_ids(draft), target_ids(target);
    const DeviceArray draft_starts(draft_offsets), target_starts(target_offsets);
    const DeviceArray device_spans(spans);
    const DeviceArray firsts(first), expansions(expansion_ids);
    const DeviceArray expansion_starts(expansion_offsets);
    const InverseOnGpu inverse{Inverse(first, target_tokens.size())};
    const auto nothing = empty_result();
    const DeviceArray probs(nothing.probs);
    const DeviceArray cases(nothing.cases);
    const DeviceArray workspace(garbage_workspace(cuda::transfer_workspace(target.size())));
    Ragged<Id> drafts{draft_ids.span(), {}}, targets{target_ids.span(), {}};
    if (ragged) {
      drafts.offsets = draft_starts.span();
      targets.offsets = target_starts.span();
    }
    const VocabularyMap map{{}, firsts.span(),  expansion_starts.span(), expansions.span(),
                            {}, inverse.there()};
    cuda::transfer(rows.in(memory.data()), drafts, targets, device_spans.span(),
                   draft_table.there(), target_table.there(), map, out(probs.data()), cases.span(),
                   workspace.span(), {});
    return {probs.read(), cases.read()};
  }
};

template <class Number, class Id>
void compare(std::mt19937& random, std::map<int, int>& cases) {
  World<Number, Id> world(random);
  world.ragged = random() % 3;
  const std::size_t batch = world.ragged ? random() % 4 : 1;
  for (std::size_t b = 0; b < batch; ++b) world.add_sequence(random() % 5, random);
  world.add_rows(random);
  const auto expected = world.on_cpu();
  for (std::int8_t kind : expected.cases) ++cases[kind];
  for_each_schedule([&] {
    const auto found = world.on_gpu();
    REQUIRE(found.cases == expected.cases);
    REQUIRE(bits(found.probs) == bits(expected.probs));
  });
}

}  // namespace

TEST_CASE("transfer: distributions and cases equal those of the CPU, bit for bit") {
  std::mt19937 random(1);
  std::map<int, int> cases;
  for (int repeat = 0; repeat < 20; ++repeat) {
    compare<float, std::int64_t>(random, cases);
    compare<float, std::int32_t>(random, cases);
    compare<double, std::int64_t>(random, cases);
    compare<double, std::int32_t>(random, cases);
  }
  for (int kind = 0; kind < 4; ++kind) {
    CAPTURE(kind);
    CHECK(cases[kind] >= 5);
  }
}

namespace {

template <class Number>
void compare_crowded(std::mt19937& random) {
  World<Number, std::int64_t> world(random);
  std::vector<std::int8_t> cases;
  do {  // until both cases occur: within a token, and merge
    world = World<Number, std::int64_t>(random);
    world.crowd(random);
    for (int b = 0; b < 2; ++b) world.add_sequence(2, random);
    world.add_rows(random);
    cases = world.on_cpu().cases;
  } while (std::ranges::count(cases, 1) == 0 || std::ranges::count(cases, 2) == 0);
  const auto expected = world.on_cpu();
  for_each_schedule([&] {
    const auto found = world.on_gpu();
    REQUIRE(found.cases == expected.cases);
    REQUIRE(bits(found.probs) == bits(expected.probs));
  });
}

}  // namespace

TEST_CASE("transfer: target tokens with many draft tokens equal those of the CPU, bit for bit") {
  std::mt19937 random(4);
  compare_crowded<float>(random);
  compare_crowded<double>(random);
}

TEST_CASE("transfer: without columns every distribution is invalid, and nothing is written") {
  std::mt19937 random(5);
  World<float, std::int64_t> world(random);
  world.add_sequence(2, random);
  world.add_rows(random);
  world.target_tokens.clear();
  world.columns = 0;
  for (auto& t : world.target) t = 0;
  for_each_schedule([&] {
    const auto found = world.on_gpu();
    CHECK(found.cases == std::vector<std::int8_t>(world.target.size(), -1));
  });
}

TEST_CASE("transfer: an invalid row or sequence is marked, the others are transferred") {
  std::mt19937 random(2);
  World<float, std::int64_t> valid(random);
  for (int b = 0; b < 3; ++b) {
    do {
      valid.draft.resize(static_cast<std::size_t>(valid.draft_offsets.back()));
      valid.add_sequence(3, random);
    } while (valid.draft_offsets.empty());
  }
  valid.add_rows(random);
  const auto expected = valid.on_cpu();
  const auto check = [&](const char* what, const auto& break_it) {
    CAPTURE(what);
    auto world = valid;
    break_it(world);
    for_each_schedule([&] {
      const auto found = world.on_gpu();
      for (std::int64_t j = 0; j < std::ssize(world.target); ++j) {
        const bool spoilt = valid.target_offsets[1] <= j && j < valid.target_offsets[2];
        const auto k = static_cast<std::size_t>(j);
        REQUIRE(found.cases[k] == (spoilt ? -1 : expected.cases[k]));
        for (std::size_t t = 0; t < world.columns; ++t) {
          const std::size_t at = k * world.columns + t;
          REQUIRE(found.probs[at] == (spoilt ? 0.0f : expected.probs[at]));
        }
      }
    });
  };
  const auto draft = static_cast<std::size_t>(valid.draft_offsets[1]);
  const auto proxy = static_cast<std::size_t>(valid.target_offsets[1]);
  REQUIRE(valid.target_offsets[2] > valid.target_offsets[1]);
  check("a draft id", [&](auto& world) { world.draft[draft + 1] = 150; });
  check("a target id", [&](auto& world) { world.target[proxy] = -1; });
  check("a span", [&](auto& world) { world.spans[2 * proxy + 1] = 4; });

  // A row with NaN makes the proxy tokens that read it invalid.
  auto world = valid;
  const auto row = static_cast<std::size_t>(world.draft_offsets[1]);
  std::size_t d = 0;
  while (world.first[d] < 0) ++d;
  world.rows.at(row, d) = NAN;
  for_each_schedule([&] {
    const auto found = world.on_gpu();
    for (std::size_t j = 0; j < found.cases.size(); ++j) {
      const bool spoilt = expected.cases[j] == 1 && world.spans[2 * j] == 0 &&
                          static_cast<std::int64_t>(j) >= world.target_offsets[1] &&
                          static_cast<std::int64_t>(j) < world.target_offsets[2];
      if (spoilt) CHECK(found.cases[j] == -1);
    }
  });
}

namespace {

template <class Number>
void compare_restricted(std::mt19937& random) {
  const std::size_t rows = random() % 4;
  const std::size_t columns = 1 + random() % 3000;
  std::vector<std::int32_t> exact(50 + random() % 400);
  for (auto& t : exact) {
    t = random() % 4 ? static_cast<std::int32_t>(random() % columns) : -1;
    if (random() % 3 == 0) t = 0;
  }
  exact[0] = 0;
  auto probs = random_matrix<Number>(random, rows, exact.size() + random() % 5);
  for (Number& x : probs.memory) x = static_cast<Number>(random() % 1000) / Number{1e5};
  std::vector<Number> expected(rows * columns);
  restrict_to_shared<Number>(
      probs.here(), VocabularyMap{exact, {}, {}, {}},
      {expected.data(), rows, columns, static_cast<std::ptrdiff_t>(columns)});
  const ExactOnGpu map(exact, columns);
  const DeviceArray memory(probs.memory);
  for_each_schedule([&] {
    const DeviceArray out(std::vector<Number>(rows * columns, Number{-7}));
    const DeviceArray workspace(garbage_workspace(cuda::restrict_workspace(rows)));
    cuda::restrict_to_shared<Number>(
        probs.in(memory.data()), map.there(),
        {out.data(), rows, columns, static_cast<std::ptrdiff_t>(columns)}, workspace.span(), {});
    const auto found = out.read();
    for (std::size_t k = 0; k < found.size(); ++k) {
      REQUIRE(std::abs(found[k] - expected[k]) <=
              8 * expected[k] * std::numeric_limits<Number>::epsilon());
    }
  });
}

}  // namespace

TEST_CASE("restrict: distributions equal those of the CPU, up to the last bits of their sum") {
  std::mt19937 random(3);
  for (int repeat = 0; repeat < 8; ++repeat) {
    compare_restricted<float>(random);
    compare_restricted<double>(random);
  }
}

TEST_CASE("restrict: every target token of a block has many draft tokens") {
  constexpr std::size_t kColumns = 1030;
  std::vector<std::int32_t> exact;
  for (std::size_t d = 0; d < 70 * kColumns; ++d) {
    exact.push_back(static_cast<std::int32_t>(d % kColumns));
  }
  Matrix<double> probs(1, exact.size(), 0, exact.size());
  std::mt19937 random(6);
  for (double& x : probs.memory) x = static_cast<double>(random() % 1000);
  std::vector<double> expected(kColumns);
  restrict_to_shared<double>(probs.here(), VocabularyMap{exact, {}, {}, {}},
                             {expected.data(), 1, kColumns, kColumns});
  const ExactOnGpu map(exact, kColumns);
  const DeviceArray memory(probs.memory);
  const DeviceArray out(std::vector<double>(kColumns, -7.0));
  const DeviceArray workspace(garbage_workspace(cuda::restrict_workspace(1)));
  cuda::restrict_to_shared<double>(probs.in(memory.data()), map.there(),
                                   {out.data(), 1, kColumns, kColumns}, workspace.span(), {});
  CHECK(bits(out.read()) == bits(expected));  // integers below 2^53: no sum is rounded
}

TEST_CASE("restrict: out with more columns than a grid allows throws") {
  constexpr std::size_t kColumns = std::size_t{65535} * 1024 + 1;
  const ExactOnGpu map({}, 0);
  CHECK_THROWS_WITH_AS(cuda::restrict_to_shared<float>({nullptr, 1, 0, 0}, map.there(),
                                                       {nullptr, 1, kColumns, kColumns}, {}, {}),
                       "restrict: out has 67107841 columns; on a GPU it takes at most 67107840",
                       std::invalid_argument);
}

TEST_CASE("transfer and restrict: a map without its inverse throws") {
  CHECK_THROWS_WITH_AS(
      cuda::restrict_to_shared<float>({nullptr, 1, 4, 4}, {}, {nullptr, 1, 4, 4}, {}, {}),
      "restrict: exact_inverse has no offsets; a GPU needs the inverse of the map",
      std::invalid_argument);
  const std::vector<std::int64_t> offsets{0};
  const Ragged<std::int64_t> none{{}, offsets};
  CHECK_THROWS_WITH_AS(
      cuda::transfer<float>({nullptr, 0, 4, 4}, none, none, {}, {}, {},
                            {.expansion_offsets = offsets}, {nullptr, 0, 4, 4}, {}, {}, {}),
      "transfer: first_inverse has no offsets; a GPU needs the inverse of the map",
      std::invalid_argument);
}

#ifndef TOKENTIMING_EMULATED  // too slow there

TEST_CASE("restrict: more rows than a grid has along y") {
  constexpr std::size_t kRows = 70000;
  const ExactOnGpu map({0}, 1);
  const DeviceArray probs(std::vector<float>(kRows, 0.5f));
  const DeviceArray out(std::vector<float>(kRows, -7.0f));
  const DeviceArray workspace(garbage_workspace(cuda::restrict_workspace(kRows)));
  cuda::restrict_to_shared<float>({probs.data(), kRows, 1, 1}, map.there(),
                                  {out.data(), kRows, 1, 1}, workspace.span(), {});
  CHECK(out.read() == std::vector<float>(kRows, 1.0f));
}

#endif

TEST_CASE("restrict: only a row without a distribution becomes NaN") {
  const std::vector<std::int32_t> exact{1, -1, 0};
  const ExactOnGpu map(exact, 2);
  const DeviceArray probs(std::vector<float>{0.5f, 0.25f, 0.25f, 0, 1, 0, 1, 0, NAN, 2, 0, -1});
  for_each_schedule([&] {
    const DeviceArray out(std::vector<float>(12, -7.0f));
    const DeviceArray workspace(garbage_workspace(cuda::restrict_workspace(4)));
    cuda::restrict_to_shared<float>({probs.data(), 4, 3, 3}, map.there(), {out.data(), 4, 3, 3},
                                    workspace.span(), {});
    const auto found = out.read();
    CHECK(found[0] == doctest::Approx(1.0 / 3.0));
    CHECK(found[1] == doctest::Approx(2.0 / 3.0));
    CHECK(found[2] == 0.0f);
    for (std::size_t k = 3; k < 12; ++k) CHECK(std::isnan(found[k]));
  });
}
