// Input rows in the order in which dot-product kernels read them.
#pragma once

#include <cstddef>
#include <vector>

#include "native/kernels.h"

namespace tokentiming::native {

class PackedRows {
 public:
  // Packs `rows` contiguous rows of `in_features` entries each.
  PackedRows(const Kernels& kernels, const BFloat16* input, std::size_t rows,
             std::size_t in_features)
      : PackedRows(rows, in_features) {
    kernels.pack_bfloat16(input, rows, in_features, data());
  }
  PackedRows(const Kernels& kernels, const float* input, std::size_t rows, std::size_t in_features)
      : PackedRows(rows, in_features) {
    kernels.pack_float(input, rows, in_features, data());
  }

  std::size_t rows() const { return rows_; }
  std::size_t in_features() const { return in_features_; }
  const float* data() const { return reinterpret_cast<const float*>(memory_.data()); }

 private:
  // Aligns each vector to its size.
  struct alignas(64) SixteenFloats {
    float at[16];
  };

  PackedRows(std::size_t rows, std::size_t in_features)
      : rows_(rows), in_features_(in_features), memory_((rows * in_features + 15) / 16) {}
  float* data() { return reinterpret_cast<float*>(memory_.data()); }

  std::size_t rows_;
  std::size_t in_features_;
  std::vector<SixteenFloats> memory_;
};

}  // namespace tokentiming::native
