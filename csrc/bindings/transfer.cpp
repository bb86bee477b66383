#include "tokentiming/transfer.h"

#include "operations.h"
#include "rows.h"
#include "run.h"
#include "scalars.h"
#include "tables.h"
#include "tokens.h"

namespace tokentiming::python {
namespace {

constexpr const char* kTransfer = "transfer";
constexpr const char* kRestrict = "restrict";

// Refuses an output whose width is not the requested one.
void require_columns(const Tensor& out, py::handle columns_object) {
  const std::int64_t columns = Scalar(columns_object, out.function(), "columns").as_int64();
  if (out.size(1) == columns) return;
  out.refuse("has " + std::to_string(out.size(1)) + " columns, columns is " +
             std::to_string(columns));
}

// The width of a new result. Token ids are 32-bit integers where results hold them.
std::int64_t columns_of(py::handle columns, const char* function) {
  return Scalar(columns, function, "columns").in_range(0, std::int64_t{1} << 31, "[0, 2**31)");
}

void transfer_tensors(py::handle draft_probs, py::handle draft_ids, py::handle target_ids,
                      py::handle target_spans, py::handle draft_table, py::handle target_table,
                      py::handle vocabulary_map, py::handle draft_offsets,
                      py::handle target_offsets, py::handle columns, py::handle probs,
                      py::handle cases) {
  require_both(kTransfer, draft_offsets, target_offsets);
  Place place;
  const Tensor rows(draft_probs, kTransfer, "draft_probs", &place);
  rows.require_dimensions(2, "[K, V_d]");
  const Side draft(kDraftSide, draft_ids, draft_offsets, kTransfer, place);
  const Side target(kTargetSide, target_ids, target_offsets, kTransfer, place);
  const Tensor spans(target_spans, kTransfer, "target_spans", &place);
  spans.require_dimensions(2, "[M, 2]");
  const auto& draft_tokens = bound<BoundByteTable>(draft_table, kTransfer, "draft_table", place);
  const auto& target_tokens = bound<BoundByteTable>(target_table, kTransfer, "target_table", place);
  const auto& map = bound<BoundVocabularyMap>(vocabulary_map, kTransfer, "vocabulary_map", place);
  const Tensor out(probs, kTransfer, "out.probs", &place);
  const Tensor kinds(cases, kTransfer, "out.cases", &place);
  out.require_dimensions(2, "[M, V_t]");
  kinds.require_dimensions(1, "[M]");
  const auto spans_in = spans.elements<std::int32_t>();
  const auto kinds_out = kinds.writable_elements<std::int8_t>();
  if (!columns.is_none()) require_columns(out, columns);
  require_apart({&out, &kinds},
                {&rows, &draft.ids(), draft.offsets(), &target.ids(), target.offsets(), &spans},
                {{"draft_table", draft_tokens.parts()},
                 {"target_table", target_tokens.parts()},
                 {"vocabulary_map", map.parts()}});

  with_wide_type(rows, [&]<class Number>(Number) {
    with_id_type(draft.ids(), [&]<class Id>(Id) {
      const auto read = rows_of<Number>(rows);
      const auto written = writable_rows<Number>(out);
      const auto draft_side = draft.get<Id>();
      const auto target_side = target.get<Id>();
      using cuda::transfer;
      using tokentiming::transfer;
      run(place, cuda::transfer_workspace(written.rows), [&](const auto&... on_gpu) {
        transfer(read, draft_side, target_side, spans_in, draft_tokens.get(), target_tokens.get(),
                 map.get(), written, kinds_out, on_gpu...);
      });
    });
  });
}

// The shape of out.probs; without `columns` as wide as the target's table.
py::tuple transfer_shape(py::handle target_ids, py::handle target_table, py::handle columns) {
  Place place;
  const Tensor target(target_ids, kTransfer, "target_ids", &place);
  target.require_dimensions(1, "[M]");
  const auto& table = bound<BoundByteTable>(target_table, kTransfer, "target_table", place);
  return py::make_tuple(target.count(),
                        columns.is_none() ? table.get().size() : columns_of(columns, kTransfer));
}

void restrict_tensors(py::handle draft_probs, py::handle vocabulary_map, py::handle columns,
                      py::handle out_object) {
  Place place;
  const Tensor rows(draft_probs, kRestrict, "draft_probs", &place);
  const auto& map = bound<BoundVocabularyMap>(vocabulary_map, kRestrict, "vocabulary_map", place);
  const Tensor out(out_object, kRestrict, "out", &place);
  rows.require_dimensions(2, "[R, V_d]");
  out.require_dimensions(2, "[R, V_t]");
  require_columns(out, columns);
  require_apart({&out}, {&rows}, {{"vocabulary_map", map.parts()}});
  with_wide_type(rows, [&]<class Number>(Number) {
    const auto read = rows_of<Number>(rows);
    const auto written = writable_rows<Number>(out);
    using cuda::restrict_to_shared;
    using tokentiming::restrict_to_shared;
    run(place, cuda::restrict_workspace(written.rows),
        [&](const auto&... on_gpu) { restrict_to_shared(read, map.get(), written, on_gpu...); });
  });
}

// The shape of out.
py::tuple restrict_shape(py::handle draft_probs, py::handle columns) {
  Place place;
  const Tensor rows(draft_probs, kRestrict, "draft_probs", &place);
  rows.require_dimensions(2, "[R, V_d]");
  return py::make_tuple(rows.size(0), columns_of(columns, kRestrict));
}

const Operation kTransferBinding([](py::module_& module) {
  module.def("transfer", transfer_tensors);
  module.def("transfer_shape", transfer_shape);
  module.def("restrict", restrict_tensors);
  module.def("restrict_shape", restrict_shape);
});

}  // namespace

}  // namespace tokentiming::python
