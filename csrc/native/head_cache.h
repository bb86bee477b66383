// Keys or values of one sequence in one layer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "native/aligned_floats.h"
#include "native/kernels.h"

namespace tokentiming::native {

// For each key head, the value vectors of all columns, one after another.
class ValueCache {
 public:
  ValueCache(std::size_t heads, std::size_t head_size) : head_size_(head_size), heads_(heads) {}

  // Keeps the first `columns` columns; new ones have to be written before they are read.
  void resize(std::size_t columns) {
    for (AlignedFloats& head : heads_) head.resize(columns * head_size_);
  }
  // Writes one column: its vectors of all heads, concatenated.
  void write(std::size_t column, const float* vectors) {
    for (AlignedFloats& head : heads_) {
      std::copy_n(vectors, head_size_, head.data() + column * head_size_);
      vectors += head_size_;
    }
  }
  // Copies column `from` to an earlier one.
  void move(std::size_t from, std::size_t to) {
    for (AlignedFloats& head : heads_) {
      std::copy_n(head.data() + from * head_size_, head_size_, head.data() + to * head_size_);
    }
  }
  // [columns, head_size]
  const float* head(std::size_t index) const { return heads_[index].data(); }

 private:
  std::size_t head_size_;
  std::vector<AlignedFloats> heads_;
};

// As above, for keys: those of kKeyBlock columns are interleaved, so that the scores of these
// columns are sums of whole vectors.
class KeyCache {
 public:
  KeyCache(std::size_t heads, std::size_t head_size) : head_size_(head_size), heads_(heads) {}

  void resize(std::size_t columns) {
    for (AlignedFloats& head : heads_) head.resize(key_blocks(columns) * head_size_ * kKeyBlock);
  }
  void write(std::size_t column, const float* vectors) {
    for (AlignedFloats& head : heads_) {
      float* to = head.data() + place(column);
      for (std::size_t k = 0; k < head_size_; ++k) to[k * kKeyBlock] = vectors[k];
      vectors += head_size_;
    }
  }
  void move(std::size_t from, std::size_t to) {
    for (AlignedFloats& head : heads_) {
      const float* source = head.data() + place(from);
      float* target = head.data() + place(to);
      for (std::size_t k = 0; k < head_size_; ++k) target[k * kKeyBlock] = source[k * kKeyBlock];
    }
  }
  // [key_blocks(columns), head_size, kKeyBlock]
  const float* head(std::size_t index) const { return heads_[index].data(); }

 private:
  // The first entry of a column.
  std::size_t place(std::size_t column) const {
    return column / kKeyBlock * head_size_ * kKeyBlock + column % kKeyBlock;
  }

  std::size_t head_size_;
  std::vector<AlignedFloats> heads_;
};

}  // namespace tokentiming::native
