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

// Writes bounds for as many keys as fill whole vectors and returns that number.
//
// A Lanes holds Lanes::kCount lanes of 64 bits. A word of Philox lies in the lower half of its
// lane; the upper half may hold anything, for a multiplication reads the lower halves alone.
template <class Lanes>
std::size_t gain_bounds_in_lanes(const Noise& noise, const std::uint64_t* keys, std::size_t count,
                                 float* bounds) {
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
  for (; done + Lanes::kCount <= count; done += Lanes::kCount) {
    Lanes c0 = Lanes::load(keys + done);
    Lanes c1 = high(c0);
    Lanes c2 = byte_offset;
    Lanes c3 = empty_tokens;
    for (const auto& round_key : round_keys) {
      const Lanes product0 = c0 * multiplier0;
      const Lanes product1 = c2 * multiplier1;
      c0 = high(product1) ^ c1 ^ round_key[0];
      c1 = product1;
      c2 = high(product0) ^ c3 ^ round_key[1];
      c3 = product0;
    }
    store_bounds(c0, bounds + done);
  }
  return done;
}

}  // namespace tokentiming
