// Maps the dtype of a tensor to a type of the core. `run` is called with a value of that type.
#pragma once

#include <cstdint>

#include "tensor.h"
#include "tokentiming/rows.h"

namespace tokentiming::python {

template <class Run>
auto with_id_type(const Tensor& ids, const Run& run) {
  if (same_dtype(ids.dtype(), kDlpack<std::int64_t>)) return run(std::int64_t{});
  if (same_dtype(ids.dtype(), kDlpack<std::int32_t>)) return run(std::int32_t{});
  ids.refuse_dtype("int32 or int64");
}

template <class Run>
auto with_wide_type(const Tensor& numbers, const Run& run) {
  if (same_dtype(numbers.dtype(), kDlpack<float>)) return run(float{});
  if (same_dtype(numbers.dtype(), kDlpack<double>)) return run(double{});
  numbers.refuse_dtype("float32 or float64");
}

template <class Run>
auto with_float_type(const Tensor& numbers, const Run& run) {
  if (same_dtype(numbers.dtype(), kDlpack<float>)) return run(float{});
  if (same_dtype(numbers.dtype(), kDlpack<BFloat16>)) return run(BFloat16{});
  if (same_dtype(numbers.dtype(), kDlpack<Half>)) return run(Half{});
  if (same_dtype(numbers.dtype(), kDlpack<double>)) return run(double{});
  numbers.refuse_dtype("float16, bfloat16, float32 or float64");
}

}  // namespace tokentiming::python
