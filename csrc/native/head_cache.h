// Keys or values of one sequence in one layer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace tokentiming::native {

// For each key head, the vectors of all columns, one after another. A layer has one for its keys
// and one for its values.
class HeadCache {
 public:
  HeadCache(std::size_t heads, std::size_t head_size) : head_size_(head_size), heads_(heads) {}

  // Keeps the first `columns` columns; new ones are zero until they are written.
  void resize(std::size_t columns) {
    for (std::vector<float>& head : heads_) head.resize(columns * head_size_);
  }
  // Writes one column: its vectors of all heads, concatenated.
  void write(std::size_t column, const float* vectors) {
    for (std::vector<float>& head : heads_) {
      std::copy_n(vectors, head_size_, head.data() + column * head_size_);
      vectors += head_size_;
    }
  }
  // Copies column `from` to an earlier one.
  void move(std::size_t from, std::size_t to) {
    for (std::vector<float>& head : heads_) {
      std::copy_n(head.data() + from * head_size_, head_size_, head.data() + to * head_size_);
    }
  }
  // [columns, head_size]
  const float* head(std::size_t index) const { return heads_[index].data(); }

 private:
  std::size_t head_size_;
  std::vector<std::vector<float>> heads_;
};

}  // namespace tokentiming::native
