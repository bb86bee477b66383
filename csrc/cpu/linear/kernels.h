// The two ways to work out a linear layer.
#pragma once

#include <bit>
#include <cstdint>

#include "tokentiming/linear.h"

namespace tokentiming {

void linear_portable(const Linear& layer);
void linear_avx2(const Linear& layer);

inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

inline BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

}  // namespace tokentiming
