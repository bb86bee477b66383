// A projection whose weights are rounded to 8 bits: half the bytes to read for every token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokentiming/transformer.h"

namespace tokentiming {

// weight[n, k] is nearly values[n, k] * scales[n], off by half a scale at most; a row's greatest
// magnitude has the value 127. The bias stays borrowed.
class Quantised {
 public:
  // Throws std::invalid_argument, naming the projection, if a weight is NaN or infinite.
  Quantised(const Projection& projection, std::size_t in_features, const char* name);

  std::size_t out_features() const { return scales_.size(); }

  // Outputs first .. last - 1, at most kOutputBlock of them, for laid-out rows (linear/kernels.h):
  // out[r * stride + n].
  void multiply(const float* floats, std::size_t rows, std::size_t first, std::size_t last,
                float* out, std::size_t stride) const;

 private:
  std::size_t in_features_;
  std::vector<std::int8_t> values_;  // each run of 16 as its even places and then its odd ones
  std::vector<float> scales_;
  const BFloat16* bias_;
};

}  // namespace tokentiming
