// Conversion of Python tensors to matrices.
#pragma once

#include "dtypes.h"
#include "tensor.h"
#include "tokentiming/rows.h"

namespace tokentiming::python {

// The rows of a tensor [R, V], or of [B, R, V] one batch after another, of elements known to be
// Number. Rows may have any stride. Refuses anything else by name.
template <class Number>
Rows<const Number> rows_of(const Tensor& tensor) {
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
  return {tensor.data<const Number>(), static_cast<std::size_t>(rows),
          static_cast<std::size_t>(tensor.size(last)), stride};
}

// The same for any of the floating-point types.
inline AnyRows any_rows(const Tensor& tensor) {
  return with_float_type(tensor,
                         [&]<class Number>(Number) -> AnyRows { return rows_of<Number>(tensor); });
}

// The contiguous rows of a tensor [R, V] to write.
template <class Number>
Rows<Number> writable_rows(const Tensor& tensor) {
  return {tensor.writable_elements<Number>().data(), static_cast<std::size_t>(tensor.size(0)),
          static_cast<std::size_t>(tensor.size(1)), tensor.size(1)};
}

}  // namespace tokentiming::python
