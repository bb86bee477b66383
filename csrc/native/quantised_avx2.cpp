// Products of quantised weights for AVX2, which multiplies 32 values of 4 bits by 32 inputs of 8
// bits at once.
#include <immintrin.h>

#include "native/kernels.h"
#include "native/quantised_products.h"

namespace tokentiming::native {
namespace {

struct Avx2 {
  static constexpr std::size_t kMaxRows = 4;

  // 16-bit sums, which no group overflows, of the lower and of the upper bits.
  struct Sums {
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
  };

  static void add_four_bits(Sums& sums, __m256i bytes, const std::int8_t* inputs) {
    add(sums.low, lower_bits(bytes), inputs);
    add(sums.low, upper_bits(bytes), inputs + kStepInputs);
  }
  static void add_eight_bits(Sums& sums, __m256i bytes, const std::int8_t* inputs) {
    add(sums.low, lower_bits(bytes), inputs);
    add(sums.high, upper_bits(bytes), inputs);
  }
  static __m256i total(const Sums& sums) {
    return _mm256_add_epi32(_mm256_madd_epi16(sums.low, _mm256_set1_epi16(1)),
                            _mm256_madd_epi16(sums.high, _mm256_set1_epi16(16)));
  }

 private:
  static void add(__m256i& sums, __m256i weights, const std::int8_t* inputs) {
    sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, step(inputs)));
  }
};

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

void quantised_products_avx2(const QuantisedProducts& task) { quantised_products<Avx2>(task); }

}  // namespace tokentiming::native
