// Arithmetic over one block of a row: the vectorised part of verify.
#pragma once

#include <cstddef>
#include <span>

#include "tokentiming/rows.h"

namespace tokentiming {

// The greatest of some logits, and the sum of 2^((x - maximum) * scale) over all of them.
template <class T>
struct SoftmaxState {
  T maximum;
  double sum;
};

// The same functions for different processors: all give the same bits. T is float or double.
template <class T>
struct BlockKernels {
  const char* name;
  void (*widen_half)(const Half* x, std::size_t count, T* out);
  void (*widen_bfloat16)(const BFloat16* x, std::size_t count, T* out);
  // The greatest entry; +inf if any is NaN or +inf.
  T (*maximum)(const T* x, std::size_t count);
  // A maximum of -inf has the sum 0; one of +inf has any sum; NaN among the entries makes it NaN.
  SoftmaxState<T> (*softmax_state)(const T* x, std::size_t count, T scale);
  // out[k] = factor * 2^((x[k] - shift) * scale), which must not exceed factor.
  void (*exponentials)(const T* x, std::size_t count, T shift, T scale, T factor, T* out);
  // The sum of entries that must be 0 or more; NaN if any is not, or is infinite.
  double (*sum)(const T* x, std::size_t count);
  // out[k] = max(p[k] - q[k], 0); the sum of it, or NaN if an entry of either is not as above.
  double (*subtract)(const T* p, const T* q, std::size_t count, T* out);
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
