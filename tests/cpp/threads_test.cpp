// Every operation on inputs large enough for several threads: the results equal those of one
// thread, and ThreadSanitizer sees the threads run.
#include <doctest/doctest.h>
#include <omp.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "parallel.h"
#include "tokentiming/align.h"
#include "tokentiming/candidates.h"
#include "tokentiming/sample.h"
#include "tokentiming/transfer.h"
#include "tokentiming/verify.h"

using tokentiming::Distributions;
using tokentiming::Rows;

namespace {

constexpr std::size_t kColumns = 70'000;

// The results of `run` on one thread and on four.
template <class Run>
void check_threads(const Run& run) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto alone = run();
  omp_set_num_threads(4);
  const auto shared = run();
  omp_set_num_threads(threads);
  CHECK(shared == alone);
}

template <class Number>
std::vector<Number> numbers(std::size_t count, std::int64_t below) {
  std::mt19937 random(1);
  std::vector<Number> values(count);
  for (auto& value : values) {
    value = static_cast<Number>(random() % static_cast<std::uint64_t>(below));
  }
  return values;
}

template <class Number>
Rows<Number> rows_of(Number* data, std::size_t rows, std::size_t columns = kColumns) {
  return {data, rows, columns, static_cast<std::ptrdiff_t>(columns)};
}

// A table of alternating one-byte and two-byte tokens, and B sequences of 4 of them.
struct Batch {
  std::vector<std::uint8_t> bytes = numbers<std::uint8_t>(kColumns / 2 * 3, 256);
  std::vector<std::int64_t> starts{0};
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> offsets{0};

  explicit Batch(std::size_t batch) : ids(numbers<std::int64_t>(4 * batch, kColumns)) {
    for (std::size_t v = 0; v < kColumns; ++v) {
      starts.push_back(starts.back() + 1 + static_cast<std::int64_t>(v % 2));
    }
    for (std::size_t b = 0; b < batch; ++b) offsets.push_back(offsets.back() + 4);
  }
  tokentiming::Ragged<std::int64_t> sequences() const { return {ids, offsets}; }
  tokentiming::ByteTable table() const { return {bytes, starts}; }
};

}  // namespace

TEST_CASE("the exception of the lowest index is rethrown") {
  const auto thrown = [] {
    try {
      tokentiming::parallel_for(1000, 1, [](std::size_t k) {
        if (k % 250 == 40) throw k;
      });
    } catch (std::size_t k) {
      return std::vector{k};
    }
    return std::vector<std::size_t>{};
  };
  for (int repeat = 0; repeat < 20; ++repeat) check_threads(thrown);
  CHECK(thrown() == std::vector<std::size_t>{40});
}

TEST_CASE("align on several threads") {
  const Batch batch(200);
  check_threads([&] {
    std::vector<std::int32_t> spans(2 * batch.ids.size());
    std::vector<std::int64_t> costs(200);
    tokentiming::align(batch.sequences(), batch.sequences(), batch.table(), batch.table(), 8, spans,
                       costs);
    costs.insert(costs.end(), spans.begin(), spans.end());
    return costs;
  });
}

TEST_CASE("sample on several threads") {
  const auto logits = numbers<float>(3 * kColumns, 16);
  const auto keys = numbers<std::uint64_t>(kColumns, std::int64_t{1} << 32);
  const std::vector<tokentiming::State> states{{0, 0, 0}, {0, 1, 0}, {1, 0, 0}};
  check_threads([&] {
    std::vector<std::int64_t> ids(3);
    tokentiming::sample(rows_of(logits.data(), 3), keys, 7, states, ids);
    return ids;
  });
}

TEST_CASE("candidates on several threads") {
  constexpr std::size_t kCount = 5;
  const auto logits = numbers<float>(3 * kColumns, 16);
  const auto keys = numbers<std::uint64_t>(kColumns, std::int64_t{1} << 32);
  const std::vector<tokentiming::State> states{{0, 0, 0}, {0, 1, 0}, {1, 0, 0}};
  check_threads([&] {
    std::vector<std::int64_t> ids(3 * kCount);
    std::vector<float> shares(3 * kCount);
    tokentiming::candidates(rows_of(logits.data(), 3), keys, 7, states,
                            {rows_of(ids.data(), 3, kCount), rows_of(shares.data(), 3, kCount)});
    return std::pair(ids, shares);
  });
}

TEST_CASE("verify on several threads, one chain and many") {
  for (const std::size_t batch : {1, 3}) {
    const Batch chains(batch);
    const auto target = numbers<float>(5 * batch * kColumns, 16);
    const auto draft = numbers<float>(4 * batch * kColumns, 15);
    const std::vector<float> uniforms(5 * batch, 0.5F);
    const auto logits = [](const std::vector<float>& values) {
      return Distributions{rows_of(values.data(), values.size() / kColumns),
                           /*is_logits=*/true};
    };
    for (const double temperature : {0.0, 1.0}) {
      check_threads([&] {
        std::vector<std::int32_t> tokens(5 * batch);
        std::vector<std::int32_t> accepted(batch);
        tokentiming::verify(
            tokentiming::Chains<std::int64_t>{chains.sequences(), logits(draft), logits(target),
                                              temperature, std::span<const float>(uniforms)},
            rows_of(tokens.data(), batch, 5), accepted);
        tokens.insert(tokens.end(), accepted.begin(), accepted.end());
        return tokens;
      });
    }
  }
}

TEST_CASE("transfer and restrict_to_shared on several threads") {
  const Batch proposals(3);
  const std::vector<float> draft_probs(12 * kColumns, 0.5F / kColumns);
  const auto first = numbers<std::int32_t>(kColumns, kColumns);
  std::vector<std::int64_t> starts;
  for (std::size_t d = 0; d <= kColumns; ++d) starts.push_back(static_cast<std::int64_t>(d));
  const tokentiming::VocabularyMap map{first, first, starts, first};
  std::vector<std::int32_t> spans;
  for (std::size_t b = 0; b < 3; ++b) spans.insert(spans.end(), {0, 1, 1, 2, 2, 4, 3, 4});
  check_threads([&] {
    std::vector<float> probs(12 * kColumns);
    std::vector<std::int8_t> cases(12);
    tokentiming::transfer(rows_of(draft_probs.data(), 12), proposals.sequences(),
                          proposals.sequences(), spans, proposals.table(), proposals.table(), map,
                          rows_of(probs.data(), 12), cases);
    return probs;
  });
  check_threads([&] {
    std::vector<float> probs(12 * kColumns);
    tokentiming::restrict_to_shared(rows_of(draft_probs.data(), 12), map,
                                    rows_of(probs.data(), 12));
    return probs;
  });
}

TEST_CASE("blocks cover all numbers once, whole grains at a time") {
  const int threads = omp_get_max_threads();
  // At most 4, as above: libomp leaks the buffers of a team that grows beyond that.
  for (const int count : {1, 2, 3, 4}) {
    omp_set_num_threads(count);
    for (const std::size_t n : {0, 1, 47, 48, 49, 96, 1000}) {
      CAPTURE(count);
      CAPTURE(n);
      std::vector<int> calls(n);
      std::vector<std::size_t> lengths(n);
      tokentiming::parallel_blocks(n, 48, 144, [&](std::size_t first, std::size_t last) {
        lengths.at(first) = last - first;
        for (std::size_t k = first; k < last; ++k) ++calls.at(k);
      });
      CHECK(calls == std::vector<int>(n, 1));
      for (std::size_t k = 0; k < n; ++k) {
        if (k % 48 != 0) CHECK(lengths[k] == 0);
        CHECK(lengths[k] <= 144);
      }
    }
  }
  omp_set_num_threads(threads);
}

TEST_CASE("a thread takes the blocks of one that is slower") {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(2);
  std::atomic<int> done = 0;
  // Block 0 ends only after all others, also those that its thread would have computed next.
  tokentiming::parallel_blocks(8, 1, 1, [&](std::size_t first, std::size_t) {
    const bool alone = omp_get_num_threads() == 1;
    while (first == 0 && done < 7 && !alone) std::this_thread::yield();
    ++done;
  });
  CHECK(done == 8);
  omp_set_num_threads(threads);
}
