#include <vector>

#include "gain_bounds.h"

namespace tokentiming {

std::span<const GainBoundsKernel> gain_bounds_kernels() {
  static const std::vector<GainBoundsKernel> kernels = [] {
    std::vector<GainBoundsKernel> found;
#ifdef TOKENTIMING_X86
    if (__builtin_cpu_supports("avx512f")) found.push_back({"avx512", gain_bounds_avx512});
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", gain_bounds_avx2});
#endif
    found.push_back({"portable", gain_bounds_portable});
    return found;
  }();
  return kernels;
}

}  // namespace tokentiming
