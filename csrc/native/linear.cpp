#include "native/linear.h"

#include <memory>

#include "native/bfloat16.h"
#include "native/kernels.h"
#include "native/packed_rows.h"
#include "parallel.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

// Rounds the sum of products and bias, which may be null.
void round_sums(const float* products, const BFloat16* bias, std::size_t count, BFloat16* output) {
  if (bias == nullptr) {
    for (std::size_t n = 0; n < count; ++n) output[n] = to_bfloat16(products[n]);
  } else {
    for (std::size_t n = 0; n < count; ++n) output[n] = to_bfloat16(products[n] + widen(bias[n]));
  }
}

// Writes `count` outputs of all rows.
void write_block(const Linear& layer, const Kernels& kernels, const PackedRows& input,
                 std::size_t first, std::size_t count) {
  const auto products = std::make_unique_for_overwrite<float[]>(layer.rows * count);
  kernels.dot_products({input.data(), layer.rows, layer.in_features,
                        layer.weight + first * layer.in_features, 0, count, products.get(), count});
  const BFloat16* bias = layer.bias == nullptr ? nullptr : layer.bias + first;
  for (std::size_t r = 0; r < layer.rows; ++r) {
    round_sums(products.get() + r * count, bias, count,
               layer.output + r * layer.out_features + first);
  }
}

void linear_blocked(const Linear& layer, const Kernels& kernels) {
  const PackedRows input(kernels, layer.input, layer.rows, layer.in_features);
  parallel_blocks(layer.out_features, kOutputBlock, kernels.outputs,
                  [&](std::size_t first, std::size_t last) {
                    write_block(layer, kernels, input, first, last - first);
                  });
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

}  // namespace

void linear(const Linear& layer, const Variant& variant) {
  if (variant.kernels != nullptr) {
    linear_blocked(layer, *variant.kernels);
  } else {
    linear_portable(layer);
  }
}

void linear(const Linear& layer) { linear(layer, variants().front()); }

bool linear_is_fast() { return variants().front().kernels != nullptr; }

}  // namespace tokentiming::native
