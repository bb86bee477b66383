#include "tokentiming/linear.h"

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace tokentiming {
namespace {

#ifdef TOKENTIMING_X86
void linear_fast(const Linear& layer) {
  LaidOut input;
  input.resize(layer.rows, layer.in_features);
  lay_out_avx2(layer.input, layer.rows, layer.in_features, input.data());
  const std::size_t blocks = (layer.out_features + kOutputBlock - 1) / kOutputBlock;
  parallel_for(blocks, 1, [&](std::size_t block) {
    const std::size_t first = block * kOutputBlock;
    const std::size_t count = std::min(kOutputBlock, layer.out_features - first);
    std::vector<float> products(layer.rows * count);
    dot_products_avx2(input.data(), layer.rows, layer.in_features,
                      layer.weight + first * layer.in_features, 0, count, products.data(), count);
    for (std::size_t r = 0; r < layer.rows; ++r) {
      for (std::size_t n = 0; n < count; ++n) {
        float sum = products[r * count + n];
        if (layer.bias) sum += widen(layer.bias[first + n]);
        layer.output[r * layer.out_features + first + n] = to_bfloat16(sum);
      }
    }
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
