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
  // A slice of the input stays in the L1 cache while the weights stream through it.
  static constexpr std::size_t depth(std::size_t /*rows*/) { return 768; }

  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Floats v) { _mm512_storeu_ps(to, v); }
  static void prefetch(const void* from) {
    _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0);
  }

  // The halves of 32 weights: those at even and those at odd positions.
  static Floats first_half(const BFloat16* weights) { return even_places(integers(weights)); }
  static Floats second_half(const BFloat16* weights) { return odd_places(integers(weights)); }

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

constexpr ProductsOfRows kProducts[kMaxRows + 1] = {nullptr,
                                                    products_of_rows<Avx512, 1, 8>,
                                                    products_of_rows<Avx512, 2, 8>,
                                                    products_of_rows<Avx512, 3, 6>,
                                                    products_of_rows<Avx512, 4, 6>,
                                                    products_of_rows<Avx512, 5, 4>,
                                                    products_of_rows<Avx512, 6, 4>,
                                                    products_of_rows<Avx512, 7, 3>,
                                                    products_of_rows<Avx512, 8, 3>};

}  // namespace

void pack_avx512(const BFloat16* input, std::size_t rows, std::size_t in_features, float* packed) {
  pack<Avx512>(input, rows, in_features, packed);
}

void dot_products_avx512(const DotProducts& task) { dot_products<Avx512>(task, kProducts); }

}  // namespace tokentiming::native
