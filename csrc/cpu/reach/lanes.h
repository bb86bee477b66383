// The search of reach.h written once, for any width of vector.
//
// Every file that includes this is compiled for its own processor and defines its own type `Lanes`
// in an unnamed namespace, so that no function made from this template is shared between files.
#pragma once

#include "race_bound.h"
#include "reach.h"
#include "tokentiming/philox.h"

namespace tokentiming {

// Both halves of 64-bit products.
template <class Words>
struct Product {
  Words high, low;
};

// Where the search ended: at a token, or for want of a whole group of vectors.
struct Position {
  std::size_t position;
  bool is_candidate;
};

// Searches as many tokens as fill whole groups of vectors.
//
// A Lanes holds Lanes::kCount words of 32 bits. Lanes::kVectors of them advance side by side: a
// round of Philox waits for the one before, so that one vector alone would leave units idle.
template <class Words>
Position first_candidate_in_vectors(const NoiseWords& noise, const std::uint64_t* keys,
                                    const float* logits, std::size_t count, float threshold) {
  constexpr std::size_t kVectors = Words::kVectors;
  constexpr std::size_t kGroup = kVectors * Words::kCount;
  const Words multiplier0 = Words::broadcast(Philox::kMultiplier0);
  const Words multiplier1 = Words::broadcast(Philox::kMultiplier1);
  Words round_keys[Philox::kRounds][2];
  std::uint32_t key[2] = {noise.key[0], noise.key[1]};
  for (auto& round_key : round_keys) {
    round_key[0] = Words::broadcast(key[0]);
    round_key[1] = Words::broadcast(key[1]);
    key[0] += Philox::kWeyl0;
    key[1] += Philox::kWeyl1;
  }

  std::size_t done = 0;
  for (; done + kGroup <= count; done += kGroup) {
    Words c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      Words::split(keys + done + v * Words::kCount, c0[v], c1[v]);
      c2[v] = Words::broadcast(noise.counter[0]);
      c3[v] = Words::broadcast(noise.counter[1]);
    }
#pragma GCC unroll 10
    for (int round = 0; round < Philox::kRounds; ++round) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        const Product<Words> product0 = c0[v] * multiplier0;
        const Product<Words> product1 = c2[v] * multiplier1;
        c0[v] = product1.high ^ c1[v] ^ round_keys[round][0];
        c1[v] = product1.low;
        c2[v] = product0.high ^ c3[v] ^ round_keys[round][1];
        c3[v] = product0.low;
      }
    }
    std::uint32_t candidates = 0;  // a bit for each token of the group
    for (std::size_t v = 0; v < kVectors; ++v) {
      candidates |= c0[v].candidates(logits + done + v * Words::kCount, threshold)
                    << (v * Words::kCount);
    }
    if (candidates != 0) {
      return {done + static_cast<std::size_t>(__builtin_ctz(candidates)), true};
    }
  }
  return {done, false};
}

}  // namespace tokentiming
