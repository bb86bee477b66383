#include <immintrin.h>

#include "block_kernels.h"
#include "race_kernel.h"
#include "race_sum.h"

namespace tokentiming::simd {
namespace {

struct Words {
  static constexpr std::size_t kCount = 16;
  static constexpr std::size_t kVectors = 2;
  __m512i words;

  static Words broadcast(std::uint32_t word) {
    return {_mm512_set1_epi32(static_cast<std::int32_t>(word))};
  }
  static void split(const std::uint64_t* keys, Words& low, Words& high) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i first = _mm512_loadu_si512(keys);
    const __m512i second = _mm512_loadu_si512(keys + 8);
    low = {_mm512_permutex2var_epi32(first, even, second)};
    high = {_mm512_permutex2var_epi32(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), second)};
  }
  Words ordered() const { return *this; }
  static Words load(const std::uint32_t* from) { return {_mm512_loadu_si512(from)}; }
  void store(std::uint32_t* to) const { _mm512_storeu_si512(to, words); }
  std::uint32_t candidates(const float* logits, float threshold) const {
    const __m512 w = _mm512_cvtepi32_ps(_mm512_srli_epi32(words, 8));
    const __m512 bits = _mm512_cvtepi32_ps(_mm512_castps_si512(w));
    const __m512 gain = _mm512_sub_ps(_mm512_set1_ps(kBoundOffset),
                                      _mm512_mul_ps(_mm512_set1_ps(kBoundSlope), bits));
    const __m512 score = _mm512_add_ps(_mm512_loadu_ps(logits), gain);
    return _mm512_cmp_ps_mask(score, _mm512_set1_ps(threshold), _CMP_NLT_UQ);
  }
};

// The instruction multiplies every other word: even and odd lanes take one each.
inline Product<Words> operator*(Words a, Words b) {
  const __m512i even = _mm512_mul_epu32(a.words, b.words);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.words, 32), b.words);
  return {{_mm512_mask_blend_epi32(0b1010101010101010, _mm512_srli_epi64(even, 32), odd)},
          {_mm512_mullo_epi32(a.words, b.words)}};
}
inline Words operator^(Words a, Words b) { return {_mm512_xor_si512(a.words, b.words)}; }

}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kKernels{"avx512",
                                    block_kernels<float>(),
                                    block_kernels<double>(),
                                    first_candidate<Words>,
                                    upper_words<Words>,
                                    first_reaching<Words>,
                                    race_sum};
  return kKernels;
}

}  // namespace tokentiming::simd
