// A linear layer with 8-bit weights: half the bytes of bfloat16 to read for each token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "native/kernels.h"
#include "native/packed_rows.h"
#include "native/transformer.h"

namespace tokentiming::native {

// weight[n, k] is approximated by values[n, k] * scales[n], with an error of at most scales[n] / 2.
// The largest magnitude of a row has the value 127. The bias stays borrowed.
class Quantised {
 public:
  // Throws std::invalid_argument that names the projection if a weight is NaN or infinite, or if
  // there are more than kMostInputs input features.
  // The kernels stay borrowed.
  Quantised(const Kernels& kernels, const Projection& projection, std::size_t in_features,
            const char* name);

  std::size_t out_features() const { return scales_.size(); }

  // Writes out[r * stride + n] for each input row r and n in [first, last), where
  // last - first <= kOutputBlock. The same kernels must have packed the input.
  void multiply(const PackedRows& input, std::size_t first, std::size_t last, float* out,
                std::size_t stride) const;

 private:
  const Kernels& kernels_;
  std::size_t in_features_;
  std::vector<std::int8_t> values_;  // interleaved as in DotProducts
  std::vector<float> scales_;
  const BFloat16* bias_;
};

}  // namespace tokentiming::native
