// Each file of bindings adds its functions and classes to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace tokentiming::python {

void bind_linear(pybind11::module_& module);
void bind_transformer(pybind11::module_& module);

}  // namespace tokentiming::python
