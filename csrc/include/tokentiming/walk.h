// Following the target's own tokens through trees of proposed tokens.
#pragma once

#include <cstdint>
#include <span>

#include "tokentiming/align.h"
#include "tokentiming/cuda.h"

namespace tokentiming {

// B concatenated trees of proposed tokens, N nodes in all. Tree b continues the committed text of
// sequence b. Parents come before their children.
template <class Id>
struct Forest {
  Ragged<Id> tokens;                      // of the nodes
  std::span<const std::int32_t> parents;  // N entries: the parent's index, counted from the first
                                          // node of the tree; -1 for a child of the committed text
};

// Walks each tree from its root along the tokens that the target has picked.
//
// The target has picked a token after the committed text of each sequence (the root) and after each
// node. The walk starts at the root. At each position it emits the picked token. If a child has
// this token, the child is accepted and the walk continues from it; otherwise the walk ends. Of
// several such children the first is taken. For any tree, the emitted tokens are those that the
// target alone would have picked.
//
//   picked    N + B entries, 0 or more: for tree b the token picked at its root, then those after
//             each of its nodes, from offsets[b] + b on
//   tokens    N + B entries: for tree b the emitted tokens, from offsets[b] + b on, then -1; they
//             are the accepted ones and an additional one
//   nodes     N entries: for tree b the accepted nodes, from offsets[b] on, then -1; counted from
//             the first node of the tree
//   accepted  B entries: the number of accepted nodes of a tree
//
// Time is O(N). A node whose token is below 0 is never accepted.
//
// Throws std::invalid_argument, before anything is written, if sizes disagree, there are more than
// 2^31 - 1 entries in `picked` or one is below 0, offsets are malformed, or a parent is not before
// its node.
//
// Defined for Id = std::int32_t and std::int64_t. Source: Miao et al., "SpecInfer: accelerating
// large language model serving with tree-based speculative inference and verification", arXiv
// 2305.09781, Algorithm 2 (VerifyGreedy).
template <class Id>
void walk(std::span<const std::int64_t> picked, const Forest<Id>& forest,
          std::span<std::int64_t> tokens, std::span<std::int32_t> nodes,
          std::span<std::int32_t> accepted);

namespace cuda {

// As tokentiming::walk, with the same results.
//
// A tree gets `accepted` -1, and -1 throughout its entries of `tokens` and `nodes`, if one of its
// parents is not before its node or a token picked in it is below 0. If its offsets are not a range
// of the tokens, it gets `accepted` -1; an entry that belongs to no tree is not written.
template <class Id>
void walk(std::span<const std::int64_t> picked, const Forest<Id>& forest,
          std::span<std::int64_t> tokens, std::span<std::int32_t> nodes,
          std::span<std::int32_t> accepted, Stream stream);

}  // namespace cuda

}  // namespace tokentiming
