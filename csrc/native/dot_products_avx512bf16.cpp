// Dot products for AVX-512 BF16: one instruction multiplies 32 pairs of bfloat16 numbers.
//
// Few input rows leave the kernel to wait for the weights, so it reads them at the speed of memory.
// A tile multiplies whole weight rows, which lie one after another. While it does, it prefetches
// the next tile into the L2 cache in the order of addresses, as memory is slower in any other
// order. Many input rows are split into parts, which use a tile one after another and prefetch a
// share of the next one each, so that memory works all the time.
#include <immintrin.h>

#include <cstddef>

#include "native/kernels.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kChunk = 32;      // numbers in a vector
constexpr std::size_t kPartRows = 9;    // input rows whose sums fit in the registers
constexpr std::size_t kGroupRows = 36;  // input rows that stay in the L2 cache
constexpr std::size_t kAhead = 2048;    // bytes after a tile where its prefetches begin

// The weight rows of a tile, so that its sums fit in the registers.
constexpr std::size_t outputs_of(std::size_t rows) {
  return rows <= 2 ? 8 : rows <= 4 ? 6 : rows <= 6 ? 4 : 3;
}

// A group of input rows in parts of almost equal size.
struct Parts {
  explicit Parts(std::size_t rows_of_group)
      : rows(rows_of_group), count((rows + kPartRows - 1) / kPartRows) {}

  std::size_t begin(std::size_t part) const { return rows * part / count; }
  std::size_t size(std::size_t part) const { return begin(part + 1) - begin(part); }
  std::size_t largest() const { return (rows + count - 1) / count; }

  std::size_t rows, count;
};

inline __m512i load(const BFloat16* from) { return _mm512_loadu_si512(from); }

inline void multiply_add(__m512& sums, __m512i a, __m512i b) {
  sums = _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
}

// What a part prefetches of the memory after a tile: in each chunk that is due as many vectors as a
// chunk of the tile has, at the same place. All parts together prefetch as much as the tile holds.
struct Prefetch {
  const char* start;
  std::size_t due;   // the next chunk in which to prefetch
  std::size_t step;  // chunks between two that are due

  template <std::size_t kVectors>
  inline void at(std::size_t chunk) {
    if (chunk != due) return;
    due += step;
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kVectors; ++n) {
      _mm_prefetch(start + (chunk * kVectors + n) * sizeof(__m512i), _MM_HINT_T1);
    }
  }
};

// Writes the dot products of kRows input rows, [chunks, kRows, kChunk] and then [kRows, rest], and
// kOutputs weight rows.
template <std::size_t kRows, std::size_t kOutputs>
inline void tile(const BFloat16* input, const BFloat16* weight, std::size_t in, Prefetch prefetch,
                 float* products, std::size_t stride) {
  const std::size_t chunks = in / kChunk;
  const std::size_t rest = in - chunks * kChunk;
  __m512 sums[kRows][kOutputs];
#pragma GCC unroll 9
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) sums[r][n] = _mm512_setzero_ps();
  }
  for (std::size_t c = 0; c < chunks; ++c) {
    prefetch.at<kOutputs>(c);
    __m512i weights[kOutputs];
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) weights[n] = load(weight + n * in + c * kChunk);
#pragma GCC unroll 9
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i x = load(input + (c * kRows + r) * kChunk);
#pragma GCC unroll 8
      for (std::size_t n = 0; n < kOutputs; ++n) multiply_add(sums[r][n], weights[n], x);
    }
  }
  const BFloat16* last_inputs = input + chunks * kRows * kChunk;
#pragma GCC unroll 9
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      const BFloat16* last_weights = weight + n * in + chunks * kChunk;
      float sum = _mm512_reduce_add_ps(sums[r][n]);
      for (std::size_t i = 0; i < rest; ++i) {
        sum += widen(last_inputs[r * rest + i]) * widen(last_weights[i]);
      }
      products[r * stride + n] = sum;
    }
  }
}

// The dot products of a group whose parts have kRows rows or one less. All parts use a tile of
// weights before the next tile is read.
template <std::size_t kRows>
void products_of_parts(const DotProducts& task, const Parts& parts, const BFloat16* input) {
  constexpr std::size_t kOutputs = outputs_of(kRows);
  const std::size_t in = task.in_features;
  const auto tiles = [&]<std::size_t kTogether>(std::size_t first) {
    const BFloat16* weight = task.weight + first * in;
    const char* next = reinterpret_cast<const char*>(weight + kTogether * in) + kAhead;
    for (std::size_t p = 0; p < parts.count; ++p) {
      const std::size_t begin = parts.begin(p);
      const Prefetch prefetch{next, p, parts.count};
      float* products = task.products + begin * task.stride + first;
      if (parts.size(p) == kRows) {
        tile<kRows, kTogether>(input + begin * in, weight, in, prefetch, products, task.stride);
      } else if constexpr (kRows > 1) {
        tile<kRows - 1, kTogether>(input + begin * in, weight, in, prefetch, products, task.stride);
      }
    }
  };
  std::size_t first = task.first;
  for (; first + kOutputs <= task.last; first += kOutputs) {
    tiles.template operator()<kOutputs>(first);
  }
  for (; first < task.last; ++first) tiles.template operator()<1>(first);
}

constexpr void (*kProducts[kPartRows + 1])(const DotProducts&, const Parts&,
                                           const BFloat16* input) = {nullptr,
                                                                     products_of_parts<1>,
                                                                     products_of_parts<2>,
                                                                     products_of_parts<3>,
                                                                     products_of_parts<4>,
                                                                     products_of_parts<5>,
                                                                     products_of_parts<6>,
                                                                     products_of_parts<7>,
                                                                     products_of_parts<8>,
                                                                     products_of_parts<9>};

// Calls f(first row, number of rows) for groups of at most kGroupRows rows.
template <class F>
inline void for_each_group(std::size_t rows, const F& f) {
  const std::size_t groups = (rows + kGroupRows - 1) / kGroupRows;
  for (std::size_t g = 0; g < groups; ++g) {
    const std::size_t first = rows * g / groups;
    f(first, rows * (g + 1) / groups - first);
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
    const Parts parts(count);
    for (std::size_t p = 0; p < parts.count; ++p) {
      const std::size_t at = (first + parts.begin(p)) * in_features;
      pack_part(input + at, parts.size(p), in_features, to + at);
    }
  });
}

void dot_products_avx512bf16(const DotProducts& task) {
  for_each_group(task.rows, [&](std::size_t first, std::size_t count) {
    const Parts parts(count);
    DotProducts group = task;
    group.products += first * task.stride;
    const auto* input = reinterpret_cast<const BFloat16*>(task.packed) + first * task.in_features;
    kProducts[parts.largest()](group, parts, input);
  });
}

}  // namespace tokentiming::native
