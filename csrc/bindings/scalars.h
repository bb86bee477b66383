// Conversion of Python objects to numbers; others are refused by name.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "errors.h"

namespace tokentiming::python {

// The argument of a call that a number was given for.
class Scalar {
 public:
  Scalar(pybind11::handle object, const char* function, const char* argument)
      : object_(object), function_(function), argument_(argument) {}

  // Anything with __index__ except a bool, which is most likely a mistake.
  std::int64_t as_int64() const {
    const pybind11::object integer = index("in 64 bits");
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(integer.ptr(), &overflow);
    if (overflow != 0) refuse("does not fit in 64 bits");
    return value;
  }

  // In [low, high).
  std::int64_t in_range(std::int64_t low, std::int64_t high, const char* range) const {
    const std::int64_t value = as_int64();
    if (value < low || value >= high) {
      refuse("is " + std::to_string(value) + "; it must be in " + range);
    }
    return value;
  }

  std::uint64_t as_uint64() const {
    const pybind11::object integer = index("in [0, 2**64)");
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(integer.ptr(), &overflow);
    if (overflow == 0 && value >= 0) return static_cast<std::uint64_t>(value);
    if (overflow == 0) refuse("is " + std::to_string(value) + "; it must be in [0, 2**64)");
    const std::uint64_t large = PyLong_AsUnsignedLongLong(integer.ptr());
    if (PyErr_Occurred() == nullptr) return large;
    PyErr_Clear();
    refuse("is beyond 64 bits; it must be in [0, 2**64)");
  }

  double as_double() const {
    if (PyFloat_CheckExact(object_.ptr())) return PyFloat_AS_DOUBLE(object_.ptr());
    if (PyBool_Check(object_.ptr())) refuse_type("a number");
    const double value = PyFloat_AsDouble(object_.ptr());
    if (PyErr_Occurred() == nullptr) return value;
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
      PyErr_Clear();
      refuse("is beyond the range of a float");
    }
    clear_error();
    refuse_type("a number");
  }

 private:
  pybind11::object index(const char* range) const {
    PyObject* const object = object_.ptr();
    if (PyLong_CheckExact(object)) return pybind11::reinterpret_borrow<pybind11::object>(object_);
    const std::string expected = "an integer " + std::string(range);
    if (PyBool_Check(object) || !PyIndex_Check(object)) refuse_type(expected);
    PyObject* const integer = PyNumber_Index(object);
    if (integer != nullptr) return pybind11::reinterpret_steal<pybind11::object>(integer);
    clear_error();
    refuse_type(expected);
  }

  // Clears an error that the object raised; an interrupt propagates.
  static void clear_error() {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) throw pybind11::error_already_set();
    PyErr_Clear();
  }

  [[noreturn]] void refuse_type(const std::string& expected) const {
    throw WrongType(message("must be " + expected + ", got " + Py_TYPE(object_.ptr())->tp_name));
  }
  [[noreturn]] void refuse(const std::string& reason) const {
    throw std::invalid_argument(message(reason));
  }
  std::string message(const std::string& reason) const {
    return std::string(function_) + ": " + argument_ + " " + reason;
  }

  pybind11::handle object_;
  const char* function_;
  const char* argument_;
};

}  // namespace tokentiming::python
