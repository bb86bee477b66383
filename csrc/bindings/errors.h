// The core's errors as Python exceptions.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>

namespace tokentiming::python {

// An argument of the wrong type or dtype: ops.ArgumentTypeError. Every other std::invalid_argument,
// the core's own among them, is ops.ArgumentValueError; both are ops.ArgumentError.
class WrongType : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Borrowed.
PyObject* argument_value_error();

void bind_errors(pybind11::module_& module);

}  // namespace tokentiming::python
