#include "tokentiming/align.h"

#include <doctest/doctest.h>

#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.h"
#include "vocabularies.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

struct Result {
  std::vector<std::int32_t> spans;
  std::vector<std::int64_t> costs;

  bool operator==(const Result&) const = default;
};

template <class Id>
struct Batch {
  std::vector<Id> draft, target;
  std::vector<std::int64_t> draft_offsets{0}, target_offsets{0};
  bool padded = false;

  std::size_t size() const { return draft_offsets.size() - 1; }
  Result empty_result() const {
    return {std::vector<std::int32_t>(2 * target.size(), -7),
            std::vector<std::int64_t>(size(), -7)};
  }
  void add(std::size_t drafted, std::size_t proxies, std::size_t draft_vocabulary,
           std::size_t target_vocabulary, std::mt19937& random) {
    for (std::size_t k = 0; k < drafted; ++k) {
      draft.push_back(static_cast<Id>(random() % draft_vocabulary));
    }
    for (std::size_t k = 0; k < proxies; ++k) {
      target.push_back(static_cast<Id>(random() % target_vocabulary));
    }
    draft_offsets.push_back(static_cast<std::int64_t>(draft.size()));
    target_offsets.push_back(static_cast<std::int64_t>(target.size()));
  }

  Result on_cpu(const Table& draft_table, const Table& target_table, std::int64_t band) const {
    Result result = empty_result();
    align<Id>({draft, draft_offsets}, {target, target_offsets}, draft_table.here(),
              target_table.here(), band, result.spans, result.costs);
    return result;
  }
  Result on_gpu(const Table& draft_table, const Table& target_table, std::int64_t band) const {
    const DeviceArray draft_ids(draft), target_ids(target);
    const DeviceArray draft_starts(draft_offsets), target_starts(target_offsets);
    const DeviceTable device_draft(draft_table), device_target(target_table);
    const Result nothing = empty_result();
    const DeviceArray spans(nothing.spans);
    const DeviceArray costs(nothing.costs);
    Ragged<Id> draft_side{draft_ids.span(), {}}, target_side{target_ids.span(), {}};
    if (!padded) {
      draft_side.offsets = draft_starts.span();
      target_side.offsets = target_starts.span();
    }
    cuda::align(draft_side, target_side, device_draft.there(), device_target.there(), band,
                spans.span(), costs.span(), {});
    return {spans.read(), costs.read()};
  }
};

std::vector<std::string> random_tokens(std::mt19937& random, std::size_t longest) {
  std::vector<std::string> tokens;
  for (int k = 0; k < 40; ++k) tokens.push_back(random_string(random, random() % (longest + 1)));
  return tokens;
}

template <class Id>
void compare(std::mt19937& random, std::size_t most_tokens, std::size_t longest) {
  const Table draft_table(random_tokens(random, longest));
  const Table target_table(random_tokens(random, longest));
  Batch<Id> batch;
  batch.padded = random() % 2;
  const std::size_t drafted = 1 + random() % most_tokens;
  const std::size_t proxies = 1 + random() % most_tokens;
  for (std::size_t b = random() % 4; b > 0; --b) {
    if (batch.padded) {
      batch.add(drafted, proxies, 40, 40, random);
    } else if (random() % 5 == 0) {
      batch.add(0, 0, 40, 40, random);
    } else {
      batch.add(1 + random() % most_tokens, 1 + random() % most_tokens, 40, 40, random);
    }
  }
  for (const std::int64_t band : {std::int64_t{0}, std::int64_t{8}, std::int64_t{1} << 62}) {
    const Result expected = batch.on_cpu(draft_table, target_table, band);
    for_each_schedule([&] { REQUIRE(batch.on_gpu(draft_table, target_table, band) == expected); });
  }
}

}  // namespace

TEST_CASE("align: spans and costs equal those of the CPU") {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 12; ++repeat) {
    compare<std::int64_t>(random, 20, 10);
    compare<std::int32_t>(random, 40, 5);
  }
  for (int repeat = 0; repeat < 3; ++repeat) {
    compare<std::int64_t>(random, 6, 40);   // patterns of 64 bits
    compare<std::int64_t>(random, 4, 300);  // and longer ones
    compare<std::int32_t>(random, 128, 3);
  }
}

TEST_CASE("align: tokens at the limit") {
  std::mt19937 random(2);
  const auto longest = static_cast<std::size_t>(cuda::kMaxTokenBytes);
  const Table table({random_string(random, longest), random_string(random, longest - 1), "a"});
  Batch<std::int64_t> batch;
  batch.draft = {0, 2};
  batch.target = {1, 0};
  batch.draft_offsets = batch.target_offsets = {0, 2};
  CHECK(batch.on_gpu(table, table, 8) == batch.on_cpu(table, table, 8));
}

TEST_CASE("align: an invalid pair is marked, the others are aligned") {
  std::mt19937 random(3);
  auto tokens = random_tokens(random, 6);
  tokens.push_back(std::string(static_cast<std::size_t>(cuda::kMaxTokenBytes) + 1, 'x'));
  const Table table(tokens);
  Batch<std::int64_t> valid;
  for (int b = 0; b < 3; ++b) valid.add(5, 4, 40, 40, random);
  Result expected = valid.on_cpu(table, table, 8);
  expected.costs[1] = -1;
  for (std::size_t k = 8; k < 16; ++k) expected.spans[k] = -1;
  const auto check = [&](const char* what, const auto& break_it) {
    CAPTURE(what);
    auto batch = valid;
    break_it(batch);
    for_each_schedule([&] { CHECK(batch.on_gpu(table, table, 8) == expected); });
  };
  check("a draft id", [](auto& batch) { batch.draft[7] = 41; });
  check("a negative target id", [](auto& batch) { batch.target[6] = -1; });
  check("a token beyond the limit", [](auto& batch) { batch.draft[9] = 40; });
  check("half a pair", [](auto& batch) {
    batch.draft.erase(batch.draft.begin() + 5, batch.draft.begin() + 10);
    batch.draft_offsets = {0, 5, 5, 10};
  });
  // The first draft sequence includes the second's tokens: it is another pair, and valid.
  auto batch = valid;
  batch.draft_offsets = {0, 10, 5, 15};
  for_each_schedule([&] {
    const Result found = batch.on_gpu(table, table, 8);
    CHECK(found.costs[0] >= 0);
    CHECK(found.costs[1] == -1);
  });
}

TEST_CASE("align: a pair with more tokens than the limit") {
  std::mt19937 random(4);
  const Table table(random_tokens(random, 4));
  Batch<std::int64_t> batch;
  batch.add(129, 100, 40, 40, random);
  batch.add(3, 3, 40, 40, random);
  const Result found = batch.on_gpu(table, table, 8);
  CHECK(found.costs[0] == -1);
  CHECK(found.costs[1] >= 0);
  Batch<std::int64_t> one;
  one.add(129, 100, 40, 40, random);
  one.padded = true;
  CHECK_THROWS_WITH(one.on_gpu(table, table, 8),
                    "align: draft_ids has sequences of 129 tokens; on a GPU it takes at most 128, "
                    "the CPU takes any");
  CHECK_THROWS_WITH(one.on_gpu(table, table, -1), "align: band is -1; it must be 0 or more");
}
