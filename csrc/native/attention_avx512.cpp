// Attention for AVX-512F: 32 registers of 16 floats.
#include <immintrin.h>

#include "native/attention.h"

namespace tokentiming::native {
namespace {

struct Avx512 {
  using Floats = __m512;
  static constexpr std::size_t kLanes = 16;
  static constexpr std::size_t score_vectors(std::size_t) { return 4; }
  static constexpr std::size_t output_vectors(std::size_t) { return 4; }

  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Floats v) { _mm512_storeu_ps(to, v); }
  static Floats all(const float* from) { return _mm512_set1_ps(*from); }
  // Eight floats; the upper half of the vector is zero or not stored.
  static Floats load_eight(const float* from) { return _mm512_maskz_loadu_ps(0xff, from); }
  static void store_eight(float* to, Floats v) { _mm512_mask_storeu_ps(to, 0xff, v); }
  static void multiply_add(Floats& sum, Floats a, Floats b) { sum = _mm512_fmadd_ps(a, b, sum); }
};

}  // namespace

void attention_scores_avx512(const AttentionScores& task) { scores_of<Avx512>(task); }
void attention_output_avx512(const AttentionOutput& task) { output_of<Avx512>(task); }

}  // namespace tokentiming::native
