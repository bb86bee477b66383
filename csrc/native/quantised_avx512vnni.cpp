// Products of quantised weights for AVX-512 VNNI, which adds 32 products of bytes at once to 32-bit
// sums. Its vectors of 32 bytes hold a step of a tile.
#include "native/kernels.h"
#include "native/quantised_products.h"

namespace tokentiming::native {
namespace {

struct Avx512Vnni {
  static constexpr std::size_t kMaxRows = 8;

  struct Sums {
    __m256i all = _mm256_setzero_si256();
  };

  static void add_four_bits(Sums& sums, __m256i bytes, const std::int8_t* inputs) {
    sums.all = _mm256_dpbusd_epi32(sums.all, lower_bits(bytes), step(inputs));
    sums.all = _mm256_dpbusd_epi32(sums.all, upper_bits(bytes), step(inputs + kStepInputs));
  }
  static void add_eight_bits(Sums& sums, __m256i bytes, const std::int8_t* inputs) {
    sums.all = _mm256_dpbusd_epi32(sums.all, bytes, step(inputs));
  }
  static __m256i total(const Sums& sums) { return sums.all; }
};

}  // namespace

void quantised_products_avx512vnni(const QuantisedProducts& task) {
  quantised_products<Avx512Vnni>(task);
}

}  // namespace tokentiming::native
