// Products of quantised weights for AVX2: 32 values of 4 bits are multiplied by 32 inputs of 8 bits
// at once, in 16-bit sums that no group overflows.
#include <immintrin.h>

#include "native/kernels.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kMaxRows = 4;   // rows whose sums fit in the registers
constexpr std::size_t kVector = 32;   // bytes
constexpr std::size_t kAhead = 2048;  // bytes between the weights that are read and prefetched

// 8 bfloat16 numbers as floats.
inline __m256 widened(const std::uint8_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// kStepInputs inputs, repeated for each output.
inline __m256i step(const std::int8_t* inputs) {
  int bits;
  __builtin_memcpy(&bits, inputs, sizeof bits);
  return _mm256_set1_epi32(bits);
}

// The products of one tile of outputs and kRows rows, from row `first` on.
template <std::size_t kRows, bool kEightBits>
inline void tile(const RoundedInput& input, std::size_t first, const std::uint8_t* weights,
                 __m256* sums) {
  const __m256i mask = _mm256_set1_epi8(15);
  const std::size_t width = input.groups * kRoundedInputs;
  const std::int8_t* values = input.values + first * width;
  const GroupScale* scales = input.scales + first * input.groups;
#pragma GCC unroll 4
  for (std::size_t r = 0; r < kRows; ++r) sums[r] = _mm256_setzero_ps();
  for (std::size_t g = 0; g < input.groups; ++g) {
    __m256i low[kRows], high[kRows];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRows; ++r) low[r] = high[r] = _mm256_setzero_si256();
    constexpr std::size_t kVectors = kEightBits ? 8 : 4;
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::uint8_t* at = weights + kScaleBytes + v * kVector;
      _mm_prefetch(reinterpret_cast<const char*>(at) + kAhead, _MM_HINT_T0);
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      const __m256i lower = _mm256_and_si256(bytes, mask);
      const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
      const std::size_t k = g * kRoundedInputs + v * kStepInputs * (kEightBits ? 1 : 2);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRows; ++r) {
        const std::int8_t* inputs = values + r * width + k;
        const __m256i one = step(inputs);
        low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(lower, one));
        if constexpr (kEightBits) {
          high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(upper, one));
        } else {
          low[r] =
              _mm256_add_epi16(low[r], _mm256_maddubs_epi16(upper, step(inputs + kStepInputs)));
        }
      }
    }
    const __m256 scale = widened(weights);
    const __m256 minimum = widened(weights + kScaleBytes / 2);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kRows; ++r) {
      __m256i total = _mm256_madd_epi16(low[r], _mm256_set1_epi16(1));
      if constexpr (kEightBits) {
        total = _mm256_add_epi32(total, _mm256_madd_epi16(high[r], _mm256_set1_epi16(16)));
      }
      const GroupScale& of_row = scales[r * input.groups + g];
      const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(of_row.scale));
      sums[r] = _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(total), sums[r]);
      sums[r] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(of_row.sum), sums[r]);
    }
    weights += quantised_group_bytes(kEightBits);
  }
}

template <std::size_t kRows, bool kEightBits>
void write_rows(const QuantisedProducts& task, std::size_t first, std::size_t output,
                const std::uint8_t* weights) {
  __m256 sums[kRows];
  tile<kRows, kEightBits>(task.input, first, weights, sums);
  const std::size_t count = task.outputs - output;
  for (std::size_t r = 0; r < kRows; ++r) {
    float* to = task.products + (first + r) * task.stride + output;
    if (count >= kTileOutputs) {
      _mm256_storeu_ps(to, sums[r]);
    } else {
      alignas(32) float all[kTileOutputs];
      _mm256_store_ps(all, sums[r]);
      __builtin_memcpy(to, all, count * sizeof(float));
    }
  }
}

template <bool kEightBits>
void products(const QuantisedProducts& task) {
  constexpr decltype(&write_rows<1, kEightBits>) kWrite[kMaxRows + 1] = {
      nullptr, write_rows<1, kEightBits>, write_rows<2, kEightBits>, write_rows<3, kEightBits>,
      write_rows<4, kEightBits>};
  const std::size_t rows = task.input.rows;
  const std::size_t blocks = (rows + kMaxRows - 1) / kMaxRows;
  const std::size_t tile_bytes = task.input.groups * quantised_group_bytes(kEightBits);
  const std::uint8_t* weights = task.weights;
  for (std::size_t n = 0; n < task.outputs; n += kTileOutputs, weights += tile_bytes) {
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t first = rows * b / blocks;
      kWrite[rows * (b + 1) / blocks - first](task, first, n, weights);
    }
  }
}

inline __m256 magnitude(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

inline float largest_of(__m256 v) {
  __m128 most = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

inline int sum_of(__m256i v) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0b01001110));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0b10110001)));
}

// Rounds kRoundedInputs numbers.
GroupScale round_group(const float* from, std::int8_t* to) {
  constexpr float kLargest = 127.0f;
  constexpr float kSmallest = 0x1p-100f;  // groups of smaller numbers become 0
  __m256 x[4];
  __m256 sizes = _mm256_setzero_ps();
  __m256 broken = _mm256_setzero_ps();  // NaN where a number is NaN or infinite
#pragma GCC unroll 4
  for (std::size_t v = 0; v < 4; ++v) {
    x[v] = _mm256_loadu_ps(from + 8 * v);
    sizes = _mm256_max_ps(sizes, magnitude(x[v]));
    broken = _mm256_fmadd_ps(x[v], _mm256_setzero_ps(), broken);
  }
  const float largest = largest_of(sizes);
  const bool is_finite = _mm256_movemask_ps(_mm256_cmp_ps(broken, broken, _CMP_UNORD_Q)) == 0;
  if (!is_finite || largest < kSmallest) {
    __builtin_memset(to, 0, kRoundedInputs);
    const float scale = is_finite ? 0.0f : __builtin_nanf("");
    return {scale, scale};
  }
  const __m256 inverse = _mm256_set1_ps(kLargest / largest);
  const auto rounded = [&](std::size_t v) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(x[v], inverse));
  };
  const __m256i a = rounded(0), b = rounded(1), c = rounded(2), d = rounded(3);
  // Packing works within each half of a vector; the permutation restores the order.
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, order));
  const int sum = sum_of(_mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d)));
  const float scale = largest / kLargest;
  return {scale, scale * static_cast<float>(sum)};
}

}  // namespace

void round_row_avx2(const float* input, std::size_t in_features, std::int8_t* values,
                    GroupScale* scales) {
  for (std::size_t k = 0; k < in_features; k += kRoundedInputs) {
    float padded[kRoundedInputs] = {};
    const float* from = input + k;
    if (in_features - k < kRoundedInputs) {
      __builtin_memcpy(padded, from, (in_features - k) * sizeof(float));
      from = padded;
    }
    *scales++ = round_group(from, values + k);
  }
}

void quantised_products_avx2(const QuantisedProducts& task) {
  task.eight_bits ? products<true>(task) : products<false>(task);
}

}  // namespace tokentiming::native
