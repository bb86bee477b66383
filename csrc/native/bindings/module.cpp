#include <exception>

#include "errors.h"
#include "native/bindings/bindings.h"

namespace tokentiming::python {

// tensor.cpp raises this class. The classes of tokentiming.ops belong to _core, which this module
// does not need; it raises ValueError and TypeError themselves.
PyObject* argument_value_error() { return PyExc_ValueError; }

namespace {

// pybind11 translates every other std::invalid_argument to ValueError.
void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const WrongType& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  }
}

}  // namespace
}  // namespace tokentiming::python

PYBIND11_MODULE(_native, module) {
  module.doc() = "The CPU runner for draft models. Use it through tokentiming.runners.";
  pybind11::register_local_exception_translator(tokentiming::python::translate);
  tokentiming::python::bind_linear(module);
  tokentiming::python::bind_transformer(module);
}
