#include "tokentiming/walk.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

using tokentiming::Forest;

namespace {

struct Result {
  std::vector<std::int64_t> tokens;
  std::vector<std::int32_t> nodes;
  std::vector<std::int32_t> accepted;

  bool operator==(const Result&) const = default;
};

template <class Id>
struct Case {
  std::vector<std::int64_t> picked;
  std::vector<Id> tokens;
  std::vector<std::int32_t> parents;
  std::vector<std::int64_t> offsets;

  std::size_t batch() const { return offsets.empty() ? 0 : offsets.size() - 1; }
  Result untouched() const {
    return {std::vector<std::int64_t>(tokens.size() + batch(), -7),
            std::vector<std::int32_t>(tokens.size(), -7), std::vector<std::int32_t>(batch(), -7)};
  }
  void walk_into(Result& result) const {
    const Forest<Id> forest{{tokens, offsets}, parents};
    tokentiming::walk(picked, forest, std::span(result.tokens), std::span(result.nodes),
                      std::span(result.accepted));
  }
  Result walk() const {
    Result result = untouched();
    walk_into(result);
    return result;
  }

  // The rule, written plainly: all nodes are searched for each child.
  Result plainly() const {
    Result result = untouched();
    for (std::size_t b = 0; b < batch(); ++b) {
      const auto begin = static_cast<std::size_t>(offsets[b]);
      const auto end = static_cast<std::size_t>(offsets[b + 1]);
      std::size_t node_at = begin;
      std::size_t token_at = begin + b;
      for (std::int32_t current = -1;;) {
        const std::int64_t token = picked[begin + b + static_cast<std::size_t>(current + 1)];
        result.tokens[token_at++] = token;
        std::size_t child = begin;
        while (child < end && (parents[child] != current || tokens[child] != token)) ++child;
        if (child == end) break;
        current = static_cast<std::int32_t>(child - begin);
        result.nodes[node_at++] = current;
      }
      result.accepted[b] = static_cast<std::int32_t>(node_at - begin);
      while (node_at < end) result.nodes[node_at++] = -1;
      while (token_at < end + b + 1) result.tokens[token_at++] = -1;
    }
    return result;
  }
};

template <class Id>
Case<Id> random_case(std::mt19937& random) {
  Case<Id> one{{}, {}, {}, {0}};
  for (std::size_t b = random() % 5; b > 0; --b) {
    const auto count = static_cast<int>(random() % 40);
    for (int i = 0; i < count; ++i) {
      const int earliest = i < 4 ? -1 : i - 4;
      one.parents.push_back(earliest + static_cast<int>(random() % (i - earliest)));
      one.tokens.push_back(static_cast<Id>(random() % 2));
    }
    for (int i = 0; i <= count; ++i) one.picked.push_back(random() % 2);
    one.offsets.push_back(std::ssize(one.tokens));
  }
  return one;
}

template <class Id>
std::int32_t compare(std::mt19937& random) {
  std::int32_t most = 0;
  for (int repeat = 0; repeat < 200; ++repeat) {
    const auto one = random_case<Id>(random);
    const Result found = one.walk();
    REQUIRE(found == one.plainly());
    for (const std::int32_t accepted : found.accepted) most = std::max(most, accepted);
  }
  return most;
}

// A tree of five nodes, an empty one, and a chain of two.
Case<std::int64_t> three_trees() {
  return {{7, 8, 6, 1, 3, 2, 4, 5, 6, 9},
          {5, 7, 8, 9, 6, 5, 6},
          {-1, -1, 0, 1, 1, -1, 0},
          {0, 5, 5, 7}};
}

}  // namespace

TEST_CASE("walk: a tree, an empty one and a chain") {
  const Result found = three_trees().walk();
  CHECK(found.tokens == std::vector<std::int64_t>{7, 6, 2, -1, -1, -1, 4, 5, 6, 9});
  CHECK(found.nodes == std::vector<std::int32_t>{1, 4, -1, -1, -1, 0, 1});
  CHECK(found.accepted == std::vector<std::int32_t>{2, 0, 2});
}

TEST_CASE("walk: of siblings with equal tokens the first is taken") {
  const Case<std::int32_t> one{{3, 8, 9, 0}, {3, 3, 9}, {-1, -1, 1}, {0, 3}};
  CHECK(one.walk() == Result{{3, 8, -1, -1}, {0, -1, -1}, {1}});
}

TEST_CASE("walk: a node with a negative token is not accepted") {
  const Case<std::int64_t> one{{0, 0, 5}, {-1, 0}, {-1, -1}, {0, 2}};
  CHECK(one.walk() == Result{{0, 5, -1}, {1, -1}, {1}});
}

TEST_CASE("walk: random forests equal the naive rule") {
  std::mt19937 random(1);
  CHECK(compare<std::int64_t>(random) > 5);
  CHECK(compare<std::int32_t>(random) > 5);
}

TEST_CASE("walk: an empty batch") {
  const Case<std::int64_t> none{{}, {}, {}, {0}};
  CHECK(none.walk() == Result{});
}

TEST_CASE("walk: errors name the argument and write no output") {
  const auto refuses = [](const std::string& message, const auto& break_it) {
    CAPTURE(message);
    auto one = three_trees();
    const Result before = one.untouched();
    break_it(one);
    Result result = before;
    CHECK_THROWS_WITH_AS(one.walk_into(result), message.c_str(), std::invalid_argument);
    CHECK(result == before);
  };
  refuses(
      "walk: parents[6] is 1; it is node 1 of its tree, and its parent must be -1 or a node "
      "before it",
      [](auto& one) { one.parents[6] = 1; });
  refuses(
      "walk: parents[0] is -2; it is node 0 of its tree, and its parent must be -1 or a node "
      "before it",
      [](auto& one) { one.parents[0] = -2; });
  refuses("walk: picked[9] is -1; a token must be 0 or more",
          [](auto& one) { one.picked[9] = -1; });
  refuses("walk: offsets must rise from 0 to the number of tokens (7)",
          [](auto& one) { one.offsets[1] = 6; });
  refuses("walk: offsets must rise from 0 to the number of tokens (7)",
          [](auto& one) { one.offsets.clear(); });
  refuses("walk: parents has 6 entries; 7 tokens in 3 trees need 7",
          [](auto& one) { one.parents.pop_back(); });
  refuses("walk: picked has 11 entries; 7 tokens in 3 trees need 10",
          [](auto& one) { one.picked.push_back(0); });
}

TEST_CASE("walk: outputs of other sizes are refused") {
  const auto one = three_trees();
  const auto refuses = [&](const char* message, const auto& break_it) {
    Result result = one.untouched();
    break_it(result);
    CHECK_THROWS_WITH(one.walk_into(result), message);
  };
  refuses("walk: out.tokens has 9 entries; 7 tokens in 3 trees need 10",
          [](Result& result) { result.tokens.pop_back(); });
  refuses("walk: out.nodes has 8 entries; 7 tokens in 3 trees need 7",
          [](Result& result) { result.nodes.push_back(0); });
  refuses("walk: out.accepted has 2 entries; 7 tokens in 3 trees need 3",
          [](Result& result) { result.accepted.pop_back(); });
}

TEST_CASE("walk: more rows than fit in 32 bits are refused before any is read") {
  constexpr std::size_t kNodes = std::size_t{1} << 31;
  const std::vector<std::int64_t> offsets{0, kNodes};
  std::int64_t wide = 0;
  std::int32_t narrow = 0;
  const Forest<std::int32_t> forest{{{&narrow, kNodes}, offsets}, {&narrow, kNodes}};
  CHECK_THROWS_WITH(tokentiming::walk({&wide, kNodes + 1}, forest, {&wide, kNodes + 1},
                                      {&narrow, kNodes}, {&narrow, 1}),
                    "walk: picked has 2147483649 entries, more than 2^31 - 1; split the batch");
}
