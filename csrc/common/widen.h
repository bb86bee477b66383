// Exact conversion from the number types of models to those of the arithmetic.
#pragma once

#include <bit>
#include <cstdint>

#include "tokentiming/rows.h"

namespace tokentiming {

[[gnu::always_inline]] constexpr float widen(BFloat16 x) {
  return std::bit_cast<float>(std::uint32_t{x.bits} << 16);
}

// Shifting exponent and fraction into a float's fields leaves the exponent 112 too small, also for
// subnormals. One multiplication corrects it. Infinity and NaN get a float's exponent of all ones.
[[gnu::always_inline]] constexpr float widen(Half x) {
  constexpr float kRebias = 0x1p112f;
  const std::uint32_t magnitude = x.bits & 0x7FFFu;
  const std::uint32_t special = magnitude >= 0x7C00u ? 0x7F800000u : 0u;
  const float scaled = std::bit_cast<float>(magnitude << 13) * kRebias;
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | sign);
}

[[gnu::always_inline]] constexpr float widen(float x) { return x; }
[[gnu::always_inline]] constexpr double widen(double x) { return x; }

// The type in which arithmetic on a number is done.
template <class Number>
using Wide = decltype(widen(Number{}));

}  // namespace tokentiming
