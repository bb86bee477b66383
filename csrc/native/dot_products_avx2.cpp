// Dot products in tiles of a few input rows by a few weight rows, with all sums in registers.
//
// A vector of 16 bfloat16 weights becomes two vectors of 8 floats: the even entries by one shift,
// the odd entries by two. No shuffle is needed if the input is in the same order. The input has few
// rows, so it is packed in that order beforehand.
#include <immintrin.h>

#include <cstddef>

#include "native/kernels.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kLanes = 8;
constexpr std::size_t kStep = 2 * kLanes;  // weights in a vector
constexpr std::size_t kMaxRows = 8;        // input rows in a tile

// Steps along the rows before the next outputs. The input's part then stays in the L1 cache while
// the weights stream through it.
constexpr std::size_t kDepth = 768 / kStep;

// Weight rows between the one that is read and the one that is prefetched.
constexpr std::size_t kPrefetchRows = 8;

// The bfloat16 numbers at the 8 even and at the 8 odd positions, as floats. Two shifts are used
// instead of a mask, which would occupy a register.
inline __m256 even_places(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
inline __m256 odd_places(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(pairs, 16), 16));
}
inline __m256i load(const BFloat16* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// The two halves of one step's weights, as floats.
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

// sum += a * b, in assembly: from intrinsics the compiler moves the sums through more registers
// than there are. One factor may stay in memory.
inline void multiply_add(__m256& sum, __m256 a, const __m256& b) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "xm"(b));
}
// Keeps a value in its register; the compiler would otherwise load it again for each use.
inline void pin(__m256& v) { asm("" : "+x"(v)); }

// The inputs of a tile: `steps` vectors of each weight row, and the packed input for them. For each
// step the packed input holds the even entries of each row, then the odd entries of each row.
template <class Weight>
struct TileInput {
  const float* input;
  const Weight* weight;
  std::size_t weight_stride;
  std::size_t steps;
};

// Accumulates into sums[kRows][kOutputs], 8 lanes each.
template <std::size_t kRows, std::size_t kOutputs, class Weight>
inline void tile(const TileInput<Weight>& part, float* sums_at) {
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
      _mm_prefetch(reinterpret_cast<const char*>(weight + kPrefetchRows * part.weight_stride),
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

// The dot products of exactly kRows rows. kOutputs weight rows make a tile; the remaining weight
// rows are computed one by one.
template <std::size_t kRows, std::size_t kOutputs, class Weight>
void products_of_rows(const DotProducts<Weight>& task) {
  const std::size_t in = task.in_features;
  const std::size_t steps = in / kStep;
  const std::size_t whole = (task.last - task.first) / kOutputs * kOutputs;
  const std::size_t outputs = task.last - task.first;
  alignas(32) float sums[kOutputBlock * kRows * kLanes] = {};
  for (std::size_t s = 0; s < steps; s += kDepth) {
    TileInput<Weight> part{task.packed + s * kRows * kStep,
                           task.weight + task.first * in + s * kStep, in,
                           steps - s < kDepth ? steps - s : kDepth};
    std::size_t n = 0;
    for (; n < whole; n += kOutputs, part.weight += kOutputs * in) {
      tile<kRows, kOutputs>(part, sums + n * kRows * kLanes);
    }
    for (; n < outputs; ++n, part.weight += in) tile<kRows, 1>(part, sums + n * kRows * kLanes);
  }
  // Entries beyond the last full vector are packed in order after the others.
  const std::size_t rest = in - steps * kStep;
  const float* last_inputs = task.packed + steps * kRows * kStep;
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

// For each number of rows, the most weight rows in a tile whose sums fit in the 16 registers.
template <class Weight>
using ProductsOfRows = void (*)(const DotProducts<Weight>&);
template <class Weight>
constexpr ProductsOfRows<Weight> kProductsOfRows[kMaxRows + 1] = {nullptr,
                                                                  products_of_rows<1, 6, Weight>,
                                                                  products_of_rows<2, 4, Weight>,
                                                                  products_of_rows<3, 3, Weight>,
                                                                  products_of_rows<4, 2, Weight>,
                                                                  products_of_rows<5, 2, Weight>,
                                                                  products_of_rows<6, 2, Weight>,
                                                                  products_of_rows<7, 1, Weight>,
                                                                  products_of_rows<8, 1, Weight>};

// Calls f(first row, number of rows) for groups of rows. Up to 8 rows make one group, so that each
// weight is used for all of them when it arrives from memory. More rows are split evenly into
// groups of at most 6, whose tiles are the fastest.
template <class F>
inline void for_each_group(std::size_t rows, const F& f) {
  const std::size_t groups = rows <= kMaxRows ? (rows > 0) : (rows + 5) / 6;
  for (std::size_t i = 0; i < groups; ++i) {
    const std::size_t begin = rows * i / groups;
    f(begin, rows * (i + 1) / groups - begin);
  }
}

// 16 numbers as floats: those at even positions and those at odd positions.
inline void split(const BFloat16* from, __m256& even, __m256& odd) {
  const __m256i pairs = load(from);
  even = even_places(pairs);
  odd = odd_places(pairs);
}
inline void split(const float* from, __m256& even, __m256& odd) {
  const __m256 low = _mm256_loadu_ps(from);
  const __m256 high = _mm256_loadu_ps(from + kLanes);
  // The shuffles work within each half of a vector; this orders the halves.
  const auto in_order = [](__m256 v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0b11011000));
  };
  even = in_order(_mm256_shuffle_ps(low, high, 0b10001000));
  odd = in_order(_mm256_shuffle_ps(low, high, 0b11011101));
}

template <class Number>
inline void pack(const Number* input, std::size_t rows, std::size_t in, float* packed) {
  const std::size_t steps = in / kStep;
  const std::size_t rest = in - steps * kStep;
  for_each_group(rows, [&](std::size_t begin, std::size_t count) {
    float* to = packed + begin * in;
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
inline void dot_products(const DotProducts<Weight>& task) {
  for_each_group(task.rows, [&](std::size_t begin, std::size_t count) {
    DotProducts<Weight> group = task;
    group.packed += begin * task.in_features;
    group.products += begin * task.stride;
    group.rows = count;
    kProductsOfRows<Weight>[count](group);
  });
}

}  // namespace

void pack_bfloat16_avx2(const BFloat16* input, std::size_t rows, std::size_t in_features,
                        float* packed) {
  pack(input, rows, in_features, packed);
}
void pack_float_avx2(const float* input, std::size_t rows, std::size_t in_features, float* packed) {
  pack(input, rows, in_features, packed);
}

void dot_products_bfloat16_avx2(const DotProducts<BFloat16>& task) { dot_products(task); }
void dot_products_int8_avx2(const DotProducts<std::int8_t>& task) { dot_products(task); }

}  // namespace tokentiming::native
