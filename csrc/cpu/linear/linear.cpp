#include "tokentiming/linear.h"

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace tokentiming {
namespace {

#ifdef TOKENTIMING_X86
// Weight rows handed to a thread: a multiple of any tile's.
constexpr std::size_t kOutputBlock = 48;

void linear_fast(const Linear& layer) {
  std::vector<float> floats(layer.rows * layer.in_features);
  lay_out_avx2(layer, floats.data());
  const std::size_t blocks = (layer.out_features + kOutputBlock - 1) / kOutputBlock;
  parallel_for(blocks, 1, [&](std::size_t block) {
    const std::size_t first = block * kOutputBlock;
    linear_avx2(layer, floats.data(), first, std::min(first + kOutputBlock, layer.out_features));
  });
}
#endif

}  // namespace

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
  if (linear_is_fast()) return linear_fast(layer);
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
        sum += widen(input[k]) * widen(weight[k]);
      }
      if (layer.bias) sum += widen(layer.bias[n]);
      layer.output[r * layer.out_features + n] = to_bfloat16(sum);
    }
  }
}

}  // namespace tokentiming
