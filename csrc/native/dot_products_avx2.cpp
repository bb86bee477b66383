// Dot products for AVX2 and FMA: 16 registers of 8 floats.
#include <immintrin.h>

#include "native/dot_products.h"

namespace tokentiming::native {
namespace {

struct Avx2 {
  using Floats = __m256;
  static constexpr std::size_t kLanes = 8;
  static constexpr std::size_t kGroup = 6;  // rows
  // Weight rows between the one that is read and the one that is prefetched.
  static constexpr std::size_t kPrefetchRows = 8;

  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Floats v) { _mm256_storeu_ps(to, v); }
  static void prefetch(const void* from) {
    _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0);
  }

  // The halves of 16 weights: those at even and those at odd positions. Two shifts are used instead
  // of a mask, which would occupy a register.
  static Floats first_half(const BFloat16* weights) { return even_places(integers(weights)); }
  static Floats second_half(const BFloat16* weights) { return odd_places(integers(weights)); }
  // 8-bit weights are interleaved.
  static Floats first_half(const std::int8_t* weights) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
  }
  static Floats second_half(const std::int8_t* weights) { return first_half(weights + kLanes); }

  // 16 numbers as floats: those at even positions and those at odd positions.
  static void split(const BFloat16* from, Floats& even, Floats& odd) {
    even = first_half(from);
    odd = second_half(from);
  }
  static void split(const float* from, Floats& even, Floats& odd) {
    const Floats low = load(from);
    const Floats high = load(from + kLanes);
    // The shuffles work within each half of a vector; this orders the halves.
    const auto in_order = [](Floats v) {
      return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0b11011000));
    };
    even = in_order(_mm256_shuffle_ps(low, high, 0b10001000));
    odd = in_order(_mm256_shuffle_ps(low, high, 0b11011101));
  }

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

template <class Weight>
constexpr ProductsOfRows<Weight> kProducts[kMaxRows + 1] = {nullptr,
                                                            products_of_rows<Avx2, 1, 6, Weight>,
                                                            products_of_rows<Avx2, 2, 4, Weight>,
                                                            products_of_rows<Avx2, 3, 3, Weight>,
                                                            products_of_rows<Avx2, 4, 2, Weight>,
                                                            products_of_rows<Avx2, 5, 2, Weight>,
                                                            products_of_rows<Avx2, 6, 2, Weight>,
                                                            products_of_rows<Avx2, 7, 1, Weight>,
                                                            products_of_rows<Avx2, 8, 1, Weight>};

}  // namespace

void pack_bfloat16_avx2(const BFloat16* input, std::size_t rows, std::size_t in_features,
                        float* packed) {
  pack<Avx2>(input, rows, in_features, packed);
}
void pack_float_avx2(const float* input, std::size_t rows, std::size_t in_features, float* packed) {
  pack<Avx2>(input, rows, in_features, packed);
}

void dot_products_bfloat16_avx2(const DotProducts<BFloat16>& task) {
  dot_products<Avx2>(task, kProducts<BFloat16>);
}
void dot_products_int8_avx2(const DotProducts<std::int8_t>& task) {
  dot_products<Avx2>(task, kProducts<std::int8_t>);
}

}  // namespace tokentiming::native
