// What a layer remembers, and attention over it.
#pragma once

#include <cstddef>
#include <vector>

namespace tokentiming {

// Keys or values of one layer: for each key head the tokens read, one after another.
class Memory {
 public:
  Memory(std::size_t heads, std::size_t head_size) : head_size_(head_size), heads_(heads) {}

  // Appends a token's vectors, laid end to end.
  void append(const float* vectors) {
    for (std::vector<float>& head : heads_) {
      head.insert(head.end(), vectors, vectors + head_size_);
      vectors += head_size_;
    }
  }
  void truncate(std::size_t length) {
    for (std::vector<float>& head : heads_) head.resize(length * head_size_);
  }
  const float* head(std::size_t index) const { return heads_[index].data(); }

 private:
  std::size_t head_size_;
  std::vector<std::vector<float>> heads_;
};

// The two steps of one query head's attention over the first `length` tokens, a softmax of the
// scores between them. All vectors are of head_size, a multiple of 8. Their file is compiled for
// newer processors than the rest, so nothing in it may be a function that another file shares.
//
// scores[t] = query . keys[t]
void score_avx2(const float* query, const float* keys, std::size_t length, std::size_t head_size,
                float* scores);
// out = sum over t of weights[t] * values[t]
void mix_avx2(const float* weights, const float* values, std::size_t length, std::size_t head_size,
              float* out);

}  // namespace tokentiming
