// Rounding to bfloat16.
#pragma once

#include <bit>
#include <cstdint>

#include "tokentiming/rows.h"

namespace tokentiming::native {

// Rounds to nearest even. NaN stays NaN.
inline BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

}  // namespace tokentiming::native
