#include "native/linear.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "native/bindings/bindings.h"
#include "native/kernels.h"
#include "tensor.h"

namespace tokentiming::python {
namespace {

constexpr const char* kLinear = "linear";

void linear_tensors(py::handle input_object, py::handle weight_object, py::handle bias_object,
                    py::handle out_object) {
  const Tensor input(input_object, kLinear, "input");
  const Tensor weight(weight_object, kLinear, "weight");
  const Tensor out(out_object, kLinear, "out");
  std::optional<Tensor> bias;
  if (!bias_object.is_none()) bias.emplace(bias_object, kLinear, "bias");
  input.require_dimensions(2, "[R, K]");
  weight.require_dimensions(2, "[N, K]");
  out.require_dimensions(2, "[R, N]");
  if (bias) bias->require_dimensions(1, "[N]");

  native::Linear layer{};
  layer.input = input.elements<BFloat16>().data();
  layer.weight = weight.elements<BFloat16>().data();
  layer.bias = bias ? bias->elements<BFloat16>().data() : nullptr;
  layer.output = out.writable_elements<BFloat16>().data();
  layer.rows = static_cast<std::size_t>(input.size(0));
  layer.in_features = static_cast<std::size_t>(input.size(1));
  layer.out_features = static_cast<std::size_t>(weight.size(0));

  const auto require_size = [](const Tensor& tensor, int axis, const char* name,
                               std::int64_t expected) {
    if (tensor.size(axis) == expected) return;
    tensor.refuse("must have " + std::string(name) + " = " + std::to_string(expected) + ", got " +
                  std::to_string(tensor.size(axis)));
  };
  require_size(weight, 1, "K", input.size(1));
  require_size(out, 0, "R", input.size(0));
  require_size(out, 1, "N", weight.size(0));
  if (bias) require_size(*bias, 0, "N", weight.size(0));
  require_apart({&out}, {&input, &weight, bias ? &*bias : nullptr});

  const Unlocked unlocked;
  native::linear(layer);
}

}  // namespace

void bind_linear(py::module_& module) {
  module.def("linear", linear_tensors);
  module.def("linear_is_fast", native::linear_is_fast);
  module.def("variants", [] {
    std::vector<std::string> names;
    for (const native::Variant& variant : native::variants()) names.emplace_back(variant.name);
    return names;
  });
}

}  // namespace tokentiming::python
