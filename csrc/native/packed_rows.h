// Input rows in the order in which dot-product kernels read them.
#pragma once

#include <cstddef>

#include "native/aligned_floats.h"
#include "native/kernels.h"

namespace tokentiming::native {

class PackedRows {
 public:
  // Packs `rows` contiguous rows of `in_features` entries each.
  PackedRows(const Kernels& kernels, const BFloat16* input, std::size_t rows,
             std::size_t in_features)
      : rows_(rows), in_features_(in_features) {
    memory_.resize(rows * (in_features + 1));
    kernels.pack(input, rows, in_features, memory_.data());
  }

  std::size_t rows() const { return rows_; }
  std::size_t in_features() const { return in_features_; }
  const float* data() const { return memory_.data(); }

 private:
  std::size_t rows_;
  std::size_t in_features_;
  AlignedFloats memory_;
};

}  // namespace tokentiming::native
