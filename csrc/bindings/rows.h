// Matrices of any floating-point type out of Python tensors.
#pragma once

#include "tensor.h"
#include "tokentiming/rows.h"

namespace tokentiming::python {

// The rows of a tensor [R, V], or of [B, R, V] one batch after another. Rows may be any distance
// apart, as long as it is the same for all; refuses anything else by name.
inline AnyRows any_rows(const Tensor& tensor) {
  const int last = tensor.dimensions() - 1;
  if (tensor.size(last) > 1 && tensor.stride(last) != 1) {
    tensor.refuse("must be contiguous along the vocabulary; use .contiguous()");
  }
  std::int64_t rows = tensor.size(last - 1);
  std::int64_t stride = tensor.stride(last - 1);
  if (last == 2) {
    const std::int64_t batch = tensor.size(0);
    if (batch > 1 && rows == 1) stride = tensor.stride(0);
    if (batch > 1 && rows > 1 && tensor.stride(0) != rows * stride) {
      tensor.refuse("must have its rows at one distance from each other; use .contiguous()");
    }
    rows *= batch;
  }
  const auto as = [&]<class Number>(Number) -> AnyRows {
    return Rows<const Number>{tensor.data<const Number>(), static_cast<std::size_t>(rows),
                              static_cast<std::size_t>(tensor.size(last)), stride};
  };
  const DLDataType dtype = tensor.dtype();
  if (same_dtype(dtype, kDlpack<float>)) return as(float{});
  if (same_dtype(dtype, kDlpack<BFloat16>)) return as(BFloat16{});
  if (same_dtype(dtype, kDlpack<Half>)) return as(Half{});
  if (same_dtype(dtype, kDlpack<double>)) return as(double{});
  tensor.refuse_dtype("float16, bfloat16, float32 or float64");
}

}  // namespace tokentiming::python
