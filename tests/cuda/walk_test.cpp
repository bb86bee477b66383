#include "tokentiming/walk.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

struct Result {
  std::vector<std::int64_t> tokens;
  std::vector<std::int32_t> nodes;
  std::vector<std::int32_t> accepted;

  bool operator==(const Result&) const = default;
};

template <class Id>
struct Trees {
  std::vector<std::int64_t> picked;
  std::vector<Id> tokens;
  std::vector<std::int32_t> parents;
  std::vector<std::int64_t> offsets{0};

  std::size_t size() const { return offsets.size() - 1; }
  Result untouched() const {
    return {std::vector<std::int64_t>(tokens.size() + size(), -7),
            std::vector<std::int32_t>(tokens.size(), -7), std::vector<std::int32_t>(size(), -7)};
  }
  // A parent is one of the `near` nodes before its node, or the root. Where `likely`, a node has
  // the token picked at its parent.
  void add(int count, int near, bool likely, std::mt19937& random) {
    const std::size_t row = picked.size();
    for (int i = 0; i <= count; ++i) picked.push_back(random() % 3);
    for (int i = 0; i < count; ++i) {
      const int earliest = std::max(-1, i - near);
      const int parent = earliest + static_cast<int>(random() % (i - earliest));
      parents.push_back(parent);
      tokens.push_back(static_cast<Id>(likely ? picked[row + static_cast<std::size_t>(parent + 1)]
                                              : random() % 3));
    }
    offsets.push_back(std::ssize(tokens));
  }

  Result on_cpu() const {
    Result result = untouched();
    walk<Id>(picked, {{tokens, offsets}, parents}, result.tokens, result.nodes, result.accepted);
    return result;
  }
  Result on_gpu() const {
    const DeviceArray device_picked(picked), device_offsets(offsets);
    const DeviceArray device_tokens(tokens);
    const DeviceArray device_parents(parents);
    const Result nothing = untouched();
    const DeviceArray emitted(nothing.tokens);
    const DeviceArray nodes(nothing.nodes), accepted(nothing.accepted);
    cuda::walk<Id>(device_picked.span(),
                   {{device_tokens.span(), device_offsets.span()}, device_parents.span()},
                   emitted.span(), nodes.span(), accepted.span(), {});
    return {emitted.read(), nodes.read(), accepted.read()};
  }
};

template <class Id>
void compare(std::mt19937& random, std::int32_t& most) {
  Trees<Id> trees;
  for (std::size_t b = random() % 6; b > 0; --b) {
    const int count = static_cast<int>(random() % 2 ? random() % 8 : random() % 110);
    trees.add(count, 1 + static_cast<int>(random() % 5), random() % 2, random);
  }
  const Result expected = trees.on_cpu();
  for (const std::int32_t accepted : expected.accepted) most = std::max(most, accepted);
  for_each_schedule([&] { REQUIRE(trees.on_gpu() == expected); });
}

// Three trees. All 70 nodes of the second are accepted.
Trees<std::int64_t> valid_trees() {
  std::mt19937 random(2);
  Trees<std::int64_t> trees;
  trees.add(5, 3, false, random);
  trees.add(70, 1, true, random);
  trees.add(40, 3, true, random);
  return trees;
}

// What valid_trees() gives if the second tree is invalid.
Result without_the_second() {
  Result expected = valid_trees().on_cpu();
  std::fill_n(expected.tokens.begin() + 6, 71, -1);
  std::fill_n(expected.nodes.begin() + 5, 70, -1);
  expected.accepted[1] = -1;
  return expected;
}

}  // namespace

TEST_CASE("walk: results equal those of the CPU") {
  std::mt19937 random(1);
  std::int32_t most = 0;
  for (int repeat = 0; repeat < 60; ++repeat) {
    compare<std::int64_t>(random, most);
    compare<std::int32_t>(random, most);
  }
  CHECK(most > 64);  // a path through three warps of nodes
}

TEST_CASE("walk: trees around the size of a warp") {
  std::mt19937 random(3);
  Trees<std::int32_t> trees;
  for (const int count : {0, 1, 31, 32, 33, 63, 64, 65, 0}) trees.add(count, 1, true, random);
  const Result expected = trees.on_cpu();
  CHECK(expected.accepted == std::vector<std::int32_t>{0, 1, 31, 32, 33, 63, 64, 65, 0});
  for_each_schedule([&] { CHECK(trees.on_gpu() == expected); });
}

TEST_CASE("walk: an invalid tree is marked, the others are walked") {
  REQUIRE(valid_trees().on_cpu().accepted[1] == 70);
  const Result expected = without_the_second();
  const auto check = [&](const char* what, const auto& break_it) {
    CAPTURE(what);
    auto trees = valid_trees();
    break_it(trees);
    CHECK_THROWS_AS(trees.on_cpu(), std::invalid_argument);
    for_each_schedule([&] { CHECK(trees.on_gpu() == expected); });
  };
  check("its own parent", [](auto& trees) { trees.parents[5 + 69] = 69; });
  check("a parent after its node", [](auto& trees) { trees.parents[5 + 2] = 60; });
  check("a parent that is no node", [](auto& trees) { trees.parents[5 + 40] = 1 << 30; });
  check("a parent below -1", [](auto& trees) { trees.parents[5] = -2; });
  check("parents in a circle", [](auto& trees) {
    trees.parents[5 + 3] = 4;
    trees.parents[5 + 4] = 3;
  });
  check("every parent its own", [](auto& trees) {
    for (int i = 0; i < 70; ++i) trees.parents[static_cast<std::size_t>(5 + i)] = i;
  });
  check("every parent the last node", [](auto& trees) {
    for (std::size_t i = 0; i < 70; ++i) trees.parents[5 + i] = 69;
  });
  check("the token picked at the root", [](auto& trees) { trees.picked[6] = -1; });
  check("the token picked after the last node", [](auto& trees) { trees.picked[6 + 70] = -1; });
  check("negative tokens, picked and proposed", [](auto& trees) {
    for (std::size_t i = 0; i <= 70; ++i) trees.picked[6 + i] = -1;
    for (std::size_t i = 0; i < 70; ++i) trees.tokens[5 + i] = -1;
  });
}

TEST_CASE("walk: invalid offsets are detected on the device") {
  const auto check = [](std::vector<std::int64_t> offsets, std::vector<bool> invalid) {
    auto trees = valid_trees();
    trees.offsets = offsets;
    for_each_schedule([&] {
      const auto accepted = trees.on_gpu().accepted;
      for (std::size_t b = 0; b < 3; ++b) CHECK((accepted[b] == -1) == invalid[b]);
    });
  };
  constexpr std::int64_t kFar = std::int64_t{1} << 62;
  check({0, 116, 75, 115}, {true, true, false});
  check({-1, 0, 0, 0}, {true, false, false});
  check({-kFar, kFar, -kFar, kFar}, {true, true, true});
}

TEST_CASE("walk: what the host can check throws") {
  auto trees = valid_trees();
  trees.parents.pop_back();
  CHECK_THROWS_WITH(trees.on_gpu(),
                    "walk: parents has 114 entries; 115 tokens in 3 trees need 115");
  trees = valid_trees();
  trees.picked.pop_back();
  CHECK_THROWS_WITH(trees.on_gpu(), "walk: picked has 117 entries; 115 tokens in 3 trees need 118");
  CHECK_THROWS_WITH(cuda::walk<std::int32_t>({}, {}, {}, {}, {}, {}),
                    "walk: offsets must have B + 1 entries, got none");
}
