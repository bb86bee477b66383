// The bounds of gain_bounds.h written once, for any width of vector.
//
// Every file that includes this is compiled for its own processor and defines its own type `Lanes`
// in an unnamed namespace, so that no function made from this template is shared between files.
#pragma once

#include <array>

#include "gain_bounds.h"

namespace tokentiming {

// With w the upper 24 of the 64 bits, u >= w / 2^24 and E >= u, so -log E <= 24 log 2 - log w. The
// binary logarithm of w is bounded from below by reading the bits of the float w as a number, which
// joins the powers of two by straight lines under the curve. A bound is therefore
// kBoundOffset - kBoundSlope * (bits of the float w).
inline constexpr float kLog2 = 0.693147181f;
inline constexpr float kBoundSlope = kLog2 / static_cast<float>(1 << 23);
// 127 is the exponent bias of a float; 0.001 is far more than all rounding in between.
inline constexpr float kBoundOffset = kLog2 * (24 + 127) + 0.001f;

// Both halves of 64-bit products.
template <class Lanes>
struct Product {
  Lanes high, low;
};

// Writes bounds for as many keys as fill whole vectors and returns that number.
//
// A Lanes holds Lanes::kCount words of 32 bits. Lanes::kVectors of them advance side by side: a
// round of Philox waits for the one before, so that one vector alone would leave units idle.
template <class Lanes>
std::size_t gain_bounds_in_lanes(const Noise& noise, const std::uint64_t* keys, std::size_t count,
                                 float* bounds) {
  constexpr std::size_t kVectors = Lanes::kVectors;
  const Lanes multiplier0 = Lanes::broadcast(Philox::kMultiplier0);
  const Lanes multiplier1 = Lanes::broadcast(Philox::kMultiplier1);
  const Lanes byte_offset = Lanes::broadcast(noise.byte_offset());
  const Lanes empty_tokens = Lanes::broadcast(noise.empty_tokens());
  Lanes round_keys[Philox::kRounds][2];
  Philox::Key key = noise.key();
  for (auto& round_key : round_keys) {
    round_key[0] = Lanes::broadcast(key[0]);
    round_key[1] = Lanes::broadcast(key[1]);
    key[0] += Philox::kWeyl0;
    key[1] += Philox::kWeyl1;
  }

  std::size_t done = 0;
  for (; done + kVectors * Lanes::kCount <= count; done += kVectors * Lanes::kCount) {
    Lanes c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      Lanes::split(keys + done + v * Lanes::kCount, c0[v], c1[v]);
      c2[v] = byte_offset;
      c3[v] = empty_tokens;
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
    for (std::size_t v = 0; v < kVectors; ++v) {
      store_bounds(c0[v], bounds + done + v * Lanes::kCount);
    }
  }
  return done;
}

}  // namespace tokentiming
