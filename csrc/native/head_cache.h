// Keys or values of the tokens that one layer has read.
#pragma once

#include <cstddef>
#include <vector>

namespace tokentiming::native {

// For each key head, the vectors of all tokens, one after another. A layer has one for its keys and
// one for its values.
class HeadCache {
 public:
  HeadCache(std::size_t heads, std::size_t head_size) : head_size_(head_size), heads_(heads) {}

  // Appends one token: its vectors of all heads, concatenated.
  void append(const float* vectors) {
    for (std::vector<float>& head : heads_) {
      head.insert(head.end(), vectors, vectors + head_size_);
      vectors += head_size_;
    }
  }
  // Keeps the first `length` tokens.
  void truncate(std::size_t length) {
    for (std::vector<float>& head : heads_) head.resize(length * head_size_);
  }
  // [length, head_size]
  const float* head(std::size_t index) const { return heads_[index].data(); }

 private:
  std::size_t head_size_;
  std::vector<std::vector<float>> heads_;
};

}  // namespace tokentiming::native
