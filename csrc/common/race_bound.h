// A bound of -log E that a vector of floats can take.
#pragma once

namespace tokentiming {

// With w the upper 24 of the 64 bits, u >= w / 2^24 and E >= u, so -log E <= 24 log 2 - log w. The
// binary logarithm of w is bounded from below by reading the bits of the float w as a number, which
// joins the powers of two by straight lines under the curve. A bound of -log E is therefore
// kBoundOffset - kBoundSlope * (bits of the float w).
inline constexpr float kLog2 = 0.693147181f;
inline constexpr float kBoundSlope = kLog2 / static_cast<float>(1 << 23);
// 127 is the exponent bias of a float; 0.001 is far more than all rounding in between.
inline constexpr float kBoundOffset = kLog2 * (24 + 127) + 0.001f;

}  // namespace tokentiming
