#include <numeric>

#include "common.h"
#include "real_tokens.h"

namespace {

// B pairs with K tokens a side. Pair b starts at token b.
void align(benchmark::State& state) {
  const auto batch = static_cast<std::size_t>(state.range(0));
  const auto length = static_cast<std::size_t>(state.range(1));
  const std::int64_t band = state.range(2);
  const Pieces draft(kSmolLM2);
  const Pieces target(kGemma3);
  std::vector<std::int64_t> ids;
  for (std::size_t b = 0; b < batch; ++b) {
    for (std::size_t k = 0; k < length; ++k) {
      ids.push_back(static_cast<std::int64_t>((b + k) % draft.size()));
    }
  }
  const auto offsets = even_offsets(batch, length);
  const tokentiming::Ragged<std::int64_t> sequences{ids, offsets};
  std::vector<std::int32_t> spans(2 * ids.size());
  std::vector<std::int64_t> costs(batch);

  // The path of a sequence against itself is the diagonal.
  tokentiming::align(sequences, sequences, draft.table(), draft.table(), band, spans, costs);
  const bool diagonal = std::accumulate(costs.begin(), costs.end(), std::int64_t{0}) == 0 &&
                        spans[0] == 0 && spans[2 * length - 1] == state.range(1);
  if (!agree(state, diagonal, "align: a sequence against itself")) return;

  const double seconds = seconds_of(state, [&] {
    tokentiming::align(sequences, sequences, draft.table(), target.table(), band, spans, costs);
  });
  state.counters["us_a_pair"] = 1e6 * seconds / static_cast<double>(batch);
}

}  // namespace

BENCHMARK(align)
    ->ArgNames({"B", "K", "band"})
    ->ArgsProduct({{1}, {4, 8, 16, 32, 64}, {8}})
    ->ArgsProduct({{1}, {64}, {0, 1, 2, 4, 16, 32, 63}})
    ->ArgsProduct({{16, 256}, {16}, {8}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
