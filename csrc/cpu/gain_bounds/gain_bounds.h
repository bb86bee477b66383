// Upper bounds of the noise -log E: the vectorised part of the race.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokentiming/sample.h"

namespace tokentiming {

// No -log E is greater: the smallest E is about 2^-65.
inline constexpr float kMaxGain = 46.0f;

// Writes, for each of `count` keys, an upper bound of -log E: mostly less than 0.1 above it where E
// is small, and never below.
using GainBounds = void (*)(const Noise& noise, const std::uint64_t* keys, std::size_t count,
                            float* bounds);

void gain_bounds_portable(const Noise&, const std::uint64_t*, std::size_t, float*);
void gain_bounds_avx2(const Noise&, const std::uint64_t*, std::size_t, float*);
void gain_bounds_avx512(const Noise&, const std::uint64_t*, std::size_t, float*);

// The same function for different processors: all write the same bits.
struct GainBoundsKernel {
  const char* name;
  GainBounds run;
};

// Those that this processor can run, the fastest first.
std::span<const GainBoundsKernel> gain_bounds_kernels();

}  // namespace tokentiming
