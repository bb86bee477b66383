// first_candidate, upper_words and first_reaching of kernels.h, written once for vectors of any
// width.
//
// A file that includes this defines the type `Words`, a vector of 32-bit words, in an unnamed
// namespace, so that no instance of the template is shared with another file:
//
//   Words::kCount                the words of a vector
//   Words::kVectors              the vectors that advance together: a round of Philox depends on
//                                the round before it, and one vector would leave units idle
//   Words::broadcast(word)       the word in every lane
//   Words::split(keys, lo, hi)   the lower and upper halves of kCount keys
//   a * b                        the 64-bit products of the lanes, as a Product
//   a ^ b
//   words.ordered()              the words in the order of the keys that they were split from
//   Words::load(from)
//   words.store(to)
//   words.candidates(logits, t)  one bit for each lane whose score may be t or more, the words
//                                being the upper halves of the noise bits, in order
#pragma once

#include "kernels.h"
#include "race_bound.h"
#include "tokentiming/philox.h"

namespace tokentiming::simd {

// Both halves of 64-bit products.
template <class Words>
struct Product {
  Words high, low;
};

// Philox for groups of kSize tokens, which have the constants of a draw in common.
template <class Words>
class PhiloxGroup {
 public:
  static constexpr std::size_t kVectors = Words::kVectors;
  static constexpr std::size_t kSize = kVectors * Words::kCount;

  [[gnu::always_inline]] explicit PhiloxGroup(const NoiseWords& noise)
      : counter2_(Words::broadcast(noise.counter[0])),
        counter3_(Words::broadcast(noise.counter[1])) {
    std::uint32_t key[2] = {noise.key[0], noise.key[1]};
    for (auto& round_key : round_keys_) {
      round_key[0] = Words::broadcast(key[0]);
      round_key[1] = Words::broadcast(key[1]);
      key[0] += Philox::kWeyl0;
      key[1] += Philox::kWeyl1;
    }
  }

  // The upper words of the noise bits, in order.
  [[gnu::always_inline]] void upper_words(const std::uint64_t* keys,
                                          Words (&words)[kVectors]) const {
    const Words multiplier0 = Words::broadcast(Philox::kMultiplier0);
    const Words multiplier1 = Words::broadcast(Philox::kMultiplier1);
    Words c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      Words::split(keys + v * Words::kCount, c0[v], c1[v]);
      c2[v] = counter2_;
      c3[v] = counter3_;
    }
#pragma GCC unroll 10
    for (int round = 0; round < Philox::kRounds; ++round) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        const Product<Words> product0 = c0[v] * multiplier0;
        const Product<Words> product1 = c2[v] * multiplier1;
        c0[v] = product1.high ^ c1[v] ^ round_keys_[round][0];
        c1[v] = product1.low;
        c2[v] = product0.high ^ c3[v] ^ round_keys_[round][1];
        c3[v] = product0.low;
      }
    }
    for (std::size_t v = 0; v < kVectors; ++v) words[v] = c0[v].ordered();
  }

 private:
  Words round_keys_[Philox::kRounds][2];
  Words counter2_;
  Words counter3_;
};

template <class Words>
std::size_t first_candidate(const NoiseWords& noise, const std::uint64_t* keys, const float* logits,
                            std::size_t count, float threshold) {
  using Group = PhiloxGroup<Words>;
  const Group group(noise);
  std::size_t k = 0;
  for (; k + Group::kSize <= count; k += Group::kSize) {
    Words words[Group::kVectors];
    group.upper_words(keys + k, words);
    std::uint32_t candidates = 0;  // one bit for each token of the group
    for (std::size_t v = 0; v < Group::kVectors; ++v) {
      candidates |= words[v].candidates(logits + k + v * Words::kCount, threshold)
                    << (v * Words::kCount);
    }
    if (candidates != 0) return k + static_cast<std::size_t>(__builtin_ctz(candidates));
  }
  if constexpr (Group::kSize == 1) {
    return count;
  } else {
    return k + first_candidate_portable(noise, keys + k, logits + k, count - k, threshold);
  }
}

template <class Words>
void upper_words(const NoiseWords& noise, const std::uint64_t* keys, std::size_t count,
                 std::uint32_t* words) {
  using Group = PhiloxGroup<Words>;
  const Group group(noise);
  std::size_t k = 0;
  for (; k + Group::kSize <= count; k += Group::kSize) {
    Words of_group[Group::kVectors];
    group.upper_words(keys + k, of_group);
    for (std::size_t v = 0; v < Group::kVectors; ++v)
      of_group[v].store(words + k + v * Words::kCount);
  }
  if constexpr (Group::kSize > 1) upper_words_portable(noise, keys + k, count - k, words + k);
}

template <class Words>
std::size_t first_reaching(const std::uint32_t* words, const float* logits, std::size_t count,
                           float threshold) {
  std::size_t k = 0;
  for (; k + Words::kCount <= count; k += Words::kCount) {
    const std::uint32_t reaching = Words::load(words + k).candidates(logits + k, threshold);
    if (reaching != 0) return k + static_cast<std::size_t>(__builtin_ctz(reaching));
  }
  if constexpr (Words::kCount == 1) {
    return count;
  } else {
    return k + first_reaching_portable(words + k, logits + k, count - k, threshold);
  }
}

}  // namespace tokentiming::simd
