#include "loops.h"

namespace tokentiming {

const BlockKernels<float>& blocks_float_avx512() {
  static constexpr BlockKernels<float> kKernels = kernels<float>("avx512");
  return kKernels;
}

const BlockKernels<double>& blocks_double_avx512() {
  static constexpr BlockKernels<double> kKernels = kernels<double>("avx512");
  return kKernels;
}

}  // namespace tokentiming
