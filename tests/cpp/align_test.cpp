#include "tokentiming/align.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "levenshtein.h"

using tokentiming::ByteTable;
using tokentiming::Ragged;

namespace {

struct Vocabulary {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int64_t> offsets{0};

  explicit Vocabulary(const std::vector<std::string>& tokens) {
    for (const auto& token : tokens) {
      bytes.insert(bytes.end(), token.begin(), token.end());
      offsets.push_back(static_cast<std::int64_t>(bytes.size()));
    }
  }
  operator ByteTable() const { return {bytes, offsets}; }
};

struct Result {
  std::vector<std::int32_t> spans;
  std::int64_t cost = -1;
};

template <class Id = std::int64_t>
Result align_tokens(const std::vector<std::string>& draft, const std::vector<std::string>& target,
                    std::int64_t band = 8) {
  std::vector<Id> draft_ids(draft.size());
  std::vector<Id> target_ids(target.size());
  std::iota(draft_ids.begin(), draft_ids.end(), Id{0});
  std::iota(target_ids.begin(), target_ids.end(), Id{0});
  const std::vector<std::int64_t> draft_offsets{0, std::ssize(draft)};
  const std::vector<std::int64_t> target_offsets{0, std::ssize(target)};
  Result result{std::vector<std::int32_t>(2 * target.size())};
  tokentiming::align(Ragged<Id>{draft_ids, draft_offsets}, Ragged<Id>{target_ids, target_offsets},
                     Vocabulary(draft), Vocabulary(target), band, result.spans,
                     std::span(&result.cost, 1));
  return result;
}

std::size_t textbook_levenshtein(const std::string& a, const std::string& b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
      } else {
        d[i][j] =
            std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

TEST_CASE("levenshtein agrees with the textbook algorithm around the width of a machine word") {
  std::mt19937 random(1);
  tokentiming::Levenshtein levenshtein;
  for (std::size_t pattern_size : {0, 1, 2, 7, 31, 63, 64, 65, 130}) {
    for (std::size_t text_size : {0, 1, 2, 8, 64, 65, 140}) {
      std::string pattern(pattern_size, '\0');
      std::string text(text_size, '\0');
      for (char& c : pattern) c = static_cast<char>(0xfe + random() % 2);
      for (char& c : text) c = static_cast<char>(0xfe + random() % 2);
      const auto bytes = [](const std::string& s) {
        return std::span(reinterpret_cast<const std::uint8_t*>(s.data()), s.size());
      };
      levenshtein.set_pattern(bytes(pattern));
      const auto expected = static_cast<std::int64_t>(textbook_levenshtein(pattern, text));
      CHECK(levenshtein.distance(bytes(text)) == expected);
      levenshtein.set_pattern({});  // before `pattern` is destroyed
    }
  }
}

TEST_CASE("batches of eight patterns agree with the textbook algorithm") {
  using tokentiming::LevenshteinBatch;
  std::mt19937 random(2);
  LevenshteinBatch::Peq peq{};
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<std::string> strings(1 + random() % LevenshteinBatch::kCount);
    std::vector<std::span<const std::uint8_t>> patterns;
    for (std::string& pattern : strings) {
      pattern.resize(random() % (LevenshteinBatch::kMaxPatternBytes + 1));
      for (char& c : pattern) c = static_cast<char>(0xfe + random() % 2);
      patterns.emplace_back(reinterpret_cast<const std::uint8_t*>(pattern.data()), pattern.size());
    }
    std::string text(random() % 70, '\0');
    for (char& c : text) c = static_cast<char>(0xfe + random() % 2);
    std::array<std::uint32_t, LevenshteinBatch::kCount> distances;
    LevenshteinBatch(patterns, peq)
        .distances({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()},
                   distances.data());
    for (std::size_t p = 0; p < patterns.size(); ++p) {
      CHECK(distances[p] == textbook_levenshtein(strings[p], text));
    }
  }
}

TEST_CASE("split and merged tokens get the expected spans") {
  const Result merge = align_tokens({"un", "believ", "able"}, {"unbeliev", "able"});
  CHECK(merge.spans == std::vector<std::int32_t>{0, 2, 2, 3});
  CHECK(merge.cost == 6 + 2);
  const Result split = align_tokens<std::int32_t>({"unbelievable"}, {"un", "believ", "able"});
  CHECK(split.spans == std::vector<std::int32_t>{0, 1, 0, 1, 0, 1});
}

TEST_CASE("the band limits the path, and any width is accepted") {
  const std::vector<std::string> draft{"a", "b", "c", "d", "e"};
  const std::vector<std::string> target{"e", "a", "b", "c", "d"};
  CHECK(align_tokens(draft, target, 0).cost == 5);
  CHECK(align_tokens(draft, target, 1).cost == 2);
  CHECK(align_tokens(draft, target, std::int64_t{1} << 62).cost == 2);
}

TEST_CASE("an empty pair has cost 0, a pair with one empty side is an error") {
  CHECK(align_tokens({}, {}).cost == 0);
  CHECK_THROWS_AS(align_tokens({}, {"a"}), std::invalid_argument);
  CHECK_THROWS_AS(align_tokens({"a"}, {}), std::invalid_argument);
}

TEST_CASE("errors name the argument and write no output") {
  const Vocabulary vocabulary({"a", "b"});
  const std::vector<std::int64_t> ids{0, 2};
  const std::vector<std::int64_t> offsets{0, 1, 2};
  std::vector<std::int32_t> spans(4, -1);
  std::vector<std::int64_t> costs(2, -1);
  const Ragged<std::int64_t> side{ids, offsets};
  CHECK_THROWS_WITH(
      tokentiming::align(side, side, vocabulary, vocabulary, 8, std::span(spans), std::span(costs)),
      "align: draft_ids[1] is 2, outside a vocabulary of 2 tokens");
  CHECK(spans == std::vector<std::int32_t>(4, -1));
  CHECK(costs == std::vector<std::int64_t>(2, -1));
}
