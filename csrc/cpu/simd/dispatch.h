// The choice of an instruction set at run time.
#pragma once

#include <span>
#include <type_traits>

#include "kernels.h"

namespace tokentiming::simd {

// The variants that this processor runs, the fastest first. It is detected once.
std::span<const Kernels* const> supported_kernels();

inline const Kernels& fastest_kernels() { return *supported_kernels().front(); }

template <class T>
const BlockKernels<T>& blocks_of(const Kernels& kernels) {
  if constexpr (std::is_same_v<T, float>) {
    return kernels.float_blocks;
  } else {
    return kernels.double_blocks;
  }
}

}  // namespace tokentiming::simd
