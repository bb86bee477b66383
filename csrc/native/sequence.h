// What a transformer has read of one sequence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "native/head_cache.h"

namespace tokentiming::native {

// Committed tokens, and the pending nodes of a tree after them, with their keys and values. The
// committed tokens are in columns 0 .. length - 1, pending node n is in column length + n.
//
// Arguments are not checked here: Transformer has done so.
class Sequence {
 public:
  Sequence(std::size_t layers, std::size_t heads, std::size_t head_size)
      : keys_(layers, KeyCache(heads, head_size)), values_(layers, ValueCache(heads, head_size)) {}

  // The number of committed tokens.
  std::size_t length() const { return length_; }
  // The number of pending nodes.
  std::size_t pending() const { return nodes_.size(); }
  // -1: the node follows the committed tokens directly.
  std::int32_t parent(std::size_t node) const { return nodes_[node].parent; }
  // The node's position in its path, from the first committed token on.
  std::size_t position(std::size_t node) const { return length_ + nodes_[node].depth - 1; }
  // The number of columns up to the node's own.
  std::size_t columns_to(std::size_t node) const { return length_ + node + 1; }

  // Adds pending nodes, whose keys and values have to be written before they are read.
  void append(std::span<const std::int32_t> parents);

  // Writes the vectors of all heads of a pending node, concatenated.
  void write(std::size_t layer, std::size_t node, const float* key, const float* value) {
    keys_[layer].write(length_ + node, key);
    values_[layer].write(length_ + node, value);
  }
  // In blocks of keys (kernels.h).
  const float* keys(std::size_t layer, std::size_t head) const { return keys_[layer].head(head); }
  // [length + pending, head_size]
  const float* values(std::size_t layer, std::size_t head) const {
    return values_[layer].head(head);
  }

  // Masks a pending node's scores, one for each column up to its own: sets those of pending nodes
  // that are not its ancestors to -infinity.
  void mask(std::size_t node, float* scores) const;

  // Commits the nodes of a path, in this order, and forgets all other pending nodes.
  void keep(std::span<const std::int64_t> path);
  // Forgets the pending nodes, and all but the first `length` committed tokens.
  void truncate(std::size_t length);

 private:
  struct Node {
    std::int32_t parent;
    std::size_t depth;  // nodes on its path, itself included
  };

  void resize(std::size_t columns);

  std::size_t length_ = 0;
  std::vector<Node> nodes_;
  std::vector<KeyCache> keys_;  // one for each layer
  std::vector<ValueCache> values_;
};

}  // namespace tokentiming::native
