#include "tokentiming/linear.h"

#include "kernels.h"

namespace tokentiming {

bool linear_is_fast() {
#ifdef TOKENTIMING_X86
  static const bool supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return supported;
#else
  return false;
#endif
}

void linear(const Linear& layer) {
#ifdef TOKENTIMING_X86
  if (linear_is_fast()) return linear_avx2(layer);
#endif
  linear_portable(layer);
}

void linear_portable(const Linear& layer) {
  for (std::size_t r = 0; r < layer.rows; ++r) {
    for (std::size_t n = 0; n < layer.out_features; ++n) {
      const BFloat16* input = layer.input + r * layer.in_features;
      const BFloat16* weight = layer.weight + n * layer.in_features;
      float sum = 0;
      for (std::size_t k = 0; k < layer.in_features; ++k) {
        sum += to_float(input[k]) * to_float(weight[k]);
      }
      if (layer.bias) sum += to_float(layer.bias[n]);
      layer.output[r * layer.out_features + n] = to_bfloat16(sum);
    }
  }
}

}  // namespace tokentiming
