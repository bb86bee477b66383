#include "errors.h"

#include <exception>
#include <string>

namespace tokentiming::python {
namespace {

namespace py = pybind11;

// Created when the module is loaded, and never freed: errors may be raised until the process ends.
PyObject* value_error = nullptr;
PyObject* type_error = nullptr;

PyObject* add_class(py::module_& module, const char* name, py::handle bases) {
  const std::string full_name = "tokentiming.ops." + std::string(name);
  PyObject* made = PyErr_NewException(full_name.c_str(), bases.ptr(), nullptr);
  if (made == nullptr) throw py::error_already_set();
  module.add_object(name, made);
  return made;
}

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const WrongType& error) {
    PyErr_SetString(type_error, error.what());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(value_error, error.what());
  }
}

}  // namespace

PyObject* argument_value_error() { return value_error; }

void bind_errors(py::module_& module) {
  const py::handle base = add_class(module, "ArgumentError", PyExc_Exception);
  value_error =
      add_class(module, "ArgumentValueError", py::make_tuple(base, py::handle(PyExc_ValueError)));
  type_error =
      add_class(module, "ArgumentTypeError", py::make_tuple(base, py::handle(PyExc_TypeError)));
  py::register_local_exception_translator(translate);
}

}  // namespace tokentiming::python
