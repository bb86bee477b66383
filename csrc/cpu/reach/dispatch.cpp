#include <vector>

#include "reach.h"

namespace tokentiming {

std::span<const ReachKernel> reach_kernels() {
  static const std::vector<ReachKernel> kernels = [] {
    std::vector<ReachKernel> found;
#ifdef TOKENTIMING_X86
    if (__builtin_cpu_supports("avx512f")) found.push_back({"avx512", first_reaching_avx512});
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", first_reaching_avx2});
#endif
    found.push_back({"portable", first_reaching_portable});
    return found;
  }();
  return kernels;
}

}  // namespace tokentiming
