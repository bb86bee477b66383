#include <vector>

#include "reach.h"

namespace tokentiming {

std::span<const CandidateKernel> candidate_kernels() {
  static const std::vector<CandidateKernel> kernels = [] {
    std::vector<CandidateKernel> found;
#ifdef TOKENTIMING_X86
    if (__builtin_cpu_supports("avx512f")) found.push_back({"avx512", first_candidate_avx512});
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", first_candidate_avx2});
#endif
    found.push_back({"portable", first_candidate_portable});
    return found;
  }();
  return kernels;
}

}  // namespace tokentiming
