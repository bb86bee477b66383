#include <immintrin.h>

#include "block_kernels.h"
#include "race_kernel.h"
#include "race_sum.h"

namespace tokentiming::simd {
namespace {

struct Words {
  static constexpr std::size_t kCount = 8;
  static constexpr std::size_t kVectors = 2;
  __m256i words;

  static Words broadcast(std::uint32_t word) {
    return {_mm256_set1_epi32(static_cast<std::int32_t>(word))};
  }
  // The shuffle works on 128-bit halves, so that the keys end in the order 0 1 4 5 2 3 6 7.
  static void split(const std::uint64_t* keys, Words& low, Words& high) {
    const __m256 first = _mm256_loadu_ps(reinterpret_cast<const float*>(keys));
    const __m256 second = _mm256_loadu_ps(reinterpret_cast<const float*>(keys + 4));
    low = {_mm256_castps_si256(_mm256_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0)))};
    high = {_mm256_castps_si256(_mm256_shuffle_ps(first, second, _MM_SHUFFLE(3, 1, 3, 1)))};
  }
  Words ordered() const { return {_mm256_permute4x64_epi64(words, _MM_SHUFFLE(3, 1, 2, 0))}; }
  static Words load(const std::uint32_t* from) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
  }
  void store(std::uint32_t* to) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
  }
  std::uint32_t candidates(const float* logits, float threshold) const {
    const __m256 w = _mm256_cvtepi32_ps(_mm256_srli_epi32(words, 8));
    const __m256 bits = _mm256_cvtepi32_ps(_mm256_castps_si256(w));
    const __m256 gain = _mm256_sub_ps(_mm256_set1_ps(kBoundOffset),
                                      _mm256_mul_ps(_mm256_set1_ps(kBoundSlope), bits));
    const __m256 score = _mm256_add_ps(_mm256_loadu_ps(logits), gain);
    const __m256 not_below = _mm256_cmp_ps(score, _mm256_set1_ps(threshold), _CMP_NLT_UQ);
    return static_cast<std::uint32_t>(_mm256_movemask_ps(not_below));
  }
};

// The instruction multiplies every other word: even and odd lanes take one each.
inline Product<Words> operator*(Words a, Words b) {
  const __m256i even = _mm256_mul_epu32(a.words, b.words);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.words, 32), b.words);
  return {{_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0b10101010)},
          {_mm256_mullo_epi32(a.words, b.words)}};
}
inline Words operator^(Words a, Words b) { return {_mm256_xor_si256(a.words, b.words)}; }

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels kKernels{"avx2",
                                    block_kernels<float>(),
                                    block_kernels<double>(),
                                    first_candidate<Words>,
                                    upper_words<Words>,
                                    first_reaching<Words>,
                                    race_sum};
  return kKernels;
}

}  // namespace tokentiming::simd
