// The two ways to work out a linear layer.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "tokentiming/linear.h"
#include "widen.h"

namespace tokentiming {

// To nearest even.
inline BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

void linear_portable(const Linear& layer);

// The two steps of the fast way. Their file is compiled for newer processors than the rest, so
// nothing in it may be a function that another file shares: no containers, no threads.
//
// Writes the input as floats in the order in which linear_avx2 reads it.
void lay_out_avx2(const Linear& layer, float* floats);
// Works out the outputs first .. last - 1 of all rows, `floats` being the laid-out input.
void linear_avx2(const Linear& layer, const float* floats, std::size_t first, std::size_t last);

}  // namespace tokentiming
