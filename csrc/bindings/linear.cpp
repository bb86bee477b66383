#include "tokentiming/linear.h"

#include "operations.h"
#include "tensor.h"

namespace tokentiming::python {
namespace {

constexpr const char* kLinear = "linear";

template <class Element>
Element* bfloat16_elements(const Tensor& tensor, int dimensions, const char* axes) {
  tensor.require_dimensions(dimensions, axes);
  if (tensor.dtype().code != kDLBfloat || tensor.dtype().bits != 16)
    tensor.refuse_dtype("bfloat16");
  std::int64_t expected = 1;
  for (int axis = dimensions - 1; axis >= 0; --axis) {
    if (tensor.size(axis) > 1 && tensor.stride(axis) != expected) {
      tensor.refuse("must be contiguous; use .contiguous()");
    }
    expected *= tensor.size(axis);
  }
  return tensor.data<Element>();
}

void linear_tensors(py::handle input_object, py::handle weight_object, py::handle bias_object,
                    py::handle out_object) {
  const Tensor input(input_object, kLinear, "input");
  const Tensor weight(weight_object, kLinear, "weight");
  const Tensor out(out_object, kLinear, "out");
  Linear layer{};
  layer.input = bfloat16_elements<const BFloat16>(input, 2, "[R, K]");
  layer.weight = bfloat16_elements<const BFloat16>(weight, 2, "[N, K]");
  layer.output = bfloat16_elements<BFloat16>(out, 2, "[R, N]");
  if (input.size(1) != weight.size(1)) input.refuse("and weight must agree in K");
  if (out.size(0) != input.size(0) || out.size(1) != weight.size(0)) out.refuse("must be [R, N]");
  layer.rows = static_cast<std::size_t>(input.size(0));
  layer.in_features = static_cast<std::size_t>(input.size(1));
  layer.out_features = static_cast<std::size_t>(weight.size(0));
  if (bias_object.is_none()) {
    const py::gil_scoped_release unlocked;
    return linear(layer);
  }
  const Tensor bias(bias_object, kLinear, "bias");
  layer.bias = bfloat16_elements<const BFloat16>(bias, 1, "[N]");
  if (bias.size(0) != weight.size(0)) bias.refuse("must be [N]");
  const py::gil_scoped_release unlocked;
  linear(layer);
}

}  // namespace

void bind_linear(py::module_& module) {
  module.def("linear", linear_tensors);
  module.def("linear_is_fast", linear_is_fast);
}

}  // namespace tokentiming::python
