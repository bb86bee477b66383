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

constexpr std::size_t kLanes = 8;
constexpr std::size_t kStep = 2 * kLanes;  // weights a vector
constexpr std::size_t kMostRows = 8;       // input rows a tile

// Steps along the rows before the next outputs take their turn: the input's part then stays in the
// first cache, while the weights pass through it.
constexpr std::size_t kDepth = 768 / kStep;

// Weight rows that travel from memory while one is worked on.
constexpr std::size_t kAhead = 8;

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

// The two halves of a step's weights, as floats.
inline __m256 first_half(const BFloat16* weights) { return even_places(load(weights)); }
inline __m256 second_half(const BFloat16* weights) { return odd_places(load(weights)); }
inline __m256 first_half(const std::int8_t* weights) {
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
}
inline __m256 second_half(const std::int8_t* weights) { return first_half(weights + kLanes); }

inline float sum_of_lanes(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// sum += a * b, written out: left to itself the compiler rotates the sums through more registers
// than there are. One factor may stay in memory.
inline void multiply_add(__m256& sum, __m256 a, const __m256& b) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "xm"(b));
}
// Keeps a value in its register, where it would otherwise be loaded again for each use.
inline void pin(__m256& v) { asm("" : "+x"(v)); }

// What a tile reads: `steps` vectors of each weight row, and the input's beside them, which lie
// vector by vector: even places of each row, odd places of each row, and on.
template <class Weight>
struct Part {
  const float* input;
  const Weight* weight;
  std::size_t weight_stride;
  std::size_t steps;
};

// Adds to sums[kRows][kOutputs], 8 lanes each.
template <std::size_t kRows, std::size_t kOutputs, class Weight>
inline void tile(const Part<Weight>& part, float* sums_at) {
  __m256 sums[kRows][kOutputs];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      sums[r][n] = _mm256_load_ps(sums_at + (r * kOutputs + n) * kLanes);
    }
  }
  __m256 w[kOutputs];
  const auto accumulate = [&](const float* input) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      if constexpr (kOutputs == 1) {
        multiply_add(sums[r][0], w[0], *reinterpret_cast<const __m256*>(input + r * kLanes));
      } else {
        __m256 x = _mm256_loadu_ps(input + r * kLanes);
        pin(x);
#pragma GCC unroll 8
        for (std::size_t n = 0; n < kOutputs; ++n) multiply_add(sums[r][n], w[n], x);
      }
    }
  };
  const float* input = part.input;
  for (std::size_t s = 0; s < part.steps; ++s, input += kRows * kStep) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      const Weight* weight = part.weight + n * part.weight_stride + s * kStep;
      _mm_prefetch(reinterpret_cast<const char*>(weight + kAhead * part.weight_stride),
                   _MM_HINT_T0);
      w[n] = first_half(weight);
      pin(w[n]);
    }
    accumulate(input);
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      w[n] = second_half(part.weight + n * part.weight_stride + s * kStep);
      pin(w[n]);
    }
    accumulate(input + kRows * kLanes);
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      _mm256_store_ps(sums_at + (r * kOutputs + n) * kLanes, sums[r][n]);
    }
  }
}

// What one call works out, for kRows of its rows.
template <class Weight>
struct Task {
  const float* input;  // laid out, of these rows alone
  std::size_t in_features;
  const Weight* weight;
  std::size_t first, last;
  float* products;
  std::size_t stride;
};

// kOutputs at a time, then the rest one by one.
template <std::size_t kRows, std::size_t kOutputs, class Weight>
void share(const Task<Weight>& task) {
  const std::size_t in = task.in_features;
  const std::size_t steps = in / kStep;
  const std::size_t whole = (task.last - task.first) / kOutputs * kOutputs;
  const std::size_t outputs = task.last - task.first;
  alignas(32) float sums[kOutputBlock * kRows * kLanes] = {};
  for (std::size_t s = 0; s < steps; s += kDepth) {
    Part<Weight> part{task.input + s * kRows * kStep, task.weight + task.first * in + s * kStep, in,
                      steps - s < kDepth ? steps - s : kDepth};
    std::size_t n = 0;
    for (; n < whole; n += kOutputs, part.weight += kOutputs * in) {
      tile<kRows, kOutputs>(part, sums + n * kRows * kLanes);
    }
    for (; n < outputs; ++n, part.weight += in) tile<kRows, 1>(part, sums + n * kRows * kLanes);
  }
  // What fills no whole vector stays in order behind the others.
  const std::size_t rest = in - steps * kStep;
  const float* last_inputs = task.input + steps * kRows * kStep;
  for (std::size_t n = 0; n < outputs; ++n) {
    const std::size_t together = n < whole ? kOutputs : 1;
    const std::size_t tile_start = n < whole ? n / kOutputs * kOutputs : n;
    const Weight* last_weights = task.weight + (task.first + n) * in + steps * kStep;
    for (std::size_t r = 0; r < kRows; ++r) {
      const std::size_t at = tile_start * kRows + r * together + (n - tile_start);
      float sum = sum_of_lanes(_mm256_load_ps(sums + at * kLanes));
      for (std::size_t i = 0; i < rest; ++i) {
        sum += last_inputs[r * rest + i] * widen(last_weights[i]);
      }
      task.products[r * task.stride + task.first + n] = sum;
    }
  }
}

// As many weight rows a tile as leave the sums in the 16 registers.
template <class Weight>
using Share = void (*)(const Task<Weight>&);
template <class Weight>
constexpr Share<Weight> kShares[kMostRows + 1] = {nullptr,
                                                  share<1, 6, Weight>,
                                                  share<2, 4, Weight>,
                                                  share<3, 3, Weight>,
                                                  share<4, 2, Weight>,
                                                  share<5, 2, Weight>,
                                                  share<6, 2, Weight>,
                                                  share<7, 1, Weight>,
                                                  share<8, 1, Weight>};

// Up to 8 rows go together, so that weights are used as they arrive from memory. More go in even
// shares of at most 6, whose tiles are the fastest.
template <class F>
inline void for_each_share(std::size_t rows, const F& f) {
  const std::size_t shares = rows <= kMostRows ? (rows > 0) : (rows + 5) / 6;
  for (std::size_t i = 0; i < shares; ++i) {
    const std::size_t begin = rows * i / shares;
    f(begin, rows * (i + 1) / shares - begin);
  }
}

inline void split(const BFloat16* from, __m256& even, __m256& odd) {
  const __m256i pairs = load(from);
  even = even_places(pairs);
  odd = odd_places(pairs);
}
inline void split(const float* from, __m256& even, __m256& odd) {
  const __m256 low = _mm256_loadu_ps(from);
  const __m256 high = _mm256_loadu_ps(from + kLanes);
  // Within each half of a vector, then across the halves.
  const auto in_order = [](__m256 v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0b11011000));
  };
  even = in_order(_mm256_shuffle_ps(low, high, 0b10001000));
  odd = in_order(_mm256_shuffle_ps(low, high, 0b11011101));
}

template <class Number>
inline void lay_out(const Number* input, std::size_t rows, std::size_t in, float* floats) {
  const std::size_t steps = in / kStep;
  const std::size_t rest = in - steps * kStep;
  for_each_share(rows, [&](std::size_t begin, std::size_t count) {
    float* to = floats + begin * in;
    for (std::size_t r = 0; r < count; ++r) {
      const Number* from = input + (begin + r) * in;
      for (std::size_t s = 0; s < steps; ++s) {
        __m256 even, odd;
        split(from + s * kStep, even, odd);
        float* at = to + s * count * kStep + r * kLanes;
        _mm256_storeu_ps(at, even);
        _mm256_storeu_ps(at + count * kLanes, odd);
      }
      for (std::size_t i = 0; i < rest; ++i) {
        to[steps * count * kStep + r * rest + i] = widen(from[steps * kStep + i]);
      }
    }
  });
}

template <class Weight>
inline void dot_products(const float* floats, std::size_t rows, std::size_t in_features,
                         const Weight* weight, std::size_t first, std::size_t last, float* products,
                         std::size_t stride) {
  for_each_share(rows, [&](std::size_t begin, std::size_t count) {
    kShares<Weight>[count]({floats + begin * in_features, in_features, weight, first, last,
                            products + begin * stride, stride});
  });
}

}  // namespace

void lay_out_avx2(const BFloat16* input, std::size_t rows, std::size_t in_features, float* floats) {
  lay_out(input, rows, in_features, floats);
}
void lay_out_avx2(const float* input, std::size_t rows, std::size_t in_features, float* floats) {
  lay_out(input, rows, in_features, floats);
}

void dot_products_avx2(const float* floats, std::size_t rows, std::size_t in_features,
                       const BFloat16* weight, std::size_t first, std::size_t last, float* products,
                       std::size_t stride) {
  dot_products(floats, rows, in_features, weight, first, last, products, stride);
}
void dot_products_avx2(const float* floats, std::size_t rows, std::size_t in_features,
                       const std::int8_t* weight, std::size_t first, std::size_t last,
                       float* products, std::size_t stride) {
  dot_products(floats, rows, in_features, weight, first, last, products, stride);
}

}  // namespace tokentiming
