#include "tokentiming/suffix_automaton.h"

#include <string>

#include "errors.h"
#include "operations.h"
#include "scalars.h"

namespace tokentiming::python {
namespace {

namespace py = pybind11;

// Contiguous bytes of any object with a buffer of them, for as long as this lives.
class Bytes {
 public:
  Bytes(py::handle object, const char* function) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) == 0 && view_.itemsize == 1) return;
    if (view_.obj != nullptr) PyBuffer_Release(&view_);
    PyErr_Clear();
    throw WrongType(std::string(function) + ": data must be bytes, got " +
                    Py_TYPE(object.ptr())->tp_name);
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { PyBuffer_Release(&view_); }

  std::span<const std::uint8_t> get() const {
    return {static_cast<const std::uint8_t*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

std::uint32_t number(py::handle object, const char* function, const char* argument) {
  const Scalar scalar(object, function, argument);
  return static_cast<std::uint32_t>(scalar.in_range(0, std::int64_t{1} << 32, "[0, 2**32)"));
}

py::tuple as_tuple(SuffixAutomaton::Match match) {
  return py::make_tuple(match.state, match.length);
}

void append(SuffixAutomaton& self, py::handle data) {
  self.append(Bytes(data, "SuffixAutomaton.append").get());
}

py::tuple follow(const SuffixAutomaton& self, py::handle state, py::handle length,
                 py::handle data) {
  constexpr const char* kFollow = "SuffixAutomaton.follow";
  const SuffixAutomaton::Match match{number(state, kFollow, "state"),
                                     number(length, kFollow, "length")};
  return as_tuple(self.follow(match, Bytes(data, kFollow).get()));
}

py::tuple shorter(const SuffixAutomaton& self, py::handle state) {
  return as_tuple(self.shorter(number(state, "SuffixAutomaton.shorter", "state")));
}

py::list next(const SuffixAutomaton& self, py::handle state) {
  py::list result;
  for (const auto& [byte, onward, count] :
       self.next(number(state, "SuffixAutomaton.next", "state"))) {
    result.append(py::make_tuple(byte, onward, count));
  }
  return result;
}

// The GIL is held throughout: other threads must not read an automaton that grows.
const Operation kSuffixAutomatonBinding([](py::module_& module) {
  py::class_<SuffixAutomaton> made(module, "SuffixAutomaton");
  made.attr("__module__") = "tokentiming.ops";
  made.def(py::init<>())
      .def("begin_text", &SuffixAutomaton::begin_text)
      .def("append", &append, py::arg("data"))
      .def("repeated", [](const SuffixAutomaton& self) { return as_tuple(self.repeated()); })
      .def("follow", &follow, py::arg("state"), py::arg("length"), py::arg("data"))
      .def("shorter", &shorter, py::arg("state"))
      .def("next", &next, py::arg("state"))
      .def("__len__", &SuffixAutomaton::size)
      .def_property_readonly("states", &SuffixAutomaton::states)
      .def_property_readonly("transitions", &SuffixAutomaton::transitions)
      .def_property_readonly("memory", &SuffixAutomaton::memory);
});

}  // namespace
}  // namespace tokentiming::python
