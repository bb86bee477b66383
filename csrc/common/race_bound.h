// A bound of -log E that a vector of floats can take.
#pragma once

namespace tokentiming {

// With w the upper 24 of the 64 bits, u >= w / 2^24 and E >= u, so -log E <= 24 log 2 - log w. The
// binary logarithm of w is bounded from below by reading the bits of the float w as a number, which
// joins the powers of two by straight lines under the curve. A bound of -log E is therefore
// kBoundOffset - kBoundSlope * (bits of the float w).
inline constexpr float kLog2 = 0.693147181f;
inline constexpr float kBoundSlope = kLog2 / static_cast<float>(1 << 23);
// 127 is the exponent bias of a float; 0.001 is far more than all rounding of the bound itself.
//
// It does not cover the rounding of a logit's sum with the bound: that grows with the logit, and is
// more than 0.001 above 1e5. A GPU rounds the sum upwards. On the CPU it is rounded to nearest and
// may be below the score, but never below a float that the score reaches: rounding keeps order, and
// leaves floats as they are. The thresholds that sums are compared with are such floats.
inline constexpr float kBoundOffset = kLog2 * (24 + 127) + 0.001f;

}  // namespace tokentiming
