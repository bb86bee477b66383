#include "tokentiming/verify.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "operations.h"
#include "rows.h"
#include "run.h"
#include "scalars.h"
#include "tables.h"
#include "tokens.h"

namespace tokentiming::python {
namespace {

constexpr const char* kVerify = "verify";

// The given one of two arguments for a distribution, if there is one.
std::optional<Tensor> either(py::handle logits, py::handle probs, const char* logits_name,
                             const char* probs_name, Place& place) {
  const auto tensor = [&](py::handle object, const char* name) {
    return std::optional<Tensor>(std::in_place, object, kVerify, name, &place);
  };
  if (!logits.is_none()) return tensor(logits, logits_name);
  if (!probs.is_none()) return tensor(probs, probs_name);
  return std::nullopt;
}

// Chains of equal length come without offsets, others with them. True for the former.
bool is_padded(const Tensor& ids, py::handle offsets) {
  const bool padded = ids.dimensions() == 2;
  if (padded != offsets.is_none()) {
    throw std::invalid_argument(
        "verify: offsets belong to draft_ids of shape [T]; draft_ids of shape [B, K] take none");
  }
  if (!padded) ids.require_dimensions(1, "[T] with offsets, or [B, K]");
  return padded;
}

// The shape of out.tokens. Offsets are checked against the number of tokens, because a wrong one
// could request any amount of memory. On a GPU, where they are not read, a chain may have all
// tokens.
std::pair<std::int64_t, std::int64_t> verify_shape(py::handle draft_ids,
                                                   py::handle offsets_object) {
  Place place;
  const Tensor ids(draft_ids, kVerify, "draft_ids", &place);
  with_id_type(ids, [&]<class Id>(Id) { ids.elements<Id>(); });
  if (is_padded(ids, offsets_object)) return {ids.size(0), ids.size(1) + 1};
  const Offsets offsets(offsets_object, kVerify, "offsets", ids.count(), place);
  const auto starts = offsets.get();
  const std::int64_t batch = std::ssize(starts) - 1;
  if (place.on_gpu()) return {batch, ids.count() + 1};
  if (starts.front() != 0 || !std::ranges::is_sorted(starts) || starts.back() != ids.count()) {
    offsets.tensor()->refuse("must rise from 0 to the number of draft_ids (" +
                             std::to_string(ids.count()) + ")");
  }
  std::int64_t longest = 0;
  for (std::size_t b = 1; b < starts.size(); ++b) {
    longest = std::max(longest, starts[b] - starts[b - 1]);
  }
  return {batch, longest + 1};
}

void verify_tensors(py::handle draft_ids, py::handle target_logits, py::handle target_probs,
                    py::handle draft_logits, py::handle draft_probs, py::handle uniforms_object,
                    py::handle temperature_object, py::handle offsets_object,
                    py::handle temperatures_object, py::handle draft_rows_object,
                    py::handle draft_map_object, py::handle tokens_object,
                    py::handle accepted_object) {
  Place place;
  const Tensor ids(draft_ids, kVerify, "draft_ids", &place);
  with_id_type(ids, [&]<class Id>(Id) { ids.elements<Id>(); });
  const bool padded = is_padded(ids, offsets_object);
  const double temperature = Scalar(temperature_object, kVerify, "temperature").as_double();
  if (uniforms_object.is_none() && temperature != 0) {
    throw std::invalid_argument("verify: uniforms are missing; only temperature=0 needs none");
  }

  const auto target = either(target_logits, target_probs, "target_logits", "target_probs", place);
  const auto draft = either(draft_logits, draft_probs, "draft_logits", "draft_probs", place);
  const auto distributions = [&](const Tensor& rows, py::handle logits, std::int64_t length,
                                 const char* padded_axes, const char* ragged_axes) {
    rows.require_dimensions(padded ? 3 : 2, padded ? padded_axes : ragged_axes);
    if (padded && (rows.size(0) != ids.size(0) || rows.size(1) != length)) {
      rows.refuse("must have shape " + std::string(padded_axes) +
                  " with B = " + std::to_string(ids.size(0)) + " and " + std::to_string(length) +
                  " rows each, got B = " + std::to_string(rows.size(0)) + " and " +
                  std::to_string(rows.size(1)) + " rows");
    }
    return Distributions{any_rows(rows), !logits.is_none()};
  };
  const std::int64_t length = padded ? ids.size(1) : 0;

  const auto pool = [&](const Tensor& rows, py::handle logits) {
    rows.require_dimensions(2, "[R, V] with draft_rows");
    return Distributions{any_rows(rows), !logits.is_none()};
  };
  const auto optional = [&](py::handle object, const char* name) {
    return object.is_none() ? std::nullopt
                            : std::optional<Tensor>(std::in_place, object, kVerify, name, &place);
  };
  const auto draft_rows = optional(draft_rows_object, "draft_rows");
  if (draft_rows) {
    draft_rows->require_dimensions(padded ? 2 : 1, padded ? "[B, K]" : "[T]");
    if (padded && (draft_rows->size(0) != ids.size(0) || draft_rows->size(1) != length)) {
      draft_rows->refuse("must have the shape of draft_ids, [" + std::to_string(ids.size(0)) +
                         ", " + std::to_string(length) + "]");
    }
  }
  const auto temperatures = optional(temperatures_object, "temperatures");
  if (temperatures) temperatures->require_dimensions(1, "[B]");
  const BoundVocabularyMap* map = nullptr;
  if (!draft_map_object.is_none()) {
    map = &bound<BoundVocabularyMap>(draft_map_object, kVerify, "draft_map", place);
  }

  std::optional<Tensor> uniforms;
  if (!uniforms_object.is_none()) {
    uniforms.emplace(uniforms_object, kVerify, "uniforms", &place);
    uniforms->require_dimensions(padded ? 2 : 1, padded ? "[B, K + 1]" : "[T + B]");
    if (padded && (uniforms->size(0) != ids.size(0) || uniforms->size(1) != length + 1)) {
      uniforms->refuse("must have shape [B, K + 1] = [" + std::to_string(ids.size(0)) + ", " +
                       std::to_string(length + 1) + "]");
    }
  }

  const Tensor tokens(tokens_object, kVerify, "out.tokens", &place);
  const Tensor accepted(accepted_object, kVerify, "out.accepted", &place);
  tokens.require_dimensions(2, "[B, K + 1]");
  accepted.require_dimensions(1, "[B]");
  const auto tokens_out = writable_rows<std::int32_t>(tokens);
  const auto accepted_out = accepted.writable_elements<std::int32_t>();
  std::optional<Offsets> offsets;
  std::vector<std::int64_t> even;
  std::span<const std::int64_t> starts;
  if (padded && accepted.count() != ids.size(0)) {  // checked before so many offsets are made
    accepted.refuse("must have " + std::to_string(ids.size(0)) + " entries, one a chain");
  }
  if (!padded) {
    offsets.emplace(offsets_object, kVerify, "offsets", ids.count(), place);
    starts = offsets->get();
  } else if (!place.on_gpu()) {  // on a GPU chains without offsets are equally long
    for (std::int64_t b = 0; b <= ids.size(0); ++b) even.push_back(b * length);
    starts = even;
  }
  const auto pointer = [](const std::optional<Tensor>& given) { return given ? &*given : nullptr; };
  require_apart({&tokens, &accepted},
                {&ids, offsets ? offsets->tensor() : nullptr, &*target, pointer(draft),
                 pointer(uniforms), pointer(temperatures), pointer(draft_rows)},
                {{"draft_map", map ? map->parts() : std::span<const Part>()}});

  with_id_type(ids, [&]<class Id>(Id) {
    Chains<Id> chains{
        {ids.elements<Id>(), starts},
        std::nullopt,
        distributions(*target, target_logits, length + 1, "[B, K + 1, V]", "[T + B, V]"),
        temperature,
        {}};
    if (draft_rows) chains.draft_rows = draft_rows->elements<Id>();
    if (draft && draft_rows) {
      chains.proposals = pool(*draft, draft_logits);
    } else if (draft) {
      chains.proposals = distributions(*draft, draft_logits, length, "[B, K, V]", "[T, V]");
    }
    if (temperatures) chains.temperatures = temperatures->elements<float>();
    if (map != nullptr) chains.draft_map = &map->get();
    if (uniforms) {
      with_wide_type(*uniforms,
                     [&]<class Number>(Number) { chains.uniforms = uniforms->elements<Number>(); });
    }
    using cuda::verify;
    using tokentiming::verify;
    run(place, cuda::verify_workspace(chains, tokens_out.rows),
        [&](const auto&... on_gpu) { verify(chains, tokens_out, accepted_out, on_gpu...); });
  });
}

const Operation kVerifyBinding([](py::module_& module) {
  module.def("verify", verify_tensors);
  module.def("verify_shape", verify_shape);
});

}  // namespace

}  // namespace tokentiming::python
