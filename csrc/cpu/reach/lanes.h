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
template <class Lanes>
struct Product {
  Lanes high, low;
};

// Where the search ended: at a token, or for want of a whole group of vectors.
struct Found {
  std::size_t position;
  bool token;
};

// Searches as many tokens as fill whole groups of vectors.
//
// A Lanes holds Lanes::kCount words of 32 bits. Lanes::kVectors of them advance side by side: a
// round of Philox waits for the one before, so that one vector alone would leave units idle.
template <class Lanes>
Found first_reaching_in_lanes(const NoiseWords& noise, const std::uint64_t* keys,
                              const float* logits, std::size_t count, float threshold) {
  constexpr std::size_t kVectors = Lanes::kVectors;
  constexpr std::size_t kGroup = kVectors * Lanes::kCount;
  const Lanes multiplier0 = Lanes::broadcast(Philox::kMultiplier0);
  const Lanes multiplier1 = Lanes::broadcast(Philox::kMultiplier1);
  Lanes round_keys[Philox::kRounds][2];
  std::uint32_t key[2] = {noise.key[0], noise.key[1]};
  for (auto& round_key : round_keys) {
    round_key[0] = Lanes::broadcast(key[0]);
    round_key[1] = Lanes::broadcast(key[1]);
    key[0] += Philox::kWeyl0;
    key[1] += Philox::kWeyl1;
  }

  std::size_t done = 0;
  for (; done + kGroup <= count; done += kGroup) {
    Lanes c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      Lanes::split(keys + done + v * Lanes::kCount, c0[v], c1[v]);
      c2[v] = Lanes::broadcast(noise.counter[0]);
      c3[v] = Lanes::broadcast(noise.counter[1]);
    }
#pragma GCC unroll 10
    for (int round = 0; round < Philox::kRounds; ++round) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        const Product<Lanes> product0 = c0[v] * multiplier0;
        const Product<Lanes> product1 = c2[v] * multiplier1;
        c0[v] = product1.high ^ c1[v] ^ round_keys[round][0];
        c1[v] = product1.low;
        c2[v] = product0.high ^ c3[v] ^ round_keys[round][1];
        c3[v] = product0.low;
      }
    }
    std::uint32_t reaching = 0;  // a bit for each token of the group
    for (std::size_t v = 0; v < kVectors; ++v) {
      reaching |= c0[v].reaching(logits + done + v * Lanes::kCount, threshold)
                  << (v * Lanes::kCount);
    }
    if (reaching != 0) {
      return {done + static_cast<std::size_t>(__builtin_ctz(reaching)), true};
    }
  }
  return {done, false};
}

}  // namespace tokentiming
