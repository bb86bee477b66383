#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "borrow.h"

namespace nb = nanobind;

namespace {

template <class Number, std::size_t Axes>
using Array = nb::ndarray<Number, nb::ndim<Axes>, nb::c_contig, nb::device::cpu>;

}  // namespace

NB_MODULE(with_nanobind, module) {
  module.def("nothing", [](nb::handle, nb::handle, std::uint64_t, nb::handle, nb::handle) {});
  module.def("sample", [](nb::handle logits, nb::handle keys, std::uint64_t seed, nb::handle states,
                          nb::handle out) {
    const Arguments arguments(logits.ptr(), keys.ptr(), states.ptr(), out.ptr());
    const nb::gil_scoped_release unlocked;
    sample_elements(arguments.logits, arguments.keys, seed, arguments.states, arguments.ids);
  });
  // As its users write it: the library finds the memory and checks it.
  module.def("sample_ndarray", [](Array<const float, 2> logits, Array<const std::int64_t, 1> keys,
                                  std::uint64_t seed, Array<const std::int64_t, 2> states,
                                  Array<std::int64_t, 1> out) {
    const nb::gil_scoped_release unlocked;
    sample_elements({logits.data(), logits.size()},
                    {reinterpret_cast<const std::uint64_t*>(keys.data()), keys.size()}, seed,
                    {reinterpret_cast<const tokentiming::State*>(states.data()), states.shape(0)},
                    {out.data(), out.size()});
  });
}
