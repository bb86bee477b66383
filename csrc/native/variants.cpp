#include <vector>

#include "native/kernels.h"

namespace tokentiming::native {
namespace {

#ifdef TOKENTIMING_X86
constexpr Kernels kAvx2{
    16,
    pack_bfloat16_avx2,
    pack_float_avx2,
    dot_products_bfloat16_avx2,
    dot_products_int8_avx2,
    attention_scores_avx2,
    attention_output_avx2,
};
constexpr Kernels kAvx512{
    32,
    pack_bfloat16_avx512,
    pack_float_avx512,
    dot_products_bfloat16_avx512,
    dot_products_int8_avx512,
    attention_scores_avx512,
    attention_output_avx512,
};
constexpr Kernels kAvx512BFloat16 = [] {
  Kernels kernels = kAvx512;
  kernels.pack_bfloat16 = pack_bfloat16_avx512bf16;
  kernels.dot_products_bfloat16 = dot_products_bfloat16_avx512bf16;
  return kernels;
}();
#endif

}  // namespace

std::span<const Variant> variants() {
  static const std::vector<Variant> found = [] {
    std::vector<Variant> usable;
#ifdef TOKENTIMING_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      if (__builtin_cpu_supports("avx512f")) {
        if (__builtin_cpu_supports("avx512bf16")) {
          usable.push_back({"avx512bf16", &kAvx512BFloat16});
        }
        usable.push_back({"avx512", &kAvx512});
      }
      usable.push_back({"avx2", &kAvx2});
    }
#endif
    usable.push_back({"portable", nullptr});
    return usable;
  }();
  return found;
}

}  // namespace tokentiming::native
