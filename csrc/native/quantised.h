// A linear layer with weights rounded to 4 or 8 bits, and inputs rounded to 8 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "native/kernels.h"
#include "native/transformer.h"

namespace tokentiming::native {

// Rows of inputs, rounded to 8 bits in groups of kRoundedInputs. Entry k of row r is approximated
// by values[r, k] * scales[r, group], with an error of at most half the scale. The largest
// magnitude of a group has the value 127 or -127. A group with NaN or infinity has the scale NaN.
class RoundedRows {
 public:
  // Rounds `rows` contiguous rows of `in_features` entries each.
  RoundedRows(const Kernels& kernels, const float* input, std::size_t rows,
              std::size_t in_features);

  std::size_t rows() const { return rows_; }
  RoundedInput view() const { return {values_.data(), scales_.data(), rows_, groups_}; }

 private:
  std::size_t rows_, groups_;
  std::vector<std::int8_t> values_;
  std::vector<GroupScale> scales_;
};

// Weights of each output are rounded in groups of kRoundedInputs: weight[n, k] is approximated by
// minimum + scale * value, where values have 4 bits if they approximate the projection well, as for
// weights that come from a Q4_1 file, and otherwise 8. The error is at most half the scale, which
// is a bfloat16 number: the range of the group divided by the largest value, rounded up. The bias
// stays borrowed.
class Quantised {
 public:
  // Throws std::invalid_argument that names the projection if a weight is NaN or infinite.
  // The kernels stay borrowed.
  Quantised(const Kernels& kernels, const Projection& projection, std::size_t in_features,
            const char* name);

  std::size_t out_features() const { return outputs_; }
  bool eight_bits() const { return eight_bits_; }

  // Writes out[r * stride + n] for each input row r and n in [first, last), where `first` is a
  // multiple of kTileOutputs. The same kernels must have rounded the input.
  void multiply(const RoundedRows& input, std::size_t first, std::size_t last, float* out,
                std::size_t stride) const;

 private:
  std::size_t tile_bytes() const;

  const Kernels& kernels_;
  std::size_t outputs_, groups_;
  bool eight_bits_;
  std::vector<std::uint8_t> tiles_;  // see QuantisedProducts
  const BFloat16* bias_;
};

}  // namespace tokentiming::native
