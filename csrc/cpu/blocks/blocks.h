// Arithmetic over one block of a row: the vectorised part of verify.
#pragma once

#include <cstddef>
#include <span>

namespace tokentiming {

// The same functions for different processors: all give the same bits. T is float or double.
template <class T>
struct BlockKernels {
  const char* name;
  // The greatest entry; +inf if any is NaN or +inf.
  T (*maximum)(const T* x, std::size_t count);
  // out[k] = factor * exp((x[k] - shift) * scale), which must not exceed factor.
  void (*exponentials)(const T* x, std::size_t count, T shift, T scale, T factor, T* out);
  // p[k] = max(p[k] - q[k], 0).
  void (*subtract)(T* p, const T* q, std::size_t count);
  // The sum of entries that must be 0 or more; NaN if any is not, or is infinite.
  double (*sum)(const T* x, std::size_t count);
};

// Those that this processor can run, the fastest first.
template <class T>
std::span<const BlockKernels<T>> block_kernels();

const BlockKernels<float>& blocks_float_portable();
const BlockKernels<double>& blocks_double_portable();
const BlockKernels<float>& blocks_float_avx2();
const BlockKernels<double>& blocks_double_avx2();
const BlockKernels<float>& blocks_float_avx512();
const BlockKernels<double>& blocks_double_avx512();

}  // namespace tokentiming
