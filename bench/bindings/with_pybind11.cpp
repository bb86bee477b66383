#include <pybind11/pybind11.h>

#include "borrow.h"

namespace py = pybind11;

PYBIND11_MODULE(with_pybind11, module) {
  module.def("nothing", [](py::handle, py::handle, std::uint64_t, py::handle, py::handle) {});
  module.def("sample", [](py::handle logits, py::handle keys, std::uint64_t seed, py::handle states,
                          py::handle out) {
    const Arguments arguments(logits.ptr(), keys.ptr(), states.ptr(), out.ptr());
    const py::gil_scoped_release unlocked;
    sample_elements(arguments.logits, arguments.keys, seed, arguments.states, arguments.ids);
  });
}
