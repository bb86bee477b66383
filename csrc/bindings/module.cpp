#include "errors.h"
#include "operations.h"
#include "tokentiming/cuda.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The native core. Call it through tokentiming.ops, which documents it.";
  tokentiming::python::bind_errors(module);
  tokentiming::python::bind_tables(module);
  tokentiming::python::bind_tensor(module);
  for (const auto bind : tokentiming::python::operations()) bind(module);
  module.def("has_cuda", tokentiming::cuda::is_built);
}
