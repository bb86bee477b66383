#include "tokentiming/align.h"

#include "operations.h"
#include "run.h"
#include "scalars.h"
#include "tables.h"
#include "tokens.h"

namespace tokentiming::python {
namespace {

constexpr const char* kAlign = "align";

void align_tensors(py::handle draft_ids, py::handle target_ids, py::handle draft_table,
                   py::handle target_table, py::handle band_object, py::handle draft_offsets,
                   py::handle target_offsets, py::handle target_spans, py::handle cost) {
  require_both(kAlign, draft_offsets, target_offsets);
  Place place;
  const Side draft(kDraftSide, draft_ids, draft_offsets, kAlign, place);
  const Side target(kTargetSide, target_ids, target_offsets, kAlign, place);
  const auto& draft_tokens = bound<BoundByteTable>(draft_table, kAlign, "draft_table", place);
  const auto& target_tokens = bound<BoundByteTable>(target_table, kAlign, "target_table", place);
  const Tensor spans(target_spans, kAlign, "out.target_spans", &place);
  const Tensor costs(cost, kAlign, "out.cost", &place);
  spans.require_dimensions(2, "[T, 2]");
  const bool batch = !draft_offsets.is_none();
  costs.require_dimensions(batch ? 1 : 0, batch ? "[B]" : "[] without offsets");
  const std::int64_t band = Scalar(band_object, kAlign, "band").as_int64();
  const auto spans_out = spans.writable_elements<std::int32_t>();
  const auto costs_out = costs.writable_elements<std::int64_t>();
  require_apart({&spans, &costs}, {&draft.ids(), draft.offsets(), &target.ids(), target.offsets()},
                {{"draft_table", draft_tokens.parts()}, {"target_table", target_tokens.parts()}});

  const bool same = same_dtype(draft.ids().dtype(), target.ids().dtype());
  with_id_type(draft.ids(), [&]<class Id>(Id) {
    if (!same) target.ids().refuse_dtype("of the dtype of draft_ids");
    const auto draft_side = draft.get<Id>();
    const auto target_side = target.get<Id>();
    using cuda::align;
    using tokentiming::align;
    run(place, [&](const auto&... on_gpu) {
      align(draft_side, target_side, draft_tokens.get(), target_tokens.get(), band, spans_out,
            costs_out, on_gpu...);
    });
  });
}

// The shapes of out.target_spans and out.cost.
py::tuple align_shapes(py::handle target_ids, py::handle target_offsets) {
  Place place;
  const Side target(kTargetSide, target_ids, target_offsets, kAlign, place);
  const py::tuple cost =
      target.offsets() == nullptr ? py::tuple(0) : py::make_tuple(target.offsets()->size(0) - 1);
  return py::make_tuple(py::make_tuple(target.ids().count(), 2), cost);
}

const Operation kAlignBinding([](py::module_& module) {
  module.def("align", align_tensors);
  module.def("align_shapes", align_shapes);
});

}  // namespace

}  // namespace tokentiming::python
