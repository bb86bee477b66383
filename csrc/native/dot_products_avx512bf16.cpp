// Dot products for AVX-512 BF16: one instruction multiplies 32 pairs of bfloat16 numbers.
//
// Few input rows leave the kernel to wait for the weights, so it reads them at the speed of memory.
// A tile multiplies whole weight rows, which lie one after another. While it does, it prefetches
// the next tile into the L2 cache in the order of addresses, as memory is slower in any other
// order. Up to 16 input rows use a tile while it is in the caches.
#include <immintrin.h>

#include <cstddef>

#include "native/kernels.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kChunk = 32;  // numbers in a vector
constexpr std::size_t kTileRows = 8;
constexpr std::size_t kGroupRows = 2 * kTileRows;  // input rows that share a tile of weights
constexpr std::size_t kAhead = 2048;               // bytes after a tile where its prefetches begin

// The weight rows of a tile, so that its sums fit in the registers.
constexpr std::size_t outputs_of(std::size_t rows) {
  return rows <= 2 ? 8 : rows <= 4 ? 6 : rows <= 6 ? 4 : 3;
}

// Some input rows and the weight rows of a block.
struct Part {
  const BFloat16* input;   // [chunks, rows, kChunk], then [rows, rest]
  const BFloat16* weight;  // [outputs, in_features]
  std::size_t in_features;
  float* products;
  std::size_t stride;  // of products
};

inline __m512i load(const BFloat16* from) { return _mm512_loadu_si512(from); }

inline void multiply_add(__m512& sums, __m512i a, __m512i b) {
  sums = _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
}

// Writes the dot products of kRows input rows and kOutputs weight rows, from row `first` on.
template <std::size_t kRows, std::size_t kOutputs, bool kPrefetch>
inline void tile(const Part& part, std::size_t first) {
  const std::size_t in = part.in_features;
  const std::size_t chunks = in / kChunk;
  const std::size_t rest = in - chunks * kChunk;
  const BFloat16* weight = part.weight + first * in;
  [[maybe_unused]] const char* next =
      reinterpret_cast<const char*>(weight + kOutputs * in) + kAhead;
  __m512 sums[kRows][kOutputs];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) sums[r][n] = _mm512_setzero_ps();
  }
  for (std::size_t c = 0; c < chunks; ++c) {
    __m512i weights[kOutputs];
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      if constexpr (kPrefetch) {
        _mm_prefetch(next + (c * kOutputs + n) * sizeof(__m512i), _MM_HINT_T1);
      }
      weights[n] = load(weight + n * in + c * kChunk);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i input = load(part.input + (c * kRows + r) * kChunk);
#pragma GCC unroll 8
      for (std::size_t n = 0; n < kOutputs; ++n) multiply_add(sums[r][n], weights[n], input);
    }
  }
  const BFloat16* last_inputs = part.input + chunks * kRows * kChunk;
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      const BFloat16* last_weights = weight + n * in + chunks * kChunk;
      float sum = _mm512_reduce_add_ps(sums[r][n]);
      for (std::size_t i = 0; i < rest; ++i) {
        sum += widen(last_inputs[r * rest + i]) * widen(last_weights[i]);
      }
      part.products[r * part.stride + first + n] = sum;
    }
  }
}

// The dot products of kFirst + kSecond input rows. Both parts of them use a tile of weights before
// the next tile is read.
template <std::size_t kFirst, std::size_t kSecond>
void products_of_rows(const DotProducts& task) {
  constexpr std::size_t kOutputs = outputs_of(kFirst);
  const std::size_t in = task.in_features;
  const std::size_t outputs = task.last - task.first;
  const Part first{reinterpret_cast<const BFloat16*>(task.packed), task.weight + task.first * in,
                   in, task.products + task.first, task.stride};
  Part second = first;
  second.input += kFirst * in;
  second.products += kFirst * task.stride;
  const auto multiply = [&]<std::size_t kTogether>(std::size_t n) {
    tile<kFirst, kTogether, true>(first, n);
    if constexpr (kSecond > 0) tile<kSecond, kTogether, false>(second, n);
  };
  std::size_t n = 0;
  for (; n + kOutputs <= outputs; n += kOutputs) multiply.template operator()<kOutputs>(n);
  for (; n < outputs; ++n) multiply.template operator()<1>(n);
}

constexpr void (*kProducts[kGroupRows + 1])(const DotProducts&) = {nullptr,
                                                                   products_of_rows<1, 0>,
                                                                   products_of_rows<2, 0>,
                                                                   products_of_rows<3, 0>,
                                                                   products_of_rows<4, 0>,
                                                                   products_of_rows<5, 0>,
                                                                   products_of_rows<6, 0>,
                                                                   products_of_rows<7, 0>,
                                                                   products_of_rows<8, 0>,
                                                                   products_of_rows<5, 4>,
                                                                   products_of_rows<5, 5>,
                                                                   products_of_rows<6, 5>,
                                                                   products_of_rows<6, 6>,
                                                                   products_of_rows<7, 6>,
                                                                   products_of_rows<7, 7>,
                                                                   products_of_rows<8, 7>,
                                                                   products_of_rows<8, 8>};

// Calls f(first row, number of rows) for groups of at most kGroupRows rows.
template <class F>
inline void for_each_group(std::size_t rows, const F& f) {
  for (std::size_t first = 0; first < rows; first += kGroupRows) {
    f(first, rows - first < kGroupRows ? rows - first : kGroupRows);
  }
}

// Packs the rows of a part, chunk by chunk.
inline void pack_part(const BFloat16* input, std::size_t rows, std::size_t in, BFloat16* packed) {
  const std::size_t chunks = in / kChunk;
  const std::size_t rest = in - chunks * kChunk;
  for (std::size_t r = 0; r < rows; ++r) {
    const BFloat16* from = input + r * in;
    for (std::size_t c = 0; c < chunks; ++c) {
      _mm512_storeu_si512(packed + (c * rows + r) * kChunk, load(from + c * kChunk));
    }
    for (std::size_t i = 0; i < rest; ++i) {
      packed[chunks * rows * kChunk + r * rest + i] = from[chunks * kChunk + i];
    }
  }
}

}  // namespace

void pack_avx512bf16(const BFloat16* input, std::size_t rows, std::size_t in_features,
                     float* packed) {
  auto* to = reinterpret_cast<BFloat16*>(packed);
  for_each_group(rows, [&](std::size_t first, std::size_t count) {
    const std::size_t half = count <= kTileRows ? count : (count + 1) / 2;
    pack_part(input + first * in_features, half, in_features, to + first * in_features);
    pack_part(input + (first + half) * in_features, count - half, in_features,
              to + (first + half) * in_features);
  });
}

void dot_products_avx512bf16(const DotProducts& task) {
  for_each_group(task.rows, [&](std::size_t first, std::size_t count) {
    DotProducts group = task;
    group.packed += first * task.in_features / 2;
    group.products += first * task.stride;
    group.rows = count;
    kProducts[count](group);
  });
}

}  // namespace tokentiming::native
