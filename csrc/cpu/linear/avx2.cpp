// Tiles of a few input rows by a few weight rows, all sums in registers.
//
// A vector of 16 weights is two vectors of 8 floats once the bfloat16 at even places are shifted up
// and those at odd places are masked: no shuffle is needed if the input lies in the same order. The
// input is a few rows only, so it is laid out so beforehand.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace tokentiming {
namespace {

constexpr std::size_t kStep = 16;     // weights a vector
constexpr std::size_t kMostRows = 6;  // input rows a tile
constexpr std::size_t kOutputBlock =
    48;  // weight rows handed to a thread, a multiple of any tile's

// The input as floats, each run of 16 as its 8 even places and then its 8 odd ones; an incomplete
// last run stays in order.
std::vector<float> laid_out(const Linear& layer) {
  std::vector<float> floats(layer.rows * layer.in_features);
  const std::size_t whole = layer.in_features / kStep * kStep;
  for (std::size_t r = 0; r < layer.rows; ++r) {
    const BFloat16* from = layer.input + r * layer.in_features;
    float* to = floats.data() + r * layer.in_features;
    for (std::size_t k = 0; k < layer.in_features; ++k) {
      const std::size_t place = k % kStep / 2 + k % 2 * (kStep / 2);
      to[k < whole ? k / kStep * kStep + place : k] = to_float(from[k]);
    }
  }
  return floats;
}

inline float sum_of_lanes(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// Keeps a value in its register: the compiler would otherwise load it again for each use, and loads
// are what these loops run out of first.
inline void pin(__m256& v) { asm("" : "+x"(v)); }

template <std::size_t kRows, std::size_t kOutputs>
void tile(const Linear& layer, const float* input, std::size_t row, std::size_t output) {
  const std::size_t in = layer.in_features;
  const BFloat16* weight = layer.weight + output * in;
  const float* x = input + row * in;
  __m256 sums[kRows][kOutputs] = {};
  __m256 w[kOutputs];
  const auto accumulate = [&](std::size_t k) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      __m256 value = _mm256_loadu_ps(x + r * in + k);
      pin(value);
#pragma GCC unroll 8
      for (std::size_t n = 0; n < kOutputs; ++n) {
        sums[r][n] = _mm256_fmadd_ps(value, w[n], sums[r][n]);
      }
    }
  };
  std::size_t k = 0;
  for (; k + kStep <= in; k += kStep) {
    const auto weights = [&](std::size_t n) __attribute__((always_inline)) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight + n * in + k));
    };
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      // The next tile's weights travel while this one is worked on.
      _mm_prefetch(reinterpret_cast<const char*>(weight + (n + kOutputs) * in + k), _MM_HINT_T0);
      w[n] = _mm256_castsi256_ps(_mm256_slli_epi32(weights(n), 16));
      pin(w[n]);
    }
    accumulate(k);
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      // Two shifts rather than a mask, which would cost the register that holds it.
      w[n] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(weights(n), 16), 16));
      pin(w[n]);
    }
    accumulate(k + kStep / 2);
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t n = 0; n < kOutputs; ++n) {
      float sum = sum_of_lanes(sums[r][n]);
      for (std::size_t i = k; i < in; ++i) sum += x[r * in + i] * to_float(weight[n * in + i]);
      if (layer.bias) sum += to_float(layer.bias[output + n]);
      layer.output[(row + r) * layer.out_features + output + n] = to_bfloat16(sum);
    }
  }
}

// All outputs of a range for kRows rows: kOutputs at a time, then the rest one by one.
template <std::size_t kRows, std::size_t kOutputs>
void range(const Linear& layer, const float* input, std::size_t row, std::size_t first,
           std::size_t last) {
  for (; first + kOutputs <= last; first += kOutputs) {
    tile<kRows, kOutputs>(layer, input, row, first);
  }
  for (; first < last; ++first) tile<kRows, 1>(layer, input, row, first);
}

// As many weight rows a tile as leave the sums in the 16 registers.
using Range = void (*)(const Linear&, const float*, std::size_t, std::size_t, std::size_t);
constexpr std::array<Range, kMostRows + 1> kRanges = {
    nullptr, range<1, 4>, range<2, 4>, range<3, 4>, range<4, 3>, range<5, 2>, range<6, 2>};

}  // namespace

void linear_avx2(const Linear& layer) {
  if (layer.rows == 0) return;
  const std::vector<float> input = laid_out(layer);
  // Even shares: 7 rows are done as 4 and 3, not as 6 and 1.
  const std::size_t shares = (layer.rows + kMostRows - 1) / kMostRows;
  const std::size_t blocks = (layer.out_features + kOutputBlock - 1) / kOutputBlock;
  parallel_for(blocks, 1, [&](std::size_t block) {
    const std::size_t first = block * kOutputBlock;
    const std::size_t last = std::min(first + kOutputBlock, layer.out_features);
    for (std::size_t share = 0; share < shares; ++share) {
      const std::size_t row = layer.rows * share / shares;
      const std::size_t rows = layer.rows * (share + 1) / shares - row;
      kRanges[rows](layer, input.data(), row, first, last);
    }
  });
}

}  // namespace tokentiming
