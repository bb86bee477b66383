// Dot products for AMX: one instruction multiplies a tile of 16 weight rows, 64 bytes each, by up
// to 16 input rows.
//
// A tile of weights is multiplied by up to four groups of input rows at a time. It is read from
// memory once: with more rows, the next weights are prefetched meanwhile, and rows that would not
// fit in the L2 cache are multiplied in slices of their entries.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "native/kernels.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kTileRows = 16;  // weight rows, or input rows, of a tile
constexpr std::size_t kChunk = 64;     // bytes of a weight row in a tile
constexpr std::size_t kUnit = 4;       // bytes that one step multiplies
constexpr std::size_t kTogether = 4;   // groups of input rows that are multiplied together

// Bytes of a tile's weight rows up to which the next tile is prefetched even for a single group.
// Longer rows are then prefetched by the processor.
constexpr std::size_t kPrefetched = 32768;

constexpr std::size_t kSliceBytes = 1 << 20;  // of the input of a slice, half of the L2 cache

constexpr std::size_t kSums = kTileRows * kTileRows;

// The packed input. Rows are split evenly into groups; the last rows of the last group may be
// absent. A group holds the first unit of all its rows, then the next units, and so on; entries
// beyond the last chunk follow row by row.
struct Packed {
  Packed(const float* packed, std::size_t all, std::size_t in)
      : data(reinterpret_cast<const char*>(packed)),
        groups((all + kTileRows - 1) / kTileRows),
        rows((all + groups - 1) / groups),
        all(all),
        in(in) {}

  static constexpr std::size_t kChunkEntries = kChunk / sizeof(BFloat16);

  std::size_t chunks() const { return in / kChunkEntries; }
  std::size_t whole() const { return chunks() * kChunkEntries; }
  std::size_t group_bytes() const { return rows * in * sizeof(BFloat16); }
  std::size_t rows_of(std::size_t group) const {
    const std::size_t before = group * rows;
    return before >= all ? 0 : all - before < rows ? all - before : rows;
  }
  const BFloat16* rest(std::size_t group, std::size_t row) const {
    const auto* entries = reinterpret_cast<const BFloat16*>(data + group * group_bytes());
    return entries + rows * whole() + row * (in - whole());
  }

  const char* data;
  std::size_t groups;
  std::size_t rows;  // of a group
  std::size_t all;
  std::size_t in;
};

// Tiles 0 to 3 hold sums, 4 weights, and 5 input rows. Two threads of a core share the registers
// into which tiles are renamed, so code that uses fewer tiles waits less. This is the layout of
// `ldtilecfg`.
struct alignas(64) Configuration {
  std::uint8_t palette = 1;
  std::uint8_t start = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes[16] = {};  // of a row
  std::uint8_t rows[16] = {};

  Configuration(std::size_t outputs, std::size_t input_rows) {
    for (std::size_t t = 0; t < 6; ++t) {
      rows[t] = static_cast<std::uint8_t>(t < 5 ? outputs : kChunk / kUnit);
      bytes[t] = static_cast<std::uint16_t>(t == 4 ? kChunk : input_rows * kUnit);
    }
  }
};

inline void configure(std::size_t outputs, std::size_t input_rows) {
  const Configuration configuration(outputs, input_rows);
  // GCC assumes that the intrinsic reads 8 bytes, and would leave out the others. Its tile loads
  // name no memory either; this also completes all earlier stores before them.
  asm volatile("" : : "r"(&configuration) : "memory");
  _tile_loadconfig(&configuration);
}

// A slice of 16 weight rows, `stride` bytes apart, and the weight rows to prefetch meanwhile, from
// `next` to before `end`.
struct Weights {
  const char* data;
  std::size_t stride;
  std::size_t chunks;
  const char* next;
  const char* end;
};

// Adds to sums[group][16, 16] for kGroups groups of `rows` input rows. Columns beyond `rows` are
// neither read nor written.
template <std::size_t kGroups>
void multiply_add(const Weights& weights, const char* input, std::size_t group_bytes,
                  std::size_t rows, float* sums) {
  constexpr std::size_t kSumsBytes = kTileRows * sizeof(float);
  const std::size_t bytes = rows * kUnit;
  _tile_loadd(0, sums, kSumsBytes);
  if constexpr (kGroups > 1) _tile_loadd(1, sums + kSums, kSumsBytes);
  if constexpr (kGroups > 2) _tile_loadd(2, sums + 2 * kSums, kSumsBytes);
  if constexpr (kGroups > 3) _tile_loadd(3, sums + 3 * kSums, kSumsBytes);
  for (std::size_t c = 0; c < weights.chunks; ++c) {
    for (const char* next = weights.next; next != weights.end; next += weights.stride) {
      _mm_prefetch(next + c * kChunk, _MM_HINT_T1);
    }
    const char* units = input + c * kChunk * rows;
    _tile_loadd(4, weights.data + c * kChunk, weights.stride);
    _tile_loadd(5, units, bytes);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (kGroups > 1) {
      _tile_loadd(5, units + group_bytes, bytes);
      _tile_dpbf16ps(1, 4, 5);
    }
    if constexpr (kGroups > 2) {
      _tile_loadd(5, units + 2 * group_bytes, bytes);
      _tile_dpbf16ps(2, 4, 5);
    }
    if constexpr (kGroups > 3) {
      _tile_loadd(5, units + 3 * group_bytes, bytes);
      _tile_dpbf16ps(3, 4, 5);
    }
  }
  _tile_stored(0, sums, kSumsBytes);
  if constexpr (kGroups > 1) _tile_stored(1, sums + kSums, kSumsBytes);
  if constexpr (kGroups > 2) _tile_stored(2, sums + 2 * kSums, kSumsBytes);
  if constexpr (kGroups > 3) _tile_stored(3, sums + 3 * kSums, kSumsBytes);
}

// Indices of 16 numbers that lie `stride` numbers apart.
inline __m512i every(std::size_t stride) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
}

inline __mmask16 first_of(std::size_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1u << count) - 1);
}

// Exchanges rows and columns.
inline void transpose(__m512 (&rows)[kTileRows]) {
  const __m512i lanes = every(1);
#pragma GCC unroll 4
  for (int bit = 1; bit < 16; bit *= 2) {  // exchanges this bit of the row and of the lane
    const __m512i in_bit = _mm512_set1_epi32(bit), second = _mm512_set1_epi32(16);
    const __mmask16 set = _mm512_test_epi32_mask(lanes, in_bit);
    const __m512i other = _mm512_xor_si512(lanes, in_bit);
    const __m512i low = _mm512_mask_add_epi32(lanes, set, other, second);
    const __m512i high = _mm512_mask_add_epi32(other, set, lanes, second);
#pragma GCC unroll 16
    for (int n = 0; n < 16; ++n) {
      if (n & bit) continue;
      const __m512 a = rows[n], b = rows[n | bit];
      rows[n] = _mm512_permutex2var_ps(a, low, b);
      rows[n | bit] = _mm512_permutex2var_ps(a, high, b);
    }
  }
}

// The outputs of a group for a tile of weights: `rows` rows of those in the mask.
struct Outputs {
  float* products;
  std::size_t stride;
  std::size_t rows;
  __mmask16 mask;

  void load(float* sums) const {
    __m512 values[kTileRows];
#pragma GCC unroll 16
    for (std::size_t r = 0; r < kTileRows; ++r) {
      const __mmask16 present = r < rows ? mask : 0;
      values[r] = _mm512_maskz_loadu_ps(present, products + (r < rows ? r : 0) * stride);
    }
    transpose(values);
#pragma GCC unroll 16
    for (std::size_t n = 0; n < kTileRows; ++n) _mm512_store_ps(sums + n * kTileRows, values[n]);
  }

  void store(const float* sums) const {
    __m512 values[kTileRows];
#pragma GCC unroll 16
    for (std::size_t n = 0; n < kTileRows; ++n) values[n] = _mm512_load_ps(sums + n * kTileRows);
    transpose(values);
    for (std::size_t r = 0; r < rows; ++r) {
      _mm512_mask_storeu_ps(products + r * stride, mask, values[r]);
    }
  }
};

// Multiplies the chunks [begin, end) of all rows and adds the products to those of earlier chunks.
void multiply_slice(const DotProducts& task, const Packed& packed, std::size_t begin,
                    std::size_t end) {
  constexpr decltype(&multiply_add<1>) kMultiplyAdd[] = {nullptr, multiply_add<1>, multiply_add<2>,
                                                         multiply_add<3>, multiply_add<4>};
  const std::size_t stride = packed.in * sizeof(BFloat16);
  const std::size_t rounds = (packed.groups + kTogether - 1) / kTogether;
  const std::size_t prefetched =
      packed.groups > 1 || kTileRows * stride <= kPrefetched ? kTileRows : 0;
  alignas(64) float sums[kTogether][kSums];
  for (std::size_t n = task.first; n < task.last; n += kTileRows) {
    const std::size_t count = task.last - n < kTileRows ? task.last - n : kTileRows;
    if (n == task.first || count < kTileRows) configure(count, packed.rows);
    const char* weights =
        reinterpret_cast<const char*>(task.weight + n * packed.in) + begin * kChunk;
    const char* next = weights + kTileRows * stride;
    for (std::size_t round = 0; round < rounds; ++round) {
      const std::size_t g = round * kTogether;
      const std::size_t used = packed.groups - g < kTogether ? packed.groups - g : kTogether;
      const auto outputs = [&](std::size_t u) {
        float* products = task.products + (g + u) * packed.rows * task.stride + n;
        return Outputs{products, task.stride, packed.rows_of(g + u), first_of(count)};
      };
      for (std::size_t u = 0; u < used; ++u) {
        if (begin == 0) {
          for (float& sum : sums[u]) sum = 0.0f;
        } else {
          outputs(u).load(sums[u]);
        }
      }
      kMultiplyAdd[used]({weights, stride, end - begin, next + prefetched * round / rounds * stride,
                          next + prefetched * (round + 1) / rounds * stride},
                         packed.data + g * packed.group_bytes() + begin * kChunk * packed.rows,
                         packed.group_bytes(), packed.rows, sums[0]);
      for (std::size_t u = 0; u < used; ++u) outputs(u).store(sums[u]);
    }
  }
}

// Adds the products of the entries beyond the last chunk.
void add_rest(const DotProducts& task, const Packed& packed) {
  for (std::size_t g = 0; g < packed.groups; ++g) {
    for (std::size_t r = 0; r < packed.rows_of(g); ++r) {
      const BFloat16* inputs = packed.rest(g, r);
      float* products = task.products + (g * packed.rows + r) * task.stride;
      for (std::size_t n = task.first; n < task.last; ++n) {
        const BFloat16* weights = task.weight + n * packed.in + packed.whole();
        for (std::size_t i = 0; i < packed.in - packed.whole(); ++i) {
          products[n] += widen(inputs[i]) * widen(weights[i]);
        }
      }
    }
  }
}

}  // namespace

void pack_amx(const BFloat16* input, std::size_t rows, std::size_t in_features, float* to) {
  if (rows == 0) return;
  const Packed packed(to, rows, in_features);
  const std::size_t whole = packed.whole();
  const std::size_t rest = in_features - whole;
  const __m512i row = every(in_features);
  for (std::size_t g = 0; g < packed.groups; ++g) {
    const BFloat16* from = input + g * packed.rows * in_features;
    char* units = reinterpret_cast<char*>(to) + g * packed.group_bytes();
    const std::size_t present = packed.rows_of(g);
    const __mmask16 mask = first_of(present);
    for (std::size_t k = 0; k < whole; k += 2) {
      const __m512i pairs = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, row, from + k,
                                                        sizeof(BFloat16));
      _mm512_mask_storeu_epi32(units + k * packed.rows * sizeof(BFloat16), mask, pairs);
    }
    auto* last = reinterpret_cast<BFloat16*>(units) + whole * packed.rows;
    for (std::size_t i = 0; i < present * rest; ++i) {
      last[i] = from[i / rest * in_features + whole + i % rest];
    }
  }
}

void dot_products_amx(const DotProducts& task) {
  if (task.rows == 0 || task.first == task.last) return;
  const Packed packed(task.packed, task.rows, task.in_features);
  const std::size_t chunks = packed.chunks();
  const std::size_t slices = task.rows * chunks * kChunk / kSliceBytes + 1;
  for (std::size_t s = 0; s < slices; ++s) {
    multiply_slice(task, packed, chunks * s / slices, chunks * (s + 1) / slices);
  }
  _tile_release();
  if (packed.whole() < packed.in) add_rest(task, packed);
}

}  // namespace tokentiming::native
