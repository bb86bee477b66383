#include <algorithm>

#include "common.h"
#include "tokentiming/walk.h"

namespace {

// B binary trees of K nodes, level by level. The target picks the second child everywhere.
void walk(benchmark::State& state) {
  const auto batch = static_cast<std::size_t>(state.range(0));
  const auto length = static_cast<std::size_t>(state.range(1));
  std::vector<std::int64_t> tokens;
  std::vector<std::int32_t> parents;
  for (std::size_t b = 0; b < batch; ++b) {
    for (std::size_t i = 0; i < length; ++i) {
      tokens.push_back(static_cast<std::int64_t>(i % 2));
      parents.push_back(i < 2 ? -1 : static_cast<std::int32_t>(i / 2) - 1);
    }
  }
  const auto offsets = even_offsets(batch, length);
  const std::vector<std::int64_t> picked(batch * (length + 1), 1);
  const tokentiming::Forest<std::int64_t> forest{{tokens, offsets}, parents};
  std::vector<std::int64_t> emitted(picked.size());
  std::vector<std::int32_t> nodes(tokens.size());
  std::vector<std::int32_t> accepted(batch);

  tokentiming::walk(picked, forest, emitted, nodes, accepted);
  // The second children are the nodes 1, 5, 13, ...: node i is followed by 2 i + 3.
  std::int32_t deepest = 0;
  for (std::size_t i = 1; i < length; i = 2 * i + 3) ++deepest;
  const bool all = std::ranges::all_of(accepted, [&](auto count) { return count == deepest; });
  if (!agree(state, all && nodes[0] == 1, "walk: every second child is accepted")) return;

  const double seconds =
      seconds_of(state, [&] { tokentiming::walk(picked, forest, emitted, nodes, accepted); });
  state.counters["ns_a_node"] = 1e9 * seconds / static_cast<double>(tokens.size());
}

}  // namespace

BENCHMARK(walk)
    ->ArgNames({"B", "K"})
    ->ArgsProduct({{1, 16, 256}, {8, 64, 512}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
