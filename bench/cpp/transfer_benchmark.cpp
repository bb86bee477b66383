#include <algorithm>

#include "common.h"
#include "tokentiming/transfer.h"

namespace {

// B proposals of K tokens over draft and target vocabularies of V tokens. Every draft token becomes
// one target token; the ids are scattered over the vocabulary, as those of equal bytes are.
void transfer(benchmark::State& state) {
  const auto batch = static_cast<std::size_t>(state.range(0));
  const auto length = static_cast<std::size_t>(state.range(1));
  const auto columns = static_cast<std::size_t>(state.range(2));
  const std::size_t tokens = batch * length;
  const std::vector<float> draft_probs(tokens * columns, 1.0F / static_cast<float>(columns));
  std::vector<std::int32_t> first(columns);
  std::vector<std::int64_t> starts(columns + 1);
  for (std::size_t d = 0; d < columns; ++d) {
    first[d] = static_cast<std::int32_t>(d * 7919 % columns);
    starts[d + 1] = static_cast<std::int64_t>(d + 1);
  }
  const std::vector<std::uint8_t> bytes(columns);
  std::vector<std::int64_t> ids(tokens);
  std::vector<std::int32_t> spans;
  for (std::size_t t = 0; t < tokens; ++t) {
    ids[t] = static_cast<std::int64_t>(t * 31 % columns);
    const auto k = static_cast<std::int32_t>(t % length);
    spans.insert(spans.end(), {k, k + 1});
  }
  const auto offsets = even_offsets(batch, length);
  const tokentiming::Ragged<std::int64_t> sequences{ids, offsets};
  const tokentiming::ByteTable table{bytes, starts};
  const tokentiming::VocabularyMap map{first, first, starts, first};
  std::vector<float> probs(tokens * columns);
  std::vector<std::int8_t> cases(tokens);
  const auto run = [&] {
    tokentiming::transfer(rows_of(draft_probs.data(), tokens, columns), sequences, sequences, spans,
                          table, table, map, rows_of(probs.data(), tokens, columns), cases);
  };

  run();
  std::vector<float> expected(columns);
  for (std::size_t d = 0; d < columns; ++d) {
    expected[static_cast<std::size_t>(first[d])] += draft_probs[d];
  }
  if (!agree(state, std::equal(expected.begin(), expected.end(), probs.begin()),
             "transfer: the distribution of the first token")) {
    return;
  }

  measure(state, 2 * tokens * columns * sizeof(float) + columns * sizeof(std::int32_t), run);
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t columns : {32'000, 128'256, 262'144}) {
    for (const std::int64_t length : {4, 16, 64}) {
      for (const std::int64_t batch : {1, 16, 256}) {
        if (batch * length * 2 * columns * 4 > static_cast<std::int64_t>(kMostBytes)) continue;
        benchmark->Args({batch, length, columns});
      }
    }
  }
}

}  // namespace

BENCHMARK(transfer)
    ->ArgNames({"B", "K", "V"})
    ->Apply(sizes)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
