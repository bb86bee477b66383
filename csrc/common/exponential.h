// The noise of the exponential race: random bits, and log E computed from them. The arithmetic is
// the same on every processor.
//
// All functions are constexpr, so that CUDA kernels can call them (nvcc --expt-relaxed-constexpr).
// Every file that includes this is compiled without fused multiply-add.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "tokentiming/philox.h"

namespace tokentiming {

// ---- bits ----

// The Philox key of a sequence's noise, itself drawn from Philox.
constexpr Philox::Key noise_key(std::uint64_t seed, std::int64_t row) {
  const auto index = static_cast<std::uint64_t>(row);
  const auto stream =
      philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), 0, 0},
             {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return {stream[0], stream[1]};
}

constexpr std::uint64_t noise_bits(Philox::Key key, std::uint64_t token_key,
                                   std::uint32_t byte_offset, std::uint32_t empty_tokens) {
  const auto words =
      philox({static_cast<std::uint32_t>(token_key), static_cast<std::uint32_t>(token_key >> 32),
              byte_offset, empty_tokens},
             key);
  return std::uint64_t{words[0]} << 32 | words[1];
}

// ---- log E ----
// The standard library's logarithm may differ in the last bit between machines, and a bit can
// change a token. These functions use only +, -, * and /, whose results IEEE 754 fixes.

// The sum of kTerms terms 1 / (2k + 1) x^(k - kFirst) from k = kFirst on. powers[i] is x^(2^i). It
// adds the sums of both halves, which shortens the chain of dependent multiplications.
template <std::size_t kFirst, std::size_t kTerms>
constexpr double odd_reciprocals(const double* powers) {
  if constexpr (kTerms == 1) {
    return 1.0 / (2 * kFirst + 1);
  } else {
    constexpr std::size_t kHalf = kTerms / 2;
    return odd_reciprocals<kFirst, kHalf>(powers) +
           powers[std::countr_zero(kHalf)] * odd_reciprocals<kFirst + kHalf, kHalf>(powers);
  }
}

// log((1 + s) / (1 - s)) for |s| <= 1/3, by the odd power series of 2 atanh(s).
constexpr double log_ratio(double s) {
  double powers[4] = {s * s};
  for (int i = 1; i < 4; ++i) powers[i] = powers[i - 1] * powers[i - 1];
  return 2.0 * s * odd_reciprocals<0, 16>(powers);
}

// x is positive and normal.
constexpr double log_positive(double x) {
  constexpr double kLog2 = 0.693147180559945309417;
  constexpr auto kSqrtHalf = std::bit_cast<std::int64_t>(0.707106781186547524);
  // The power of two that leaves a mantissa between sqrt(1/2) and sqrt(2).
  const auto bits = std::bit_cast<std::int64_t>(x);
  const std::int64_t exponent = (bits - kSqrtHalf) >> 52;
  const auto mantissa = std::bit_cast<double>(bits - (exponent << 52));
  return static_cast<double>(exponent) * kLog2 + log_ratio((mantissa - 1.0) / (mantissa + 1.0));
}

// Doubles near 0 are dense and doubles near 1 are not. The lower half of the range, where E is
// small and decides the race, is computed from u. The upper half is computed from 1 - u, which is
// built from the complemented bits. No bit is lost at either end.
constexpr double log_exponential_of(std::uint64_t bits) {
  constexpr double kScale = 0x1p-64;
  if (bits >> 63 == 0) {
    const double u = (static_cast<double>(bits) + 0.5) * kScale;
    return log_positive(log_ratio(u / (2.0 - u)));  // E = -log(1 - u)
  }
  const double complement = (static_cast<double>(~bits) + 0.5) * kScale;
  return log_positive(-log_positive(complement));
}

}  // namespace tokentiming
