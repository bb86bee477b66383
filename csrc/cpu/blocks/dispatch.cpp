#include <type_traits>
#include <vector>

#include "blocks.h"

namespace tokentiming {

template <class T>
std::span<const BlockKernels<T>> block_kernels() {
  static const std::vector<BlockKernels<T>> kernels = [] {
    constexpr bool kFloat = std::is_same_v<T, float>;
    const auto choose = [](auto& of_float, auto& of_double) -> const BlockKernels<T>& {
      if constexpr (kFloat) {
        return of_float();
      } else {
        return of_double();
      }
    };
    std::vector<BlockKernels<T>> found;
#ifdef TOKENTIMING_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq")) {
      found.push_back(choose(blocks_float_avx512, blocks_double_avx512));
    }
    if (__builtin_cpu_supports("avx2")) {
      found.push_back(choose(blocks_float_avx2, blocks_double_avx2));
    }
#endif
    found.push_back(choose(blocks_float_portable, blocks_double_portable));
    return found;
  }();
  return kernels;
}

template std::span<const BlockKernels<float>> block_kernels();
template std::span<const BlockKernels<double>> block_kernels();

}  // namespace tokentiming
