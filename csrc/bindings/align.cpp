#include "tokentiming/align.h"

#include "operations.h"
#include "scalars.h"
#include "tokens.h"

namespace tokentiming::python {
namespace {

constexpr const char* kAlign = "align";

void align_tensors(py::handle draft_ids, py::handle draft_offsets, py::handle target_ids,
                   py::handle target_offsets, py::handle draft_table_bytes,
                   py::handle draft_table_offsets, py::handle target_table_bytes,
                   py::handle target_table_offsets, py::handle band_object, py::handle target_spans,
                   py::handle cost) {
  Place place;
  const Tensor draft(draft_ids, kAlign, "draft_ids", &place);
  const Tensor target(target_ids, kAlign, "target_ids", &place);
  draft.require_dimensions(1, "[K]");
  target.require_dimensions(1, "[M]");
  const Offsets draft_rows(draft_offsets, kAlign, "draft_offsets", draft.count(), place);
  const Offsets target_rows(target_offsets, kAlign, "target_offsets", target.count(), place);
  const Tensor draft_bytes(draft_table_bytes, kAlign, "draft_vocab.bytes", &place);
  const Tensor draft_starts(draft_table_offsets, kAlign, "draft_vocab.offsets", &place);
  const Tensor target_bytes(target_table_bytes, kAlign, "target_vocab.bytes", &place);
  const Tensor target_starts(target_table_offsets, kAlign, "target_vocab.offsets", &place);
  const ByteTable draft_table = byte_table(draft_bytes, draft_starts);
  const ByteTable target_table = byte_table(target_bytes, target_starts);
  const Tensor spans(target_spans, kAlign, "out.target_spans", &place);
  const Tensor costs(cost, kAlign, "out.cost", &place);
  spans.require_dimensions(2, "[T, 2]");
  const bool batch = !draft_offsets.is_none();
  costs.require_dimensions(batch ? 1 : 0, batch ? "[B]" : "[] without offsets");
  const std::int64_t band = Scalar(band_object, kAlign, "band").as_int64();
  const auto spans_out = spans.writable_elements<std::int32_t>();
  const auto costs_out = costs.writable_elements<std::int64_t>();
  require_apart({&spans, &costs}, {&draft, draft_rows.tensor(), &target, target_rows.tensor(),
                                   &draft_bytes, &draft_starts, &target_bytes, &target_starts});

  const auto run = [&]<class Id>(Id) {
    const Ragged<Id> draft_side{draft.elements<Id>(), draft_rows.get()};
    const Ragged<Id> target_side{target.elements<Id>(), target_rows.get()};
    if (place.on_gpu()) {
      const cuda::Stream stream = place.stream();
      const Unlocked unlocked;
      return cuda::align(draft_side, target_side, draft_table, target_table, band, spans_out,
                         costs_out, stream);
    }
    const Unlocked unlocked;
    align(draft_side, target_side, draft_table, target_table, band, spans_out, costs_out);
  };
  const bool same = same_dtype(draft.dtype(), target.dtype());
  with_id_type(draft, [&](auto id) {
    if (!same) target.refuse_dtype("of the dtype of draft_ids");
    run(id);
  });
}

}  // namespace

void bind_align(py::module_& module) { module.def("align", align_tensors); }

}  // namespace tokentiming::python
