// Dot products for AMX: one instruction multiplies a tile of 16 weight rows, 32 entries each, by
// up to 16 input rows.
//
// All input rows use a part of 48 weight rows while it is in the cache. Its rows are short, so that
// the processor prefetches the next part meanwhile.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "native/kernels.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kTileRows = 16;  // weight rows, or input rows, of a tile
constexpr std::size_t kChunk = 32;     // entries of a row in a tile
constexpr std::size_t kTiles = kOutputBlock / kTileRows;
constexpr std::size_t kDepth = 8;   // chunks of a part
constexpr std::size_t kGroups = 4;  // groups of input rows that use a part together
static_assert(kTiles == 3 && kOutputBlock % kTileRows == 0);

// The rows are split evenly into groups; absent rows of the last group are zero.
struct Groups {
  explicit Groups(std::size_t rows)
      : count((rows + kTileRows - 1) / kTileRows), rows((rows + count - 1) / count) {}

  // Rows of a group that are not absent.
  std::size_t rows_of(std::size_t group, std::size_t all) const {
    const std::size_t before = group * rows;
    return before >= all ? 0 : all - before < rows ? all - before : rows;
  }

  std::size_t count;
  std::size_t rows;  // of each
};

// Indices of 16 numbers that lie `stride` numbers apart.
inline __m512i every(std::size_t stride) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
}

inline __mmask16 first_of(std::size_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1u << count) - 1);
}

// Tiles 0 to 2 hold sums, 3 to 5 weights, and 6 the input. This is the layout of `ldtilecfg`.
struct alignas(64) Configuration {
  std::uint8_t palette = 1;
  std::uint8_t start = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes[16] = {};  // of a row
  std::uint8_t rows[16] = {};

  Configuration(std::size_t outputs, std::size_t input_rows) {
    for (std::size_t t = 0; t * kTileRows < outputs; ++t) {
      const std::size_t rest = outputs - t * kTileRows;
      rows[t] = rows[3 + t] = static_cast<std::uint8_t>(rest < kTileRows ? rest : kTileRows);
      bytes[t] = static_cast<std::uint16_t>(input_rows * sizeof(float));
      bytes[3 + t] = kChunk * sizeof(BFloat16);
    }
    rows[6] = kChunk / 2;
    bytes[6] = bytes[0];
  }
};

// The weights of a part.
struct Part {
  const BFloat16* weight;
  std::size_t stride;  // of weight rows
  std::size_t chunks;
};

// Adds the products of a part's weights and one group of input rows to sums[kOutputs][group rows].
// The intrinsics take only literal numbers of tiles.
template <std::size_t kUsed>
void add(const Part& part, const BFloat16* input, std::size_t rows, float* sums) {
  const std::size_t bytes = rows * sizeof(float);
  const std::size_t stride = part.stride * sizeof(BFloat16);
  const std::size_t tile = kTileRows * part.stride;
  const std::size_t sums_of_tile = kTileRows * rows;
  _tile_loadd(0, sums, bytes);
  if constexpr (kUsed > 1) _tile_loadd(1, sums + sums_of_tile, bytes);
  if constexpr (kUsed > 2) _tile_loadd(2, sums + 2 * sums_of_tile, bytes);
  for (std::size_t c = 0; c < part.chunks; ++c) {
    const BFloat16* weight = part.weight + c * kChunk;
    _tile_loadd(6, input + c * kChunk * rows, bytes);
    _tile_loadd(3, weight, stride);
    _tile_dpbf16ps(0, 3, 6);
    if constexpr (kUsed > 1) {
      _tile_loadd(4, weight + tile, stride);
      _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (kUsed > 2) {
      _tile_loadd(5, weight + 2 * tile, stride);
      _tile_dpbf16ps(2, 5, 6);
    }
  }
  _tile_stored(0, sums, bytes);
  if constexpr (kUsed > 1) _tile_stored(1, sums + sums_of_tile, bytes);
  if constexpr (kUsed > 2) _tile_stored(2, sums + 2 * sums_of_tile, bytes);
}

constexpr void (*kAdd[kTiles + 1])(const Part&, const BFloat16*, std::size_t, float*) = {
    nullptr, add<1>, add<2>, add<3>};

// Writes the sums of a group, plus the products of the entries beyond the last chunk.
void write(const DotProducts<BFloat16>& task, const Groups& groups, std::size_t group,
           const BFloat16* packed, const float* sums) {
  const std::size_t in = task.in_features;
  const std::size_t outputs = task.last - task.first;
  const std::size_t whole = in / kChunk * kChunk;
  const std::size_t rest = in - whole;
  const __m512i column = every(groups.rows);
  for (std::size_t r = 0; r < groups.rows_of(group, task.rows); ++r) {
    float* products = task.products + (group * groups.rows + r) * task.stride + task.first;
    for (std::size_t n = 0; n < outputs; n += kTileRows) {
      const __mmask16 mask = first_of(outputs - n);
      const __m512 tile = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, column,
                                                   sums + n * groups.rows + r, sizeof(float));
      _mm512_mask_storeu_ps(products + n, mask, tile);
    }
    for (std::size_t n = 0; rest > 0 && n < outputs; ++n) {
      const BFloat16* weights = task.weight + (task.first + n) * in + whole;
      const BFloat16* inputs = packed + whole * groups.rows + r * rest;
      for (std::size_t i = 0; i < rest; ++i) products[n] += widen(inputs[i]) * widen(weights[i]);
    }
  }
}

// Up to kGroups groups of input rows.
void products_of_groups(const DotProducts<BFloat16>& task, const Groups& groups,
                        std::size_t first_group, std::size_t count) {
  alignas(64) float sums[kGroups][kOutputBlock * kTileRows] = {};
  const std::size_t in = task.in_features;
  const std::size_t chunks = in / kChunk;
  const std::size_t outputs = task.last - task.first;
  const auto add_part = kAdd[(outputs + kTileRows - 1) / kTileRows];
  const BFloat16* weight = task.weight + task.first * in;
  const auto* packed =
      reinterpret_cast<const BFloat16*>(task.packed) + first_group * groups.rows * in;
  for (std::size_t c = 0; c < chunks; c += kDepth) {
    const Part part{weight + c * kChunk, in, chunks - c < kDepth ? chunks - c : kDepth};
    for (std::size_t g = 0; g < count; ++g) {
      add_part(part, packed + (g * in + c * kChunk) * groups.rows, groups.rows, sums[g]);
    }
  }
  for (std::size_t g = 0; g < count; ++g) {
    write(task, groups, first_group + g, packed + g * groups.rows * in, sums[g]);
  }
}

}  // namespace

// Groups follow each other; in a group, each chunk holds the rows' first two entries, then their
// next two, and so on. Entries beyond the last chunk follow row by row.
void pack_bfloat16_amx(const BFloat16* input, std::size_t rows, std::size_t in_features,
                       float* packed) {
  if (rows == 0) return;
  const Groups groups(rows);
  const std::size_t whole = in_features / kChunk * kChunk;
  const std::size_t rest = in_features - whole;
  const __m512i row = every(in_features);
  for (std::size_t g = 0; g < groups.count; ++g) {
    const BFloat16* from = input + g * groups.rows * in_features;
    auto* to = reinterpret_cast<BFloat16*>(packed) + g * groups.rows * in_features;
    const std::size_t present = groups.rows_of(g, rows);
    const __mmask16 read = first_of(present), written = first_of(groups.rows);
    for (std::size_t k = 0; k < whole; k += 2) {
      const __m512i pairs = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), read, row, from + k,
                                                        sizeof(BFloat16));
      _mm512_mask_storeu_epi32(to + k * groups.rows, written, pairs);
    }
    for (std::size_t i = 0; i < present * rest; ++i) {
      to[whole * groups.rows + i] = from[i / rest * in_features + whole + i % rest];
    }
  }
}

void dot_products_bfloat16_amx(const DotProducts<BFloat16>& task) {
  if (task.rows == 0 || task.first == task.last) return;
  const Groups groups(task.rows);
  const Configuration configuration(task.last - task.first, groups.rows);
  _tile_loadconfig(&configuration);
  for (std::size_t g = 0; g < groups.count; g += kGroups) {
    products_of_groups(task, groups, g, groups.count - g < kGroups ? groups.count - g : kGroups);
  }
  _tile_release();
}

}  // namespace tokentiming::native
