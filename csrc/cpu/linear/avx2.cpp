// Tiles of a few input rows by a few weight rows, all sums in registers.
//
// A vector of 16 weights is two vectors of 8 floats once the bfloat16 at even places are shifted up
// and those at odd places are masked: no shuffle is needed if the input lies in the same order. The
// input is a few rows only, so it is laid out so beforehand.
#include <immintrin.h>

#include <cstddef>

#include "kernels.h"

namespace tokentiming {
namespace {

constexpr std::size_t kStep = 16;     // weights a vector
constexpr std::size_t kMostRows = 6;  // input rows a tile

// Of 16 bfloat16 the 8 at even places, and the 8 at odd ones, as floats. Two shifts rather than a
// mask, which would cost the register that holds it.
inline __m256 even_places(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
inline __m256 odd_places(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(pairs, 16), 16));
}
inline __m256i load(const BFloat16* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
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
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      // The next tile's weights travel while this one is worked on.
      _mm_prefetch(reinterpret_cast<const char*>(weight + (n + kOutputs) * in + k), _MM_HINT_T0);
      w[n] = even_places(load(weight + n * in + k));
      pin(w[n]);
    }
    accumulate(k);
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      w[n] = odd_places(load(weight + n * in + k));
      pin(w[n]);
    }
    accumulate(k + kStep / 2);
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t n = 0; n < kOutputs; ++n) {
      float sum = sum_of_lanes(sums[r][n]);
      for (std::size_t i = k; i < in; ++i) sum += x[r * in + i] * widen(weight[n * in + i]);
      if (layer.bias) sum += widen(layer.bias[output + n]);
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
constexpr Range kRanges[kMostRows + 1] = {nullptr,     range<1, 4>, range<2, 4>, range<3, 4>,
                                          range<4, 3>, range<5, 2>, range<6, 2>};

}  // namespace

// Each run of 16 becomes its 8 even places and then its 8 odd ones; an incomplete last run stays in
// order.
void lay_out_avx2(const Linear& layer, float* floats) {
  const std::size_t in = layer.in_features;
  for (std::size_t r = 0; r < layer.rows; ++r) {
    const BFloat16* from = layer.input + r * in;
    float* to = floats + r * in;
    std::size_t k = 0;
    for (; k + kStep <= in; k += kStep) {
      const __m256i pairs = load(from + k);
      _mm256_storeu_ps(to + k, even_places(pairs));
      _mm256_storeu_ps(to + k + kStep / 2, odd_places(pairs));
    }
    for (; k < in; ++k) to[k] = widen(from[k]);
  }
}

void linear_avx2(const Linear& layer, const float* floats, std::size_t first, std::size_t last) {
  // Even shares: 7 rows are done as 4 and 3, not as 6 and 1.
  const std::size_t shares = (layer.rows + kMostRows - 1) / kMostRows;
  for (std::size_t share = 0; share < shares; ++share) {
    const std::size_t row = layer.rows * share / shares;
    const std::size_t rows = layer.rows * (share + 1) / shares - row;
    kRanges[rows](layer, floats, row, first, last);
  }
}

}  // namespace tokentiming
