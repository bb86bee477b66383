#include <algorithm>

#include "common.h"
#include "tokentiming/verify.h"

namespace {

using tokentiming::Distributions;

// B chains of K tokens over V, given as logits. Draft and target agree, so that every token is
// accepted and every row is read.
void verify(benchmark::State& state) {
  const auto batch = static_cast<std::size_t>(state.range(0));
  const auto length = static_cast<std::size_t>(state.range(1));
  const auto columns = static_cast<std::size_t>(state.range(2));
  const std::size_t drafted = batch * length;
  const std::size_t targets = drafted + batch;
  std::vector<float> target = random_logits(targets * columns);
  std::vector<float> draft;
  draft.reserve(drafted * columns);
  for (std::size_t b = 0; b < batch; ++b) {
    const auto begin = target.begin() + static_cast<std::ptrdiff_t>(b * (length + 1) * columns);
    draft.insert(draft.end(), begin, begin + static_cast<std::ptrdiff_t>(length * columns));
  }
  std::vector<std::int64_t> ids(drafted);
  for (std::size_t t = 0; t < drafted; ++t) {
    const auto row = draft.begin() + static_cast<std::ptrdiff_t>(t * columns);
    ids[t] = std::max_element(row, row + static_cast<std::ptrdiff_t>(columns)) - row;
  }
  const auto offsets = even_offsets(batch, length);
  const std::vector<float> uniforms(targets, 0.5F);
  std::vector<std::int32_t> tokens(targets);
  std::vector<std::int32_t> accepted(batch);
  const tokentiming::Chains<std::int64_t> chains{
      {ids, offsets},
      Distributions{rows_of<const float>(draft.data(), drafted, columns), /*is_logits=*/true},
      Distributions{rows_of<const float>(target.data(), targets, columns), /*is_logits=*/true},
      1.0,
      std::span<const float>(uniforms)};
  const auto out = rows_of(tokens.data(), batch, length + 1);

  tokentiming::verify(chains, out, accepted);
  const bool all = std::ranges::all_of(
      accepted, [&](std::int32_t count) { return count == static_cast<std::int32_t>(length); });
  if (!agree(state, all && std::equal(ids.begin(), ids.begin() + state.range(1), tokens.begin()),
             "verify: every token is accepted")) {
    return;
  }

  measure(state, (drafted + targets) * columns * sizeof(float),
          [&] { tokentiming::verify(chains, out, accepted); });
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t columns : {32'000, 128'256, 262'144}) {
    for (const std::int64_t length : {4, 8, 16, 64}) {
      for (const std::int64_t batch : {1, 16, 256}) {
        const std::int64_t rows = batch * (2 * length + 1);
        if (rows * columns * 4 > static_cast<std::int64_t>(kMostBytes)) continue;
        benchmark->Args({batch, length, columns});
      }
    }
  }
}

}  // namespace

BENCHMARK(verify)
    ->ArgNames({"B", "K", "V"})
    ->Apply(sizes)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
