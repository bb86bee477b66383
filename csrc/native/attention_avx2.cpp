#include <immintrin.h>

#include <cstddef>

#include "native/kernels.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kLanes = 8;

inline float sum_of_lanes(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

// Adds up kVectors vectors of the output. Several independent sums hide the latency of the
// multiplications.
template <std::size_t kVectors>
inline void output_vectors(const float* weights, const float* values, std::size_t length,
                           std::size_t head_size, float* out) {
  __m256 sums[kVectors] = {};
  for (std::size_t t = 0; t < length; ++t, values += head_size) {
    const __m256 weight = _mm256_set1_ps(weights[t]);
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[v] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(values + v * kLanes), sums[v]);
    }
  }
  for (std::size_t v = 0; v < kVectors; ++v) _mm256_storeu_ps(out + v * kLanes, sums[v]);
}

}  // namespace

void attention_scores_avx2(const float* query, const float* keys, std::size_t length,
                           std::size_t head_size, float* scores) {
  for (std::size_t t = 0; t < length; ++t, keys += head_size) {
    __m256 even = _mm256_setzero_ps();
    __m256 odd = _mm256_setzero_ps();
    std::size_t k = 0;
    for (; k + 2 * kLanes <= head_size; k += 2 * kLanes) {
      even = _mm256_fmadd_ps(_mm256_loadu_ps(query + k), _mm256_loadu_ps(keys + k), even);
      odd = _mm256_fmadd_ps(_mm256_loadu_ps(query + k + kLanes), _mm256_loadu_ps(keys + k + kLanes),
                            odd);
    }
    if (k < head_size) {
      even = _mm256_fmadd_ps(_mm256_loadu_ps(query + k), _mm256_loadu_ps(keys + k), even);
    }
    scores[t] = sum_of_lanes(_mm256_add_ps(even, odd));
  }
}

void attention_output_avx2(const float* weights, const float* values, std::size_t length,
                           std::size_t head_size, float* out) {
  std::size_t k = 0;
  for (; k + 8 * kLanes <= head_size; k += 8 * kLanes) {
    output_vectors<8>(weights, values + k, length, head_size, out + k);
  }
  for (; k < head_size; k += kLanes) {
    output_vectors<1>(weights, values + k, length, head_size, out + k);
  }
}

}  // namespace tokentiming::native
