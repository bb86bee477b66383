// An upper bound of -log E, cheap to compute for a vector of floats.
#pragma once

namespace tokentiming {

// With w the upper 24 of the 64 bits, u >= w / 2^24 and E >= u, so -log E <= 24 log 2 - log w. The
// bits of the float w, read as an integer, are a lower bound of its binary logarithm: linear
// between powers of two, below the curve. The upper bound of -log E is therefore kBoundOffset -
// kBoundSlope * (bits of the float w).
inline constexpr float kLog2 = 0.693147181f;
inline constexpr float kBoundSlope = kLog2 / static_cast<float>(1 << 23);
// 127 is the exponent bias of a float; 0.001 is far more than all rounding of the bound itself.
//
// The margin does not cover the rounding of logit + bound, which grows with the logit and exceeds
// 0.001 above 1e5. A GPU rounds the sum up. The CPU rounds it to nearest. The result may be below
// the score, but is never below a float that the score reaches: rounding is monotonic and maps
// floats to themselves. Thresholds are floats.
inline constexpr float kBoundOffset = kLog2 * (24 + 127) + 0.001f;

}  // namespace tokentiming
