// Calls `walk` with picked tokens, trees and offsets made of arbitrary bytes: it throws, or its
// result is as its header says.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "input.h"
#include "tokentiming/walk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const auto tokens = input.several_below(3);
  std::vector<std::int64_t> offsets = input.several_below(std::ssize(tokens) + 1);
  offsets.push_back(0);
  offsets.push_back(std::ssize(tokens));
  std::ranges::sort(offsets);
  if (input.number() < 0) offsets = input.numbers();
  std::vector<std::int32_t> parents;
  std::int64_t first = 0;  // of the tree
  for (std::int64_t i = 0; i < std::ssize(tokens); ++i) {
    if (std::ranges::find(offsets, i) != offsets.end()) first = i;
    const auto parent_and_1 = static_cast<std::uint64_t>(input.below(i - first + 1));
    parents.push_back(static_cast<std::int32_t>(parent_and_1 - 1));
  }
  const std::size_t batch = offsets.empty() ? 0 : offsets.size() - 1;
  std::vector<std::int64_t> picked(tokens.size() + batch);
  for (auto& token : picked) token = input.below(3);

  std::vector<std::int64_t> emitted(picked.size());
  std::vector<std::int32_t> nodes(tokens.size());
  std::vector<std::int32_t> accepted(batch);
  try {
    tokentiming::walk<std::int64_t>(picked, {{tokens, offsets}, parents}, emitted, nodes, accepted);
  } catch (const std::invalid_argument&) {
    return 0;
  }
  for (std::size_t b = 0; b < batch; ++b) {
    const auto begin = static_cast<std::size_t>(offsets[b]);
    const auto count = static_cast<std::size_t>(offsets[b + 1]) - begin;
    const auto length = static_cast<std::size_t>(accepted[b]);
    require(length <= count);
    std::int32_t current = -1;
    for (std::size_t k = 0; k <= count; ++k) {
      const std::int64_t token = emitted[begin + b + k];
      if (k > length) {
        require(token == -1);
        continue;
      }
      require(token == picked[begin + b + static_cast<std::size_t>(current + 1)]);
      // The first child that has the token; there is none at the end of the walk.
      std::size_t child = 0;
      while (child < count &&
             (parents[begin + child] != current || tokens[begin + child] != token)) {
        ++child;
      }
      require((child == count) == (k == length));
      if (k == length) continue;
      current = nodes[begin + k];
      require(current == static_cast<std::int32_t>(child));
    }
    for (std::size_t k = length; k < count; ++k) require(nodes[begin + k] == -1);
  }
  return 0;
}
