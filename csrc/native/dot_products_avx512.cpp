// Dot products for AVX-512F: 32 registers of 16 floats.
#include <immintrin.h>

#include "native/dot_products.h"

namespace tokentiming::native {
namespace {

struct Avx512 {
  using Floats = __m512;
  static constexpr std::size_t kLanes = 16;
  static constexpr std::size_t kGroup = 8;  // rows
  // Weight rows between the one that is read and the one that is prefetched.
  static constexpr std::size_t kPrefetchRows = 32;

  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Floats v) { _mm512_storeu_ps(to, v); }
  static void prefetch(const void* from) {
    _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0);
  }

  // The halves of 32 weights: those at even and those at odd positions.
  static Floats first_half(const BFloat16* weights) { return even_places(integers(weights)); }
  static Floats second_half(const BFloat16* weights) { return odd_places(integers(weights)); }
  // 8-bit weights are interleaved.
  static Floats first_half(const std::int8_t* weights) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weights));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen));
  }
  static Floats second_half(const std::int8_t* weights) { return first_half(weights + kLanes); }

  // 32 numbers as floats: those at even positions and those at odd positions.
  static void split(const BFloat16* from, Floats& even, Floats& odd) {
    even = first_half(from);
    odd = second_half(from);
  }
  static void split(const float* from, Floats& even, Floats& odd) {
    const Floats low = load(from);
    const Floats high = load(from + kLanes);
    const __m512i places =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even = _mm512_permutex2var_ps(low, places, high);
    odd = _mm512_permutex2var_ps(low, _mm512_add_epi32(places, _mm512_set1_epi32(1)), high);
  }

  static void multiply_add(Floats& sum, Floats a, Floats b) { sum = _mm512_fmadd_ps(a, b, sum); }
  static void multiply_add(Floats& sum, Floats a, const float* b) { multiply_add(sum, a, load(b)); }
  // Keeps a value in its register; the compiler would otherwise load it again for each use.
  static void pin(Floats& v) { asm("" : "+v"(v)); }

  static float sum_of_lanes(Floats v) { return _mm512_reduce_add_ps(v); }

 private:
  static __m512i integers(const BFloat16* from) { return _mm512_loadu_si512(from); }
  static Floats even_places(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  }
  static Floats odd_places(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_srli_epi32(pairs, 16), 16));
  }
};

template <class Weight>
constexpr ProductsOfRows<Weight> kProducts[kMaxRows + 1] = {nullptr,
                                                            products_of_rows<Avx512, 1, 8, Weight>,
                                                            products_of_rows<Avx512, 2, 8, Weight>,
                                                            products_of_rows<Avx512, 3, 6, Weight>,
                                                            products_of_rows<Avx512, 4, 6, Weight>,
                                                            products_of_rows<Avx512, 5, 4, Weight>,
                                                            products_of_rows<Avx512, 6, 4, Weight>,
                                                            products_of_rows<Avx512, 7, 3, Weight>,
                                                            products_of_rows<Avx512, 8, 3, Weight>};

}  // namespace

void pack_bfloat16_avx512(const BFloat16* input, std::size_t rows, std::size_t in_features,
                          float* packed) {
  pack<Avx512>(input, rows, in_features, packed);
}
void pack_float_avx512(const float* input, std::size_t rows, std::size_t in_features,
                       float* packed) {
  pack<Avx512>(input, rows, in_features, packed);
}

void dot_products_bfloat16_avx512(const DotProducts<BFloat16>& task) {
  dot_products<Avx512>(task, kProducts<BFloat16>);
}
void dot_products_int8_avx512(const DotProducts<std::int8_t>& task) {
  dot_products<Avx512>(task, kProducts<std::int8_t>);
}

}  // namespace tokentiming::native
