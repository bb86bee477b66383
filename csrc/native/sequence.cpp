#include "native/sequence.h"

#include <algorithm>
#include <limits>

namespace tokentiming::native {

void Sequence::append(std::span<const std::int32_t> parents) {
  resize(length_ + pending() + parents.size());
  for (const std::int32_t parent : parents) {
    const std::size_t above = parent < 0 ? 0 : nodes_[static_cast<std::size_t>(parent)].depth;
    nodes_.push_back({parent, above + 1});
  }
}

void Sequence::mask(std::size_t node, float* scores) const {
  float* const pending = scores + length_;
  // If a node's depth equals the number of nodes up to it, all earlier nodes are its ancestors.
  while (nodes_[node].depth != node + 1) {
    const std::int32_t parent = nodes_[node].parent;
    std::fill(pending + (parent + 1), pending + node, -std::numeric_limits<float>::infinity());
    if (parent < 0) return;
    node = static_cast<std::size_t>(parent);
  }
}

void Sequence::keep(std::span<const std::int64_t> path) {
  for (std::size_t i = 0; i < path.size(); ++i) {
    const auto node = static_cast<std::size_t>(path[i]);
    if (node == i) continue;  // in its column already
    for (KeyCache& cache : keys_) cache.move(length_ + node, length_ + i);
    for (ValueCache& cache : values_) cache.move(length_ + node, length_ + i);
  }
  truncate(length_ + path.size());
}

void Sequence::truncate(std::size_t length) {
  resize(length);
  length_ = length;
  nodes_.clear();
}

void Sequence::resize(std::size_t columns) {
  for (KeyCache& cache : keys_) cache.resize(columns);
  for (ValueCache& cache : values_) cache.resize(columns);
}

}  // namespace tokentiming::native
