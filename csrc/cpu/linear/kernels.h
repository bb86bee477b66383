// Products of a few rows of floats with bfloat16 or 8-bit weights: the shape of a verification.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokentiming/linear.h"
#include "widen.h"

namespace tokentiming {

// To nearest even.
inline BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

void linear_portable(const Linear& layer);

// Weight rows worked on at a time by a thread; a multiple of most tiles'.
inline constexpr std::size_t kOutputBlock = 48;

// Input rows in the order in which dot_products_avx2 reads them. The vectors lie on their own size.
struct alignas(32) EightFloats {
  float at[8];
};
struct LaidOut {
  std::vector<EightFloats> memory;
  std::size_t rows = 0;
  std::size_t in_features = 0;

  void resize(std::size_t new_rows, std::size_t new_in_features) {
    rows = new_rows;
    in_features = new_in_features;
    memory.resize((rows * in_features + 7) / 8);
  }
  float* data() { return reinterpret_cast<float*>(memory.data()); }
  const float* data() const { return reinterpret_cast<const float*>(memory.data()); }
};

// The two steps of the fast way. Their file is compiled for newer processors than the rest, so
// nothing in it may be a function that another file shares: no containers, no threads.
//
// Writes `rows` contiguous rows as floats in the order that the next step needs.
void lay_out_avx2(const BFloat16* input, std::size_t rows, std::size_t in_features, float* floats);
void lay_out_avx2(const float* input, std::size_t rows, std::size_t in_features, float* floats);

// products[r * stride + n] = sum over k of input[r, k] * weight[n, k] for n in first .. last - 1,
// at most kOutputBlock of them; `floats` are the laid-out rows. 8-bit weights lie in their order:
// each run of 16 as its 8 even places and then its 8 odd ones.
void dot_products_avx2(const float* floats, std::size_t rows, std::size_t in_features,
                       const BFloat16* weight, std::size_t first, std::size_t last, float* products,
                       std::size_t stride);
void dot_products_avx2(const float* floats, std::size_t rows, std::size_t in_features,
                       const std::int8_t* weight, std::size_t first, std::size_t last,
                       float* products, std::size_t stride);

}  // namespace tokentiming
