// Dot products for AVX2 and FMA: 16 registers of 8 floats.
#include <immintrin.h>

#include <cstdint>

#include "native/dot_products.h"

namespace tokentiming::native {
namespace {

struct Avx2 {
  using Floats = __m256;
  static constexpr std::size_t kLanes = 8;
  static constexpr std::size_t kGroup = 6;  // rows
  // Weight rows between the one that is read and the one that is prefetched.
  static constexpr std::size_t kPrefetchRows = 8;
  // A few rows wait for the weights, which arrive fastest in the order of addresses. Of more rows,
  // a slice of the input stays in the L1 cache.
  static constexpr std::size_t depth(std::size_t rows) { return rows < 6 ? SIZE_MAX : 768; }

  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Floats v) { _mm256_storeu_ps(to, v); }
  static void prefetch(const void* from) {
    _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0);
  }

  // The halves of 16 weights: those at even and those at odd positions. Two shifts are used instead
  // of a mask, which would occupy a register.
  static Floats first_half(const BFloat16* weights) { return even_places(integers(weights)); }
  static Floats second_half(const BFloat16* weights) { return odd_places(integers(weights)); }

  // sum += a * b, in assembly: from intrinsics the compiler moves the sums through more registers
  // than there are.
  static void multiply_add(Floats& sum, Floats a, Floats b) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }
  static void multiply_add(Floats& sum, Floats a, const float* b) {
    asm("vfmadd231ps %2, %1, %0"
        : "+x"(sum)
        : "x"(a), "m"(*reinterpret_cast<const float (*)[kLanes]>(b)));
  }
  // Keeps a value in its register; the compiler would otherwise load it again for each use.
  static void pin(Floats& v) { asm("" : "+x"(v)); }

  static float sum_of_lanes(Floats v) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
  }

 private:
  static __m256i integers(const BFloat16* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static Floats even_places(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  }
  static Floats odd_places(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(pairs, 16), 16));
  }
};

constexpr ProductsOfRows kProducts[kMaxRows + 1] = {nullptr,
                                                    products_of_rows<Avx2, 1, 6>,
                                                    products_of_rows<Avx2, 2, 4>,
                                                    products_of_rows<Avx2, 3, 3>,
                                                    products_of_rows<Avx2, 4, 2>,
                                                    products_of_rows<Avx2, 5, 2>,
                                                    products_of_rows<Avx2, 6, 2>,
                                                    products_of_rows<Avx2, 7, 1>,
                                                    products_of_rows<Avx2, 8, 1>};

}  // namespace

void pack_avx2(const BFloat16* input, std::size_t rows, std::size_t in_features, float* packed) {
  pack<Avx2>(input, rows, in_features, packed);
}

void dot_products_avx2(const DotProducts& task) { dot_products<Avx2>(task, kProducts); }

}  // namespace tokentiming::native
