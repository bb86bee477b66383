#include <vector>

#include "native/kernels.h"

#ifdef TOKENTIMING_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tokentiming::native {
namespace {

#ifdef TOKENTIMING_X86
constexpr Kernels kAvx2{
    kOutputBlock,
    pack_avx2,
    dot_products_avx2,
    round_row_avx2,
    quantised_products_avx2,
    attention_scores_avx2,
    attention_output_avx2,
};
constexpr Kernels kAvx512{
    kOutputBlock,
    pack_avx512,
    dot_products_avx512,
    round_row_avx2,
    quantised_products_avx2,
    attention_scores_avx512,
    attention_output_avx512,
};
constexpr Kernels kAvx512BFloat16 = [] {
  Kernels kernels = kAvx512;
  kernels.pack = pack_avx512bf16;
  kernels.dot_products = dot_products_avx512bf16;
  kernels.quantised_products = quantised_products_avx512vnni;
  return kernels;
}();
#endif

#ifdef TOKENTIMING_AMX
constexpr Kernels kAmxKernels = [] {
  Kernels kernels = kAvx512BFloat16;
  kernels.outputs = 4 * kOutputBlock;  // which share a read of many rows from the L3 cache
  kernels.pack = pack_amx;
  kernels.dot_products = dot_products_amx;
  return kernels;
}();

// Whether the processor has AMX and Linux lets this process use it. Linux asks for such a request
// since tiles make the state of a thread larger. The permission holds for all threads.
bool amx_is_permitted() {
  constexpr unsigned kAmx = 1u << 22 | 1u << 24;     // CPUID leaf 7, EDX: BF16, TILE
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & kAmx) != kAmx) return false;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#endif

}  // namespace

std::span<const Variant> variants() {
  static const std::vector<Variant> found = [] {
    std::vector<Variant> usable;
#ifdef TOKENTIMING_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      if (__builtin_cpu_supports("avx512f")) {
        if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
            __builtin_cpu_supports("avx512vl")) {
#ifdef TOKENTIMING_AMX
          if (amx_is_permitted()) usable.push_back({"amx", &kAmxKernels});
#endif
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
