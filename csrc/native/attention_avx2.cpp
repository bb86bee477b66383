// Attention for AVX2 and FMA: 16 registers of 8 floats.
#include <immintrin.h>

#include "native/attention.h"

namespace tokentiming::native {
namespace {

struct Avx2 {
  using Floats = __m256;
  static constexpr std::size_t kLanes = 8;
  static constexpr std::size_t score_vectors(std::size_t queries) { return queries < 3 ? 4 : 2; }
  static constexpr std::size_t output_vectors(std::size_t queries) {
    return queries == 1 ? 8 : queries == 2 ? 4 : 2;
  }

  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Floats v) { _mm256_storeu_ps(to, v); }
  static Floats all(const float* from) { return _mm256_broadcast_ss(from); }
  static Floats load_eight(const float* from) { return load(from); }
  static void store_eight(float* to, Floats v) { store(to, v); }
  static void multiply_add(Floats& sum, Floats a, Floats b) { sum = _mm256_fmadd_ps(a, b, sum); }
};

}  // namespace

void attention_scores_avx2(const AttentionScores& task) { scores_of<Avx2>(task); }
void attention_output_avx2(const AttentionOutput& task) { output_of<Avx2>(task); }

}  // namespace tokentiming::native
