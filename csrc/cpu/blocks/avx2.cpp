#include "loops.h"

namespace tokentiming {

const BlockKernels<float>& blocks_float_avx2() {
  static constexpr BlockKernels<float> kKernels = kernels<float>("avx2");
  return kKernels;
}

const BlockKernels<double>& blocks_double_avx2() {
  static constexpr BlockKernels<double> kKernels = kernels<double>("avx2");
  return kKernels;
}

}  // namespace tokentiming
