#include "tokentiming/walk.h"

#include "dtypes.h"
#include "operations.h"
#include "run.h"
#include "tensor.h"

namespace tokentiming::python {
namespace {

constexpr const char* kWalk = "walk";

Tensor vector_tensor(py::handle object, const char* argument, const char* axes, Place& place) {
  Tensor tensor(object, kWalk, argument, &place);
  tensor.require_dimensions(1, axes);
  return tensor;
}

Tensor offsets_tensor(py::handle object, Place& place) {
  Tensor offsets = vector_tensor(object, "offsets", "[B + 1]", place);
  if (offsets.elements<std::int64_t>().empty()) {
    offsets.refuse("must have B + 1 entries, got none");
  }
  return offsets;
}

void walk_tensors(py::handle picked_object, py::handle tokens_object, py::handle parents_object,
                  py::handle offsets_object, py::handle out_tokens, py::handle out_nodes,
                  py::handle out_accepted) {
  Place place;
  const Tensor picked = vector_tensor(picked_object, "picked", "[N + B]", place);
  const Tensor tokens = vector_tensor(tokens_object, "tokens", "[N]", place);
  const Tensor parents = vector_tensor(parents_object, "parents", "[N]", place);
  const Tensor offsets = offsets_tensor(offsets_object, place);
  const Tensor emitted = vector_tensor(out_tokens, "out.tokens", "[N + B]", place);
  const Tensor nodes = vector_tensor(out_nodes, "out.nodes", "[N]", place);
  const Tensor accepted = vector_tensor(out_accepted, "out.accepted", "[B]", place);
  const auto picked_in = picked.elements<std::int64_t>();
  const auto parents_in = parents.elements<std::int32_t>();
  const auto offsets_in = offsets.elements<std::int64_t>();
  const auto emitted_out = emitted.writable_elements<std::int64_t>();
  const auto nodes_out = nodes.writable_elements<std::int32_t>();
  const auto accepted_out = accepted.writable_elements<std::int32_t>();
  require_apart({&emitted, &nodes, &accepted}, {&picked, &tokens, &parents, &offsets});

  with_id_type(tokens, [&]<class Id>(Id) {
    const Forest<Id> forest{{tokens.elements<Id>(), offsets_in}, parents_in};
    using cuda::walk;
    using tokentiming::walk;
    run(place, [&](const auto&... on_gpu) {
      walk(picked_in, forest, emitted_out, nodes_out, accepted_out, on_gpu...);
    });
  });
}

// The shapes of out.tokens, out.nodes and out.accepted.
py::tuple walk_shapes(py::handle tokens_object, py::handle offsets_object) {
  Place place;
  const Tensor tokens = vector_tensor(tokens_object, "tokens", "[N]", place);
  with_id_type(tokens, [&]<class Id>(Id) { tokens.elements<Id>(); });
  const std::int64_t nodes = tokens.count();
  const std::int64_t batch = offsets_tensor(offsets_object, place).count() - 1;
  return py::make_tuple(py::make_tuple(nodes + batch), py::make_tuple(nodes),
                        py::make_tuple(batch));
}

const Operation kWalkBinding([](py::module_& module) {
  module.def("walk", walk_tensors);
  module.def("walk_shapes", walk_shapes);
});

}  // namespace

}  // namespace tokentiming::python
