// Registration of the bindings in the module.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

namespace tokentiming::python {

using Bind = void (*)(pybind11::module_& module);

// What the operations have registered.
inline std::vector<Bind>& operations() {
  static std::vector<Bind> registered;
  return registered;
}

// Each operation's file defines one of these, so that a new operation needs no edit elsewhere.
struct Operation {
  explicit Operation(Bind bind) { operations().push_back(bind); }
};

// What the operations share.
void bind_tables(pybind11::module_& module);
void bind_tensor(pybind11::module_& module);

}  // namespace tokentiming::python
