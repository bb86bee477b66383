// Dot products for AVX-512 BF16: one instruction multiplies 32 pairs of bfloat16 numbers.
//
// Few input rows leave the kernel to wait for the weights, so it reads them at the speed of memory:
// a tile of weight rows is prefetched two tiles before it is multiplied, and up to 16 input rows
// use a part of the weights while it is in the L1 cache.
#include <immintrin.h>

#include <cstddef>

#include "native/kernels.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kLanes = 16;  // sums in a vector
constexpr std::size_t kChunk = 32;  // numbers in a vector
constexpr std::size_t kTileRows = 8;
constexpr std::size_t kGroupRows = 2 * kTileRows;  // input rows that share weights in the cache
constexpr std::size_t kDepth = 16;                 // chunks of a weight row before the next rows
constexpr std::size_t kAhead = 2;                  // tiles; one takes less time than memory does

// The weight rows of a tile, so that its sums fit in the registers.
constexpr std::size_t outputs_of(std::size_t rows) {
  return rows <= 2 ? 8 : rows <= 4 ? 6 : rows <= 6 ? 4 : 3;
}

struct Part {
  const BFloat16* input;   // [chunks, rows, kChunk]
  const BFloat16* weight;  // the first row of the tile
  const BFloat16* next;    // that of the tile to prefetch
  std::size_t stride;      // of weight rows
  std::size_t chunks;
};

inline __m512i load(const BFloat16* from) { return _mm512_loadu_si512(from); }

inline void multiply_add(__m512& sums, __m512i a, __m512i b) {
  sums = _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
}

// Accumulates the products of kRows input rows and kOutputs weight rows into sums[kRows][kOutputs].
template <std::size_t kRows, std::size_t kOutputs, bool kPrefetch>
inline void tile(const Part& part, float* sums_at) {
  __m512 sums[kRows][kOutputs];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      sums[r][n] = _mm512_load_ps(sums_at + (r * kOutputs + n) * kLanes);
    }
  }
  for (std::size_t c = 0; c < part.chunks; ++c) {
    __m512i weights[kOutputs];
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      const std::size_t at = n * part.stride + c * kChunk;
      if constexpr (kPrefetch) {
        _mm_prefetch(reinterpret_cast<const char*>(part.next + at), _MM_HINT_T0);
      }
      weights[n] = load(part.weight + at);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i input = load(part.input + (c * kRows + r) * kChunk);
#pragma GCC unroll 8
      for (std::size_t n = 0; n < kOutputs; ++n) multiply_add(sums[r][n], weights[n], input);
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      _mm512_store_ps(sums_at + (r * kOutputs + n) * kLanes, sums[r][n]);
    }
  }
}

// The sums of kRows input rows with a block of weight rows, tile by tile.
template <std::size_t kRows, std::size_t kOutputs>
class Sums {
 public:
  template <bool kPrefetch>
  void add(const Part& part, std::size_t output, bool whole) {
    if (whole) {
      tile<kRows, kOutputs, kPrefetch>(part, sums_ + output * kRows * kLanes);
    } else {
      tile<kRows, 1, kPrefetch>(part, sums_ + output * kRows * kLanes);
    }
  }

  // The sum of input row r and weight row n; `whole` rows are in tiles of kOutputs.
  float at(std::size_t r, std::size_t n, std::size_t whole) const {
    const std::size_t together = n < whole ? kOutputs : 1;
    const std::size_t start = n < whole ? n / kOutputs * kOutputs : n;
    const std::size_t place = start * kRows + r * together + (n - start);
    return _mm512_reduce_add_ps(_mm512_load_ps(sums_ + place * kLanes));
  }

 private:
  alignas(64) float sums_[kOutputBlock * kRows * kLanes] = {};
};

// The dot products of kFirst + kSecond input rows. Both parts of them use a tile of weights before
// the next tile is read.
template <std::size_t kFirst, std::size_t kSecond>
void products_of_rows(const DotProducts& task) {
  constexpr std::size_t kOutputs = outputs_of(kFirst);
  const std::size_t in = task.in_features;
  const std::size_t chunks = in / kChunk;
  const std::size_t outputs = task.last - task.first;
  const std::size_t whole = outputs / kOutputs * kOutputs;
  const BFloat16* weight = task.weight + task.first * in;
  const auto* first = reinterpret_cast<const BFloat16*>(task.packed);
  const BFloat16* second = first + kFirst * in;
  Sums<kFirst, kOutputs> sums;
  Sums<kSecond == 0 ? 1 : kSecond, kOutputs> second_sums;
  for (std::size_t c = 0; c < chunks; c += kDepth) {
    const std::size_t count = chunks - c < kDepth ? chunks - c : kDepth;
    for (std::size_t n = 0; n < outputs;) {
      const bool full = n < whole;
      const std::size_t after = n + (full ? kOutputs : 1);
      // Beyond the last rows: the next chunks of the first rows, and at last the next block.
      const std::size_t ahead = n + kAhead * kOutputs;
      const bool deeper = ahead >= outputs && c + count < chunks;
      const BFloat16* next = deeper ? weight + (ahead - outputs) * in + (c + count) * kChunk
                                    : weight + ahead * in + (ahead >= outputs ? 0 : c * kChunk);
      Part part{first + c * kFirst * kChunk, weight + n * in + c * kChunk, next, in, count};
      sums.template add<true>(part, n, full);
      if constexpr (kSecond > 0) {
        part.input = second + c * kSecond * kChunk;
        second_sums.template add<false>(part, n, full);
      }
      n = after;
    }
  }
  const std::size_t rest = in - chunks * kChunk;
  const auto write = [&](const auto& of_rows, const BFloat16* input, std::size_t rows,
                         std::size_t from) {
    const BFloat16* last_inputs = input + chunks * rows * kChunk;
    for (std::size_t n = 0; n < outputs; ++n) {
      const BFloat16* last_weights = weight + n * in + chunks * kChunk;
      for (std::size_t r = 0; r < rows; ++r) {
        float sum = of_rows.at(r, n, whole);
        for (std::size_t i = 0; i < rest; ++i) {
          sum += widen(last_inputs[r * rest + i]) * widen(last_weights[i]);
        }
        task.products[(from + r) * task.stride + task.first + n] = sum;
      }
    }
  };
  write(sums, first, kFirst, 0);
  if constexpr (kSecond > 0) write(second_sums, second, kSecond, kFirst);
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
