#include "native/linear.h"

#include <algorithm>
#include <vector>

#include "native/bfloat16.h"
#include "native/kernels.h"
#include "native/packed_rows.h"
#include "parallel.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

// Writes `count` outputs of all rows, at most kOutputBlock.
void write_block(const Linear& layer, const Kernels& kernels, const PackedRows& input,
                 std::size_t first, std::size_t count) {
  std::vector<float> products(layer.rows * count);
  kernels.dot_products({input.data(), layer.rows, layer.in_features,
                        layer.weight + first * layer.in_features, 0, count, products.data(),
                        count});
  for (std::size_t r = 0; r < layer.rows; ++r) {
    for (std::size_t n = 0; n < count; ++n) {
      float sum = products[r * count + n];
      if (layer.bias) sum += widen(layer.bias[first + n]);
      layer.output[r * layer.out_features + first + n] = to_bfloat16(sum);
    }
  }
}

void linear_blocked(const Linear& layer, const Kernels& kernels) {
  const PackedRows input(kernels, layer.input, layer.rows, layer.in_features);
  parallel_ranges(layer.out_features, kOutputBlock, [&](std::size_t begin, std::size_t end) {
    for (std::size_t first = begin; first < end; first += kOutputBlock) {
      write_block(layer, kernels, input, first, std::min(kOutputBlock, end - first));
    }
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
