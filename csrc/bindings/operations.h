// Each operation's binding is a file that registers itself here; bind_tensor is what they share.
#pragma once

#include <pybind11/pybind11.h>

namespace tokentiming::python {

void bind_align(pybind11::module_& module);
void bind_sample(pybind11::module_& module);
void bind_tensor(pybind11::module_& module);
void bind_transfer(pybind11::module_& module);
void bind_verify(pybind11::module_& module);

}  // namespace tokentiming::python
