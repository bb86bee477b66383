#include "tokentiming/verify.h"

#include <vector>

#include "operations.h"
#include "rows.h"
#include "tokens.h"

namespace tokentiming::python {
namespace {

constexpr const char* kVerify = "verify";

// Either of two arguments that state a law, if one is there.
std::optional<Tensor> either(py::handle logits, py::handle probs, const char* logits_name,
                             const char* probs_name, Place& place) {
  const auto tensor = [&](py::handle object, const char* name) {
    return std::optional<Tensor>(std::in_place, object, kVerify, name, &place);
  };
  if (!logits.is_none()) return tensor(logits, logits_name);
  if (!probs.is_none()) return tensor(probs, probs_name);
  return std::nullopt;
}

void verify_tensors(py::handle draft_ids, py::handle offsets_object, py::handle target_logits,
                    py::handle target_probs, py::handle draft_logits, py::handle draft_probs,
                    double temperature, py::handle uniforms_object, py::handle tokens_object,
                    py::handle accepted_object) {
  Place place;
  const Tensor ids(draft_ids, kVerify, "draft_ids", &place);
  const bool padded = ids.dimensions() == 2;
  if (!padded) ids.require_dimensions(1, "[T] with offsets, or [B, K]");

  const auto target = either(target_logits, target_probs, "target_logits", "target_probs", place);
  const auto draft = either(draft_logits, draft_probs, "draft_logits", "draft_probs", place);
  const auto laws = [&](const Tensor& rows, py::handle logits, std::int64_t length,
                        const char* padded_axes, const char* ragged_axes) {
    rows.require_dimensions(padded ? 3 : 2, padded ? padded_axes : ragged_axes);
    if (padded && (rows.size(0) != ids.size(0) || rows.size(1) != length)) {
      rows.refuse("must have shape " + std::string(padded_axes) +
                  " with B = " + std::to_string(ids.size(0)) + " and " + std::to_string(length) +
                  " rows each, got B = " + std::to_string(rows.size(0)) + " and " +
                  std::to_string(rows.size(1)) + " rows");
    }
    return Laws{any_rows(rows), logits.is_none() ? Statement::kProbabilities : Statement::kLogits};
  };
  const std::int64_t length = padded ? ids.size(1) : 0;

  std::optional<Tensor> offsets;
  std::vector<std::int64_t> even;
  std::span<const std::int64_t> starts;
  if (padded && !place.on_gpu()) {  // on a GPU chains without offsets are equally long
    for (std::int64_t b = 0; b <= ids.size(0); ++b) even.push_back(b * length);
    starts = even;
  } else if (!padded) {
    offsets.emplace(offsets_object, kVerify, "offsets", &place);
    offsets->require_dimensions(1, "[B + 1]");
    starts = offsets->elements<std::int64_t>();
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
  const Rows<std::int32_t> tokens_out{tokens.writable_elements<std::int32_t>().data(),
                                      static_cast<std::size_t>(tokens.size(0)),
                                      static_cast<std::size_t>(tokens.size(1)), tokens.size(1)};
  const auto accepted_out = accepted.writable_elements<std::int32_t>();
  for (const Tensor* out : {&tokens, &accepted}) {
    out->require_apart_from(ids);
    out->require_apart_from(*target);
    if (draft) out->require_apart_from(*draft);
    if (uniforms) out->require_apart_from(*uniforms);
    if (offsets) out->require_apart_from(*offsets);
  }
  tokens.require_apart_from(accepted);

  const auto run = [&]<class Id>(Id) {
    Chains<Id> chains{{ids.elements<Id>(), starts},
                      std::nullopt,
                      laws(*target, target_logits, length + 1, "[B, K + 1, V]", "[T + B, V]"),
                      temperature,
                      {}};
    if (draft) chains.proposals = laws(*draft, draft_logits, length, "[B, K, V]", "[T, V]");
    if (uniforms) {
      if (same_dtype(uniforms->dtype(), kDlpack<float>)) {
        chains.uniforms = uniforms->elements<float>();
      } else if (same_dtype(uniforms->dtype(), kDlpack<double>)) {
        chains.uniforms = uniforms->elements<double>();
      } else {
        uniforms->refuse_dtype("float32 or float64");
      }
    }
    if (place.on_gpu()) {
      const Scratch scratch(place, cuda::verify_workspace(tokens_out.rows));
      const cuda::Stream stream = place.stream();
      const Unlocked unlocked;
      return cuda::verify(chains, tokens_out, accepted_out, scratch.bytes(), stream);
    }
    const Unlocked unlocked;
    verify(chains, tokens_out, accepted_out);
  };
  with_id_type(ids, run);
}

}  // namespace

void bind_verify(py::module_& module) { module.def("verify", verify_tensors); }

}  // namespace tokentiming::python
