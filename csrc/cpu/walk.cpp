#include "tokentiming/walk.h"

#include <algorithm>
#include <string>

#include "tokens.h"
#include "walk_checks.h"

namespace tokentiming {
namespace {

constexpr const char* kWalk = "walk";

// One tree, and the tokens that the target has picked in it.
template <class Id>
struct Tree {
  std::span<const Id> tokens;
  std::span<const std::int32_t> parents;
  std::span<const std::int64_t> picked;  // at the root, then after each node
};

// The outputs of a tree.
struct Path {
  std::span<std::int64_t> tokens;
  std::span<std::int32_t> nodes;
};

// The nodes or the rows of tree b: a row is a node, or one of the roots.
struct Range {
  std::size_t begin;
  std::size_t count;

  template <class T>
  std::span<T> of(std::span<T> entries) const {
    return entries.subspan(begin, count);
  }
};
Range nodes_of(std::span<const std::int64_t> offsets, std::size_t b) {
  const auto begin = static_cast<std::size_t>(offsets[b]);
  return {begin, static_cast<std::size_t>(offsets[b + 1]) - begin};
}
Range rows_of(std::span<const std::int64_t> offsets, std::size_t b) {
  const Range nodes = nodes_of(offsets, b);
  return {nodes.begin + b, nodes.count + 1};
}

void check_parents(std::span<const std::int32_t> parents, std::size_t first) {
  for (std::size_t i = 0; i < parents.size(); ++i) {
    if (parents[i] >= -1 && parents[i] < static_cast<std::int64_t>(i)) continue;
    refuse(kWalk, "parents[" + std::to_string(first + i) + "] is " + std::to_string(parents[i]) +
                      "; it is node " + std::to_string(i) +
                      " of its tree, and its parent must be -1 or a node before it");
  }
}

void check_picked(std::span<const std::int64_t> picked) {
  const auto negative = std::ranges::find_if(picked, [](std::int64_t token) { return token < 0; });
  if (negative == picked.end()) return;
  refuse(kWalk, "picked[" + std::to_string(negative - picked.begin()) + "] is " +
                    std::to_string(*negative) + "; a token must be 0 or more");
}

// Returns the number of accepted nodes. A node comes after its parent, so that one pass over the
// nodes reaches the children of the current node after the node itself.
template <class Id>
std::size_t walk_tree(const Tree<Id>& tree, const Path& path) {
  std::size_t accepted = 0;
  std::int32_t current = -1;
  std::int64_t token = tree.picked[0];
  for (std::size_t i = 0; i < tree.tokens.size(); ++i) {
    if (tree.parents[i] != current || tree.tokens[i] != token) continue;
    current = static_cast<std::int32_t>(i);
    path.tokens[accepted] = token;
    path.nodes[accepted] = current;
    token = tree.picked[i + 1];
    ++accepted;
  }
  path.tokens[accepted] = token;
  std::ranges::fill(path.tokens.subspan(accepted + 1), -1);
  std::ranges::fill(path.nodes.subspan(accepted), -1);
  return accepted;
}

}  // namespace

template <class Id>
void walk(std::span<const std::int64_t> picked, const Forest<Id>& forest,
          std::span<std::int64_t> tokens, std::span<std::int32_t> nodes,
          std::span<std::int32_t> accepted) {
  check_offsets(forest.tokens, kWalk, "offsets", "tokens");
  check_walk_sizes(picked.size(), forest, tokens.size(), nodes.size(), accepted.size());
  const auto& offsets = forest.tokens.offsets;
  for (std::size_t b = 0; b < accepted.size(); ++b) {
    const Range range = nodes_of(offsets, b);
    check_parents(range.of(forest.parents), range.begin);
  }
  check_picked(picked);

  for (std::size_t b = 0; b < accepted.size(); ++b) {
    const Range range = nodes_of(offsets, b);
    const Range rows = rows_of(offsets, b);
    const Tree<Id> tree{range.of(forest.tokens.ids), range.of(forest.parents), rows.of(picked)};
    accepted[b] = static_cast<std::int32_t>(walk_tree(tree, {rows.of(tokens), range.of(nodes)}));
  }
}

template void walk(std::span<const std::int64_t>, const Forest<std::int32_t>&,
                   std::span<std::int64_t>, std::span<std::int32_t>, std::span<std::int32_t>);
template void walk(std::span<const std::int64_t>, const Forest<std::int64_t>&,
                   std::span<std::int64_t>, std::span<std::int32_t>, std::span<std::int32_t>);

}  // namespace tokentiming
