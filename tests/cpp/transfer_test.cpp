#include "tokentiming/transfer.h"

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <vector>

using tokentiming::ByteTable;
using tokentiming::Ragged;
using tokentiming::Rows;
using tokentiming::VocabularyMap;

namespace {

struct Table {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int64_t> offsets{0};

  explicit Table(const std::vector<std::string>& tokens) {
    for (const auto& token : tokens) {
      bytes.insert(bytes.end(), token.begin(), token.end());
      offsets.push_back(static_cast<std::int64_t>(bytes.size()));
    }
  }
  operator ByteTable() const { return {bytes, offsets}; }
};

// Draft tokens a, b, ab, cc over target tokens a, ab, b, c.
const Table kDraft({"a", "b", "ab", "cc"});
const Table kTarget({"a", "ab", "b", "c"});
const std::vector<std::int32_t> kExact{0, 2, 1, -1};
const std::vector<std::int32_t> kFirst{0, 2, 1, 3};
const std::vector<std::int64_t> kStarts{0, 1, 2, 3, 5};
const std::vector<std::int32_t> kIds{0, 2, 1, 3, 3};
const VocabularyMap kMap{kExact, kFirst, kStarts, kIds};

struct Result {
  std::vector<double> probs;
  std::vector<std::int8_t> cases;
};

Result transfer(const std::vector<double>& rows, const std::vector<std::int64_t>& draft,
                const std::vector<std::int64_t>& target, const std::vector<std::int32_t>& spans) {
  const std::vector<std::int64_t> draft_offsets{0, std::ssize(draft)};
  const std::vector<std::int64_t> target_offsets{0, std::ssize(target)};
  Result result{std::vector<double>(4 * target.size()), std::vector<std::int8_t>(target.size())};
  tokentiming::transfer(Rows<const double>{rows.data(), rows.size() / 4, 4, 4},
                        Ragged<std::int64_t>{draft, draft_offsets},
                        Ragged<std::int64_t>{target, target_offsets}, spans, kDraft, kTarget, kMap,
                        Rows<double>{result.probs.data(), target.size(), 4, 4}, result.cases);
  return result;
}

}  // namespace

TEST_CASE("each case of the transfer") {
  const Result within = transfer({0.5, 0.25, 0.125, 0.125}, {0}, {0}, {0, 1});
  CHECK(within.cases == std::vector<std::int8_t>{1});
  CHECK(within.probs == std::vector<double>{0.5, 0.125, 0.25, 0.125});

  // `ab` out of a and b: 0.5 * 0.5 moves from a to ab.
  const Result merge = transfer({0.5, 0.25, 0.125, 0.125, 0.25, 0.5, 0.25, 0}, {0, 1}, {1}, {0, 2});
  CHECK(merge.cases == std::vector<std::int8_t>{2});
  CHECK(merge.probs == std::vector<double>{0.25, 0.375, 0.25, 0.125});

  const Result inside = transfer({0.5, 0.25, 0.125, 0.125}, {3}, {3, 3}, {0, 1, 0, 1});
  CHECK(inside.cases == std::vector<std::int8_t>{1, 3});
  CHECK(inside.probs == std::vector<double>{0.5, 0.125, 0.25, 0.125, 0, 0, 0, 1});

  // A span that disagrees with the byte offsets.
  const Result astray =
      transfer({0.5, 0.25, 0.125, 0.125, 0.25, 0.5, 0.25, 0}, {0, 1}, {0, 2}, {0, 2, 1, 2});
  CHECK(astray.cases == std::vector<std::int8_t>{0, 1});
  CHECK(astray.probs == std::vector<double>{1, 0, 0, 0, 0.25, 0.25, 0.5, 0});
}

TEST_CASE("restriction keeps the shared tokens and normalises") {
  const std::vector<float> rows{0.25f, 0.25f, 0.25f, 0.25f, 0.5f, 0.0f, 0.25f, 0.25f};
  const std::vector<std::int32_t> exact{1, -1, 0, -1};
  std::vector<float> out(6, -1.0f);
  tokentiming::restrict_to_shared(Rows<const float>{rows.data(), 2, 4, 4},
                                  VocabularyMap{.exact = exact}, Rows<float>{out.data(), 2, 3, 3});
  CHECK(out[0] == 0.5f);
  CHECK(out[1] == 0.5f);
  CHECK(out[2] == 0.0f);
  CHECK(out[3] == doctest::Approx(1.0 / 3));
  CHECK(out[4] == doctest::Approx(2.0 / 3));
}

TEST_CASE("errors name the argument") {
  CHECK_THROWS_WITH(transfer({1, 0, 0, 0}, {4}, {0}, {0, 1}),
                    "transfer: draft_ids[0] is 4, outside a vocabulary of 4 tokens");
  CHECK_THROWS_WITH(transfer({1, 0, 0, -1}, {0}, {0}, {0, 1}),
                    "transfer: draft_probs[0] holds NaN, infinity or a negative probability");
  CHECK_THROWS_AS(transfer({1, 0, 0, 0}, {0}, {0}, {0, 2}), std::invalid_argument);
}
