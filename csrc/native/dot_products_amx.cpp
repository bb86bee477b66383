// Dot products for AMX: one instruction multiplies a tile of 16 weight rows, 64 bytes each, by up
// to 16 input rows.
//
// A tile of weights is multiplied by up to four groups of input rows when it arrives from memory.
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
constexpr std::size_t kTogether = 4;   // groups of input rows that share a tile of weights

// Bytes of a tile's weight rows up to which the next tile is prefetched. Longer rows are prefetched
// by the processor.
constexpr std::size_t kPrefetched = 32768;

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

  std::size_t whole() const { return in / kChunkEntries * kChunkEntries; }
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

// Tiles 0 to 3 hold sums, 4 weights, and 5 and 6 input rows. This is the layout of `ldtilecfg`.
struct alignas(64) Configuration {
  std::uint8_t palette = 1;
  std::uint8_t start = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes[16] = {};  // of a row
  std::uint8_t rows[16] = {};

  Configuration(std::size_t outputs, std::size_t input_rows) {
    for (std::size_t t = 0; t < 7; ++t) {
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

struct WeightTile {
  const char* data;
  const char* next;    // the tile to prefetch, or null
  std::size_t stride;  // in bytes
  std::size_t chunks;
};

inline void prefetch(const char* weights) {
#pragma GCC unroll 16
  for (std::size_t line = 0; line < kTileRows; ++line) {
    _mm_prefetch(weights + line * kChunk, _MM_HINT_T0);
  }
}

// Writes sums[group][16, rows] for kGroups groups of `rows` input rows.
template <std::size_t kGroups>
void multiply(const WeightTile& weight, const char* input, std::size_t group_bytes,
              std::size_t rows, float* sums) {
  const std::size_t bytes = rows * kUnit;
  _tile_zero(0);
  if constexpr (kGroups > 1) _tile_zero(1);
  if constexpr (kGroups > 2) _tile_zero(2);
  if constexpr (kGroups > 3) _tile_zero(3);
  for (std::size_t c = 0; c < weight.chunks; ++c) {
    const char* units = input + c * kChunk * rows;
    if (weight.next != nullptr) prefetch(weight.next + c * kTileRows * kChunk);
    _tile_loadd(4, weight.data + c * kChunk, weight.stride);
    _tile_loadd(5, units, bytes);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (kGroups > 1) {
      _tile_loadd(6, units + group_bytes, bytes);
      _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (kGroups > 2) {
      _tile_loadd(5, units + 2 * group_bytes, bytes);
      _tile_dpbf16ps(2, 4, 5);
    }
    if constexpr (kGroups > 3) {
      _tile_loadd(6, units + 3 * group_bytes, bytes);
      _tile_dpbf16ps(3, 4, 6);
    }
  }
  _tile_stored(0, sums, bytes);
  if constexpr (kGroups > 1) _tile_stored(1, sums + kSums, bytes);
  if constexpr (kGroups > 2) _tile_stored(2, sums + 2 * kSums, bytes);
  if constexpr (kGroups > 3) _tile_stored(3, sums + 3 * kSums, bytes);
}

// Indices of 16 numbers that lie `stride` numbers apart.
inline __m512i every(std::size_t stride) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
}

inline __mmask16 first_of(std::size_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1u << count) - 1);
}

// The product of the entries of input row r and weight row n beyond the last chunk.
float rest_of(const DotProducts& task, const Packed& packed, std::size_t group, std::size_t r,
              std::size_t n) {
  const BFloat16* weights = task.weight + n * packed.in + packed.whole();
  const BFloat16* inputs = packed.rest(group, r);
  float sum = 0.0f;
  for (std::size_t i = 0; i < packed.in - packed.whole(); ++i) {
    sum += widen(inputs[i]) * widen(weights[i]);
  }
  return sum;
}

// Writes the outputs [first, first + count) of a group from its sums, [16, rows].
void write(const DotProducts& task, const Packed& packed, std::size_t group, std::size_t first,
           std::size_t count, const float* sums) {
  const __m512i column = every(packed.rows);
  const __mmask16 mask = first_of(count);
  for (std::size_t r = 0; r < packed.rows_of(group); ++r) {
    float* products = task.products + (group * packed.rows + r) * task.stride + first;
    _mm512_mask_storeu_ps(
        products, mask,
        _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, column, sums + r, sizeof(float)));
    if (packed.whole() == packed.in) continue;
    for (std::size_t n = 0; n < count; ++n)
      products[n] += rest_of(task, packed, group, r, first + n);
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
  constexpr decltype(&multiply<1>) kMultiply[] = {nullptr, multiply<1>, multiply<2>, multiply<3>,
                                                  multiply<4>};
  const Packed packed(task.packed, task.rows, task.in_features);
  const std::size_t stride = packed.in * sizeof(BFloat16);
  const auto weights = [&](std::size_t n) {
    return reinterpret_cast<const char*>(task.weight + n * packed.in);
  };
  alignas(64) float sums[kTogether * kSums];
  for (std::size_t n = task.first; n < task.last; n += kTileRows) {
    const std::size_t count = task.last - n < kTileRows ? task.last - n : kTileRows;
    if (n == task.first || count < kTileRows) configure(count, packed.rows);
    const bool prefetched = kTileRows * stride <= kPrefetched;
    const WeightTile tile{weights(n), prefetched ? weights(n + kTileRows) : nullptr, stride,
                          packed.whole() / Packed::kChunkEntries};
    for (std::size_t g = 0; g < packed.groups; g += kTogether) {
      const std::size_t used = packed.groups - g < kTogether ? packed.groups - g : kTogether;
      kMultiply[used](tile, packed.data + g * packed.group_bytes(), packed.group_bytes(),
                      packed.rows, sums);
      for (std::size_t u = 0; u < used; ++u) {
        write(task, packed, g + u, n, count, sums + u * kSums);
      }
    }
  }
  _tile_release();
}

}  // namespace tokentiming::native
