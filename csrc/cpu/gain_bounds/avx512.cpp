#include <immintrin.h>

#include "lanes.h"

namespace tokentiming {
namespace {

struct Lanes {
  static constexpr std::size_t kCount = 16;
  __m512i low, high;

  static Lanes broadcast(std::uint32_t word) {
    const __m512i lanes = _mm512_set1_epi64(word);
    return {lanes, lanes};
  }
  static Lanes load(const std::uint64_t* keys) {
    return {_mm512_loadu_si512(keys), _mm512_loadu_si512(keys + 8)};
  }
};

inline Lanes operator*(Lanes a, Lanes b) {
  return {_mm512_mul_epu32(a.low, b.low), _mm512_mul_epu32(a.high, b.high)};
}
inline Lanes operator^(Lanes a, Lanes b) {
  return {_mm512_xor_si512(a.low, b.low), _mm512_xor_si512(a.high, b.high)};
}
inline Lanes high(Lanes a) { return {_mm512_srli_epi64(a.low, 32), _mm512_srli_epi64(a.high, 32)}; }

inline void store_bounds(Lanes words, float* bounds) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i ordered = _mm512_permutex2var_epi32(words.low, even, words.high);
  const __m512 w = _mm512_cvtepi32_ps(_mm512_srli_epi32(ordered, 8));
  const __m512 bits = _mm512_cvtepi32_ps(_mm512_castps_si512(w));
  const __m512 unlimited =
      _mm512_sub_ps(_mm512_set1_ps(kBoundOffset), _mm512_mul_ps(_mm512_set1_ps(kBoundSlope), bits));
  _mm512_storeu_ps(bounds, _mm512_min_ps(unlimited, _mm512_set1_ps(kMaxGain)));
}

}  // namespace

void gain_bounds_avx512(const Noise& noise, const std::uint64_t* keys, std::size_t count,
                        float* bounds) {
  const std::size_t done = gain_bounds_in_lanes<Lanes>(noise, keys, count, bounds);
  gain_bounds_portable(noise, keys + done, count - done, bounds + done);
}

}  // namespace tokentiming
