// Dot products for AMX: one instruction multiplies a tile of 16 weight rows, 64 bytes each, by up
// to 16 input rows.
//
// A tile of weights is multiplied by up to four groups of input rows when it arrives from memory.
// With 8-bit weights, the input rows are rounded to 22 bits and split into three parts of 8 bits.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

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

// For 8-bit weights an input row is scale * (kBase^2 * part 0 + kBase * part 1 + part 2).
constexpr int kBase = 128;
constexpr float kLargest = 127 * kBase * kBase;

template <class Weight>
constexpr std::size_t kParts = std::is_same_v<Weight, std::int8_t> ? 3 : 1;

template <class Weight>
using Sum = std::conditional_t<std::is_same_v<Weight, std::int8_t>, std::int32_t, float>;

// The packed input. Rows are split evenly into groups; the last rows of the last group may be
// absent. Each part of a group holds the first unit of all its rows, then the next units, and so
// on; entries beyond the last chunk follow row by row. The scales of all rows come last.
template <class Weight>
struct Packed {
  Packed(const float* packed, std::size_t all, std::size_t in)
      : data(reinterpret_cast<const char*>(packed)),
        groups((all + kTileRows - 1) / kTileRows),
        rows((all + groups - 1) / groups),
        all(all),
        in(in) {}

  static constexpr std::size_t kChunkEntries = kChunk / sizeof(Weight);

  std::size_t whole() const { return in / kChunkEntries * kChunkEntries; }
  std::size_t part_bytes() const { return rows * in * sizeof(Weight); }
  std::size_t rows_of(std::size_t group) const {
    const std::size_t before = group * rows;
    return before >= all ? 0 : all - before < rows ? all - before : rows;
  }

  template <class Number>
  auto* part(Number* of, std::size_t group, std::size_t part) const {
    return of + (group * kParts<Weight> + part) * part_bytes();
  }
  const Weight* rest(std::size_t group, std::size_t index, std::size_t row) const {
    const char* entries = part(data, group, index);
    return reinterpret_cast<const Weight*>(entries) + rows * whole() + row * (in - whole());
  }
  const float* scales() const {
    const std::size_t bytes = groups * kParts<Weight> * part_bytes();
    return reinterpret_cast<const float*>(data + (bytes + kUnit - 1) / kUnit * kUnit);
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

// The intrinsics take only literal numbers of tiles.
#define TOKENTIMING_MULTIPLY(sums, input)           \
  if constexpr (std::is_same_v<Weight, BFloat16>) { \
    _tile_dpbf16ps(sums, 4, input);                 \
  } else {                                          \
    _tile_dpbssd(sums, 4, input);                   \
  }

inline void prefetch(const char* weights) {
#pragma GCC unroll 16
  for (std::size_t line = 0; line < kTileRows; ++line) {
    _mm_prefetch(weights + line * kChunk, _MM_HINT_T0);
  }
}

// Writes sums[group][16, rows] for kGroups groups of `rows` input rows.
template <class Weight, std::size_t kGroups>
void multiply(const WeightTile& weight, const char* input, std::size_t group_bytes,
              std::size_t rows, Sum<Weight>* sums) {
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
    TOKENTIMING_MULTIPLY(0, 5)
    if constexpr (kGroups > 1) {
      _tile_loadd(6, units + group_bytes, bytes);
      TOKENTIMING_MULTIPLY(1, 6)
    }
    if constexpr (kGroups > 2) {
      _tile_loadd(5, units + 2 * group_bytes, bytes);
      TOKENTIMING_MULTIPLY(2, 5)
    }
    if constexpr (kGroups > 3) {
      _tile_loadd(6, units + 3 * group_bytes, bytes);
      TOKENTIMING_MULTIPLY(3, 6)
    }
  }
  constexpr std::size_t kSums = kTileRows * kTileRows;
  _tile_stored(0, sums, bytes);
  if constexpr (kGroups > 1) _tile_stored(1, sums + kSums, bytes);
  if constexpr (kGroups > 2) _tile_stored(2, sums + 2 * kSums, bytes);
  if constexpr (kGroups > 3) _tile_stored(3, sums + 3 * kSums, bytes);
}

#undef TOKENTIMING_MULTIPLY

// Indices of 16 numbers that lie `stride` numbers apart.
inline __m512i every(std::size_t stride) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(stride)));
}

inline __mmask16 first_of(std::size_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1u << count) - 1);
}

// The sums of a group of input rows, [16, rows], from those of its parts.
inline const float* combined(const float* sums, std::size_t, float*) { return sums; }
inline const float* combined(const std::int32_t* sums, std::size_t rows, float* to) {
  constexpr std::size_t kSums = kTileRows * kTileRows;
  const __m512 base = _mm512_set1_ps(kBase);
  for (std::size_t at = 0; at < kTileRows * rows; at += kTileRows) {
    const auto part = [&](std::size_t p) {
      return _mm512_cvtepi32_ps(_mm512_load_si512(sums + p * kSums + at));
    };
    const __m512 upper = _mm512_fmadd_ps(part(0), base, part(1));
    _mm512_store_ps(to + at, _mm512_fmadd_ps(upper, base, part(2)));
  }
  return to;
}

// The product of the entries of input row r and weight row n beyond the last chunk.
template <class Weight>
float rest_of(const DotProducts<Weight>& task, const Packed<Weight>& packed, std::size_t group,
              std::size_t r, std::size_t n) {
  const Weight* weights = task.weight + n * packed.in + packed.whole();
  const Weight* first = packed.rest(group, 0, r);
  float sum = 0.0f;
  for (std::size_t i = 0; i < packed.in - packed.whole(); ++i) {
    if constexpr (kParts<Weight> == 3) {
      const int upper = kBase * first[i] + packed.rest(group, 1, r)[i];
      sum += static_cast<float>(kBase * upper + packed.rest(group, 2, r)[i]) * widen(weights[i]);
    } else {
      sum += widen(first[i]) * widen(weights[i]);
    }
  }
  return sum;
}

// Writes the outputs [first, first + count) of a group, whose parts have `sums`.
template <class Weight>
void write(const DotProducts<Weight>& task, const Packed<Weight>& packed, std::size_t group,
           std::size_t first, std::size_t count, const Sum<Weight>* of_parts) {
  alignas(64) float memory[kTileRows * kTileRows];
  const float* sums = combined(of_parts, packed.rows, memory);
  const __m512i column = every(packed.rows);
  const __mmask16 mask = first_of(count);
  for (std::size_t r = 0; r < packed.rows_of(group); ++r) {
    const std::size_t row = group * packed.rows + r;
    float* products = task.products + row * task.stride + first;
    _mm512_mask_storeu_ps(
        products, mask,
        _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, column, sums + r, sizeof(float)));
    if (packed.whole() < packed.in) {
      for (std::size_t n = 0; n < count; ++n) {
        products[n] += rest_of(task, packed, group, r, first + n);
      }
    }
    if constexpr (kParts<Weight> == 3) {
      const __m512 scale = _mm512_set1_ps(packed.scales()[row]);
      const __m512 unscaled = _mm512_maskz_loadu_ps(mask, products);
      _mm512_mask_storeu_ps(products, mask, _mm512_mul_ps(unscaled, scale));
    }
  }
}

template <class Weight>
void dot_products(const DotProducts<Weight>& task) {
  if (task.rows == 0 || task.first == task.last) return;
  constexpr decltype(&multiply<Weight, 1>) kMultiply[] = {
      nullptr, multiply<Weight, 1>, multiply<Weight, 2>, multiply<Weight, 3>, multiply<Weight, 4>};
  constexpr std::size_t kGroups = kTogether / kParts<Weight>;
  const Packed<Weight> packed(task.packed, task.rows, task.in_features);
  const std::size_t tile_bytes = kTileRows * packed.in * sizeof(Weight);
  alignas(64) Sum<Weight> sums[kTogether * kTileRows * kTileRows];
  for (std::size_t n = task.first; n < task.last; n += kTileRows) {
    const std::size_t count = task.last - n < kTileRows ? task.last - n : kTileRows;
    if (n == task.first || count < kTileRows) {
      configure(count, packed.rows);
    }
    const WeightTile tile{reinterpret_cast<const char*>(task.weight + n * packed.in),
                          tile_bytes <= kPrefetched ? reinterpret_cast<const char*>(
                                                          task.weight + (n + kTileRows) * packed.in)
                                                    : nullptr,
                          packed.in * sizeof(Weight), packed.whole() / packed.kChunkEntries};
    for (std::size_t g = 0; g < packed.groups; g += kGroups) {
      const std::size_t used = packed.groups - g < kGroups ? packed.groups - g : kGroups;
      kMultiply[used * kParts<Weight>](tile, packed.part(packed.data, g, 0), packed.part_bytes(),
                                       packed.rows, sums);
      for (std::size_t u = 0; u < used; ++u) {
        constexpr std::size_t kSums = kParts<Weight> * kTileRows * kTileRows;
        write(task, packed, g + u, n, count, sums + u * kSums);
      }
    }
  }
  _tile_release();
}

// The scale of a row's 22-bit numbers: NaN if an entry is NaN or infinite, so that all its products
// are NaN too, and 0 if all entries are too small for a scale.
float scale_of(const float* row, std::size_t in) {
  const __m512 infinity = _mm512_set1_ps(__builtin_inff());
  __m512 largest = _mm512_setzero_ps();
  __mmask16 broken = 0;
  for (std::size_t k = 0; k < in; k += kTileRows) {
    const __m512 sizes = _mm512_abs_ps(_mm512_maskz_loadu_ps(first_of(in - k), row + k));
    broken |= _mm512_cmp_ps_mask(sizes, infinity, _CMP_NLT_UQ);
    largest = _mm512_max_ps(largest, sizes);
  }
  if (broken != 0) return __builtin_nanf("");
  const float scale = _mm512_reduce_max_ps(largest) / kLargest;
  return scale < 0x1p-120f ? 0.0f : scale;
}

// The parts of up to 16 numbers.
struct Split {
  Split(const float* numbers, std::size_t count, float inverse) {
    const __m512 scaled =
        _mm512_mul_ps(_mm512_maskz_loadu_ps(first_of(count), numbers), _mm512_set1_ps(inverse));
    const __m512i rounded = _mm512_cvtps_epi32(scaled);
    const __m512i upper = above(rounded);
    store(0, above(upper));
    store(1, difference(upper, above(upper)));
    store(2, difference(rounded, upper));
  }

  // numbers / kBase, rounded.
  static __m512i above(__m512i numbers) {
    return _mm512_srai_epi32(_mm512_add_epi32(numbers, _mm512_set1_epi32(kBase / 2)), 7);
  }
  static __m512i difference(__m512i numbers, __m512i upper) {
    return _mm512_sub_epi32(numbers, _mm512_slli_epi32(upper, 7));
  }
  void store(std::size_t part, __m512i numbers) {
    _mm_store_si128(reinterpret_cast<__m128i*>(parts[part]), _mm512_cvtepi32_epi8(numbers));
  }

  alignas(16) std::int8_t parts[3][16];
};

}  // namespace

void pack_bfloat16_amx(const BFloat16* input, std::size_t rows, std::size_t in_features,
                       float* to) {
  if (rows == 0) return;
  const Packed<BFloat16> packed(to, rows, in_features);
  const std::size_t whole = packed.whole();
  const std::size_t rest = in_features - whole;
  const __m512i row = every(in_features);
  for (std::size_t g = 0; g < packed.groups; ++g) {
    const BFloat16* from = input + g * packed.rows * in_features;
    char* part = packed.part(reinterpret_cast<char*>(to), g, 0);
    const std::size_t present = packed.rows_of(g);
    const __mmask16 mask = first_of(present);
    for (std::size_t k = 0; k < whole; k += 2) {
      const __m512i pairs = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, row, from + k,
                                                        sizeof(BFloat16));
      _mm512_mask_storeu_epi32(part + k * packed.rows * sizeof(BFloat16), mask, pairs);
    }
    auto* last = reinterpret_cast<BFloat16*>(part) + whole * packed.rows;
    for (std::size_t i = 0; i < present * rest; ++i) {
      last[i] = from[i / rest * in_features + whole + i % rest];
    }
  }
}

void pack_float_amx(const float* input, std::size_t rows, std::size_t in_features, float* to) {
  if (rows == 0) return;
  const Packed<std::int8_t> packed(to, rows, in_features);
  char* data = reinterpret_cast<char*>(to);
  const std::size_t rest = in_features - packed.whole();
  for (std::size_t r = 0; r < rows; ++r) {
    const float* from = input + r * in_features;
    const std::size_t place = r % packed.rows;
    const float scale = scale_of(from, in_features);
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    const_cast<float*>(packed.scales())[r] = scale;
    for (std::size_t k = 0; k < in_features; k += kTileRows) {
      const std::size_t count = in_features - k < kTileRows ? in_features - k : kTileRows;
      const Split split(from + k, count, inverse);
      for (std::size_t p = 0; p < kParts<std::int8_t>; ++p) {
        char* part = packed.part(data, r / packed.rows, p);
        if (k < packed.whole()) {
          for (std::size_t u = 0; u < kTileRows; u += kUnit) {
            __builtin_memcpy(part + (k + u) * packed.rows + place * kUnit, split.parts[p] + u,
                             kUnit);
          }
        } else {
          const std::size_t at = packed.whole() * packed.rows + place * rest + k - packed.whole();
          __builtin_memcpy(part + at, split.parts[p], count);
        }
      }
    }
  }
}

void dot_products_bfloat16_amx(const DotProducts<BFloat16>& task) { dot_products(task); }
void dot_products_int8_amx(const DotProducts<std::int8_t>& task) { dot_products(task); }

}  // namespace tokentiming::native
