#include "loops.h"

namespace tokentiming {

const BlockKernels<float>& blocks_float_portable() {
  static constexpr BlockKernels<float> kKernels = kernels<float>("portable");
  return kKernels;
}

const BlockKernels<double>& blocks_double_portable() {
  static constexpr BlockKernels<double> kKernels = kernels<double>("portable");
  return kKernels;
}

}  // namespace tokentiming
