#include "dispatch.h"

#include <vector>

namespace tokentiming::simd {

std::span<const Kernels* const> supported_kernels() {
  static const std::vector<const Kernels*> supported = [] {
    std::vector<const Kernels*> kernels;
#ifdef TOKENTIMING_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq")) {
      kernels.push_back(&avx512_kernels());
    }
    if (__builtin_cpu_supports("avx2")) kernels.push_back(&avx2_kernels());
#endif
    kernels.push_back(&portable_kernels());
    return kernels;
  }();
  return supported;
}

}  // namespace tokentiming::simd
