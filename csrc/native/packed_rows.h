// Input rows in the order in which dot-product kernels read them.
#pragma once

#include <cstddef>
#include <memory>

#include "native/kernels.h"

namespace tokentiming::native {

class PackedRows {
 public:
  // Packs `rows` contiguous rows of `in_features` entries each.
  PackedRows(const Kernels& kernels, const BFloat16* input, std::size_t rows,
             std::size_t in_features)
      : rows_(rows),
        in_features_(in_features),
        memory_(std::make_unique_for_overwrite<Line[]>(rows * (in_features + 1) / kLine + 1)) {
    kernels.pack(input, rows, in_features, memory_[0].at);
  }

  std::size_t rows() const { return rows_; }
  std::size_t in_features() const { return in_features_; }
  const float* data() const { return memory_[0].at; }

 private:
  // A cache line, which a load should not cross.
  static constexpr std::size_t kLine = 16;
  struct alignas(64) Line {
    float at[kLine];
  };

  std::size_t rows_;
  std::size_t in_features_;
  std::unique_ptr<Line[]> memory_;  // not zeroed, which would take as long as packing
};

}  // namespace tokentiming::native
