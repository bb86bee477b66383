#include "tokentiming/candidates.h"

#include "noise.h"
#include "operations.h"
#include "rows.h"
#include "run.h"
#include "scalars.h"

namespace tokentiming::python {
namespace {

constexpr const char* kCandidates = "candidates";

std::int64_t count_of(py::handle count) {
  constexpr auto kEnd = static_cast<std::int64_t>(kMaxCandidates) + 1;
  static_assert(kMaxCandidates == 16);
  return Scalar(count, kCandidates, "count").in_range(1, kEnd, "[1, 16]");
}

void candidates_tensors(py::handle logits_object, py::handle keys_object, py::handle seed_object,
                        py::handle states_object, py::handle count_object, py::handle ids_object,
                        py::handle shares_object) {
  Place place;
  const Tensor logits(logits_object, kCandidates, "logits", &place);
  const Tensor keys(keys_object, kCandidates, "keys", &place);
  const Tensor states(states_object, kCandidates, "states", &place);
  const Tensor ids(ids_object, kCandidates, "out.ids", &place);
  const Tensor shares(shares_object, kCandidates, "out.shares", &place);
  logits.require_dimensions(2, "[R, V]");
  ids.require_dimensions(2, "[R, count]");
  shares.require_dimensions(2, "[R, count]");
  const auto token_keys = as_keys(keys);
  const auto draws = as_states(states);
  const Candidates out{writable_rows<std::int64_t>(ids), writable_rows<float>(shares)};
  require_apart({&ids, &shares}, {&logits, &keys, &states});
  const std::uint64_t seed = Scalar(seed_object, kCandidates, "seed").as_uint64();
  const std::int64_t count = count_of(count_object);
  if (ids.size(1) != count) {
    ids.refuse("has " + std::to_string(ids.size(1)) + " columns, count is " +
               std::to_string(count));
  }

  with_float_type(logits, [&]<class Logit>(Logit) {
    const auto rows = rows_of<Logit>(logits);
    using cuda::candidates;
    using tokentiming::candidates;
    run(place, cuda::candidates_workspace(rows.rows, token_keys.size(), out.ids.columns),
        [&](const auto&... on_gpu) { candidates(rows, token_keys, seed, draws, out, on_gpu...); });
  });
}

// The shape of both results.
py::tuple candidates_shape(py::handle logits_object, py::handle count_object) {
  Place place;
  const Tensor logits(logits_object, kCandidates, "logits", &place);
  logits.require_dimensions(2, "[R, V]");
  return py::make_tuple(logits.size(0), count_of(count_object));
}

const Operation kCandidatesBinding([](py::module_& module) {
  module.def("candidates", candidates_tensors);
  module.def("candidates_shape", candidates_shape);
});

}  // namespace

}  // namespace tokentiming::python
