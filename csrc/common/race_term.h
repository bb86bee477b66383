// 1 / E in single precision, from the upper word of a token's noise bits. It is used in sums over a
// whole row, where an error of about 1e-5 does not matter. The scores that decide a race are
// computed in double (exponential.h).
//
// With u the quantile of E, log2(1 - u) = -E / log 2. It is computed from the upper 32 bits of u,
// to a relative error of 4e-5: 8e-6 from the polynomial, the rest from the missing bits of u. Words
// near either end, one in 65,536, need all 64 bits; the 1 / E of a small word may be the greatest
// of the row.
//
// Every file that includes this is compiled without fused multiply-add.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace tokentiming {

inline constexpr std::uint32_t kWordEdge = 1u << 15;

constexpr bool needs_all_bits(std::uint32_t word) { return word + kWordEdge < 2 * kWordEdge; }

// The coefficients of c_0 + c_1 t + ... , the polynomial with the least maximum relative error from
// log2(1 + t) / t on [sqrt(1/2) - 1, sqrt(2) - 1].
inline constexpr float kLog2Coefficients[] = {0x1.7154e4p+0f,  -0x1.7141f6p-1f, 0x1.eb53ccp-2f,
                                              -0x1.77499ap-2f, 0x1.45d634p-2f,  -0x1.a64782p-3f};

// The floats sqrt(1/2) and 2^31 sqrt(1/2), as integers.
inline constexpr auto kSqrtHalf = std::bit_cast<std::int32_t>(0x1.6a09e6p-1f);
inline constexpr auto kScaledSqrtHalf = std::bit_cast<std::int32_t>(0x1.6a09e6p+30f);
inline constexpr std::int32_t kFraction = 0x7FFFFF;  // the bits of a float's fraction

// The polynomial from coefficient k on. Device code can read the coefficients only as constants.
template <std::size_t k = 0>
constexpr float log2_series(float t) {
  constexpr float kCoefficient = kLog2Coefficients[k];
  if constexpr (k + 1 == std::size(kLog2Coefficients)) {
    return kCoefficient;
  } else {
    return kCoefficient + t * log2_series<k + 1>(t);
  }
}

// log2(1 - u), negative. Inaccurate for words that need all bits.
constexpr float log2_survival(std::uint32_t word) {
  const auto half = static_cast<std::int32_t>(word >> 1);
  const float below = static_cast<float>(half) + 0.5f;        // 2^31 u
  const float above = static_cast<float>(0x7FFFFFFF - half);  // 2^31 (1 - u)
  // 1 - u as a power of two and a mantissa between sqrt(1/2) and sqrt(2).
  const std::int32_t bits = std::bit_cast<std::int32_t>(above) - kScaledSqrtHalf;
  const std::int32_t exponent = bits >> 23;
  const auto mantissa = std::bit_cast<float>((bits & kFraction) + kSqrtHalf);
  // Near 1 the mantissa has lost the remaining bits of u.
  const float t = exponent == 0 ? below * -0x1p-31f : mantissa - 1.0f;
  return static_cast<float>(exponent) + t * log2_series(t);
}

}  // namespace tokentiming
