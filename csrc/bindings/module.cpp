#include "errors.h"
#include "operations.h"
#include "tokentiming/cuda.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The native core. Call it through tokentiming.ops, which documents it.";
  tokentiming::python::bind_errors(module);
  tokentiming::python::bind_align(module);
  tokentiming::python::bind_sample(module);
  tokentiming::python::bind_tensor(module);
  tokentiming::python::bind_transfer(module);
  tokentiming::python::bind_verify(module);
  module.def("has_cuda", tokentiming::cuda::is_built);
}
