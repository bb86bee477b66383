#include "common.h"
#include "tokentiming/sample.h"

namespace {

// B rows of V logits.
void sample(benchmark::State& state) {
  const auto rows = static_cast<std::size_t>(state.range(0));
  const auto columns = static_cast<std::size_t>(state.range(1));
  const auto logits = random_logits(rows * columns);
  std::vector<std::uint64_t> keys(columns);
  for (std::size_t v = 0; v < columns; ++v) keys[v] = v * 0x9E3779B97F4A7C15;
  std::vector<tokentiming::State> states;
  for (std::size_t r = 0; r < rows; ++r) states.push_back({static_cast<std::int64_t>(r), 7, 0});
  std::vector<std::int64_t> ids(rows);
  const auto matrix = rows_of(logits.data(), rows, columns);

  tokentiming::sample(matrix, keys, 1, states, ids);
  const tokentiming::Noise noise(1, states[0]);
  std::size_t best = 0;
  double best_score = -1e300;
  for (std::size_t v = 0; v < columns; ++v) {
    const double score = double{logits[v]} - noise.log_exponential(keys[v]);
    if (score > best_score) best = v, best_score = score;
  }
  if (!agree(state, ids[0] == static_cast<std::int64_t>(best), "sample: the winner")) return;

  measure(state, rows * columns * sizeof(float) + columns * sizeof(std::uint64_t),
          [&] { tokentiming::sample(matrix, keys, 1, states, ids); });
}

}  // namespace

BENCHMARK(sample)
    ->ArgNames({"B", "V"})
    ->ArgsProduct({{1, 9, 256}, {32'000, 128'256, 262'144}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
