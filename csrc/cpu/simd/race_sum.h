// race_sum of kernels.h, written once for registers of any width.
#pragma once

#include "block_kernels.h"
#include "race_term.h"

namespace tokentiming::simd {
namespace {

using Floats = Register<float>;
using Integers = Register<std::int32_t>;
using Unsigned = Register<std::uint32_t>;

// As tokentiming::log2_survival.
inline Floats log2_survival(Unsigned words) {
  const auto half = std::bit_cast<Integers>(words >> 1);
  const Floats below = __builtin_convertvector(half, Floats) + 0.5f;
  const Floats above = __builtin_convertvector(0x7FFFFFFF - half, Floats);
  const Integers bits = std::bit_cast<Integers>(above) - kScaledSqrtHalf;
  const Integers exponent = bits >> 23;
  const auto mantissa = std::bit_cast<Floats>((bits & kFraction) + kSqrtHalf);
  const Floats t = exponent == 0 ? below * -0x1p-31f : mantissa - 1.0f;
  const Floats series =
      polynomial<kLog2Coefficients, float, 0, std::size(kLog2Coefficients)>(t, t * t);
  return __builtin_convertvector(exponent, Floats) + t * series;
}

RaceSum race_sum(const std::uint32_t* words, const float* logits, std::size_t count) {
  constexpr float kLog2E = 1.44269504f;
  const float maximum = reduce_max(logits, count);
  const Floats shift = broadcast(maximum > -kInfinity<float> ? maximum : 0.0f);
  const Floats lowest = hide_constant<float>(broadcast(Format<float>::kLowest));
  Accumulators<float> sums(0.0f);
  Accumulators<std::uint32_t> least(~0u);  // of words + kWordEdge
  const auto add = [&](std::size_t r, Unsigned word, Floats logit) {
    const Floats power = exp2_approx<float>((logit - shift) * kLog2E, lowest);
    sums.at[r] += power / log2_survival(word);
    const Unsigned shifted = word + kWordEdge;
    least.at[r] = shifted < least.at[r] ? shifted : least.at[r];
  };
  // The next block is prefetched while this one is computed. A prefetch past the end does no harm.
  auto next = reinterpret_cast<std::uintptr_t>(logits + count);
  std::size_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < kRegisters<float>; ++r) {
      __builtin_prefetch(reinterpret_cast<const void*>(next));
      next += kRegisterBytes;
      const std::size_t at = k + r * kWidth<float>;
      Unsigned word;
      Floats logit;
      __builtin_memcpy(&word, words + at, sizeof(word));
      __builtin_memcpy(&logit, logits + at, sizeof(logit));
      add(r, word, logit);
    }
  }
  if (k < count) {
    Unsigned rest_words[kRegisters<float>];
    Floats rest_logits[kRegisters<float>];
    for (auto& word : rest_words) word = broadcast(1u << 31);
    for (auto& logit : rest_logits) logit = broadcast(-kInfinity<float>);
    __builtin_memcpy(rest_words, words + k, (count - k) * sizeof(std::uint32_t));
    __builtin_memcpy(rest_logits, logits + k, (count - k) * sizeof(float));
    for (std::size_t r = 0; r < kRegisters<float>; ++r) add(r, rest_words[r], rest_logits[r]);
  }
  std::uint32_t lanes[kLanes];
  __builtin_memcpy(lanes, least.at, sizeof(lanes));
  bool inaccurate = false;
  for (const std::uint32_t lane : lanes) inaccurate |= lane < 2 * kWordEdge;
  return {maximum, -double{kLog2E} * sums.sum(), inaccurate};
}

}  // namespace
}  // namespace tokentiming::simd
