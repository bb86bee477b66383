#include <immintrin.h>

#include "lanes.h"

namespace tokentiming {
namespace {

// Two registers: eight 64-bit lanes end as the eight floats of one register.
struct Lanes {
  static constexpr std::size_t kCount = 8;
  __m256i low, high;

  static Lanes broadcast(std::uint32_t word) {
    const __m256i lanes = _mm256_set1_epi64x(word);
    return {lanes, lanes};
  }
  static Lanes load(const std::uint64_t* keys) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + 4))};
  }
};

inline Lanes operator*(Lanes a, Lanes b) {
  return {_mm256_mul_epu32(a.low, b.low), _mm256_mul_epu32(a.high, b.high)};
}
inline Lanes operator^(Lanes a, Lanes b) {
  return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}
inline Lanes high(Lanes a) { return {_mm256_srli_epi64(a.low, 32), _mm256_srli_epi64(a.high, 32)}; }

inline void store_bounds(Lanes words, float* bounds) {
  // Even words of both registers, put back in order: the shuffle works on 128-bit halves.
  const __m256i gathered = _mm256_castps_si256(_mm256_shuffle_ps(
      _mm256_castsi256_ps(words.low), _mm256_castsi256_ps(words.high), _MM_SHUFFLE(2, 0, 2, 0)));
  const __m256i ordered = _mm256_permute4x64_epi64(gathered, _MM_SHUFFLE(3, 1, 2, 0));
  const __m256 w = _mm256_cvtepi32_ps(_mm256_srli_epi32(ordered, 8));
  const __m256 bits = _mm256_cvtepi32_ps(_mm256_castps_si256(w));
  const __m256 unlimited =
      _mm256_sub_ps(_mm256_set1_ps(kBoundOffset), _mm256_mul_ps(_mm256_set1_ps(kBoundSlope), bits));
  _mm256_storeu_ps(bounds, _mm256_min_ps(unlimited, _mm256_set1_ps(kMaxGain)));
}

}  // namespace

void gain_bounds_avx2(const Noise& noise, const std::uint64_t* keys, std::size_t count,
                      float* bounds) {
  const std::size_t done = gain_bounds_in_lanes<Lanes>(noise, keys, count, bounds);
  gain_bounds_portable(noise, keys + done, count - done, bounds + done);
}

}  // namespace tokentiming
