#include "tokentiming/transfer.h"

#include "operations.h"
#include "tokens.h"

namespace tokentiming::python {
namespace {

constexpr const char* kTransfer = "transfer";
constexpr const char* kRestrict = "restrict";

// Rows to read, any distance apart.
template <class Number>
Rows<const Number> rows_of(const Tensor& tensor) {
  if (tensor.size(1) > 1 && tensor.stride(1) != 1) {
    tensor.refuse("must be contiguous along the vocabulary; use .contiguous()");
  }
  return {tensor.data<const Number>(), static_cast<std::size_t>(tensor.size(0)),
          static_cast<std::size_t>(tensor.size(1)), tensor.stride(0)};
}

// Rows to write, end to end.
template <class Number>
Rows<Number> writable_rows(const Tensor& tensor) {
  return {tensor.writable_elements<Number>().data(), static_cast<std::size_t>(tensor.size(0)),
          static_cast<std::size_t>(tensor.size(1)), tensor.size(1)};
}

// Calls run(Number{}) with the type of the tensor's elements, float or double.
template <class Run>
void with_number_type(const Tensor& rows, const Run& run) {
  if (same_dtype(rows.dtype(), kDlpack<float>)) return run(float{});
  if (same_dtype(rows.dtype(), kDlpack<double>)) return run(double{});
  rows.refuse_dtype("float32 or float64");
}

void transfer_tensors(py::handle draft_probs, py::handle draft_ids, py::handle draft_offsets,
                      py::handle target_ids, py::handle target_offsets, py::handle target_spans,
                      py::handle draft_table_bytes, py::handle draft_table_offsets,
                      py::handle target_table_bytes, py::handle target_table_offsets,
                      py::handle first, py::handle expansion_offsets, py::handle expansion_ids,
                      py::handle probs, py::handle cases) {
  const Tensor rows(draft_probs, kTransfer, "draft_probs");
  const Tensor draft(draft_ids, kTransfer, "draft_ids");
  const Tensor target(target_ids, kTransfer, "target_ids");
  const Tensor spans(target_spans, kTransfer, "target_spans");
  const Tensor draft_bytes(draft_table_bytes, kTransfer, "draft_vocab.bytes");
  const Tensor draft_starts(draft_table_offsets, kTransfer, "draft_vocab.offsets");
  const Tensor target_bytes(target_table_bytes, kTransfer, "target_vocab.bytes");
  const Tensor target_starts(target_table_offsets, kTransfer, "target_vocab.offsets");
  const Tensor firsts(first, kTransfer, "expansions.first");
  const Tensor starts(expansion_offsets, kTransfer, "expansions.expansion_offsets");
  const Tensor ids(expansion_ids, kTransfer, "expansions.expansion_ids");
  const Tensor out(probs, kTransfer, "out.probs");
  const Tensor kinds(cases, kTransfer, "out.cases");
  rows.require_dimensions(2, "[K, V_d]");
  draft.require_dimensions(1, "[K]");
  target.require_dimensions(1, "[M]");
  spans.require_dimensions(2, "[M, 2]");
  firsts.require_dimensions(1, "[D]");
  starts.require_dimensions(1, "[D + 1]");
  ids.require_dimensions(1, "[E]");
  out.require_dimensions(2, "[M, V_t]");
  kinds.require_dimensions(1, "[M]");
  const Offsets draft_rows(draft_offsets, kTransfer, "draft_offsets", draft.count());
  const Offsets target_rows(target_offsets, kTransfer, "target_offsets", target.count());
  const ByteTable draft_table = byte_table(draft_bytes, draft_starts);
  const ByteTable target_table = byte_table(target_bytes, target_starts);
  const auto kinds_out = kinds.writable_elements<std::int8_t>();
  for (const Tensor* input : {&rows, &draft, &target, &spans, &draft_bytes, &draft_starts,
                              &target_bytes, &target_starts, &firsts, &starts, &ids}) {
    out.require_apart_from(*input);
    kinds.require_apart_from(*input);
  }
  out.require_apart_from(kinds);

  const auto run = [&]<class Number, class Id, class MapId>(Number, Id, MapId) {
    const Proposals<Id> proposals{{draft.elements<Id>(), draft_rows.get()},
                                  {target.elements<Id>(), target_rows.get()},
                                  draft_table,
                                  target_table,
                                  spans.elements<std::int32_t>()};
    const Expansions<MapId> expansions{firsts.elements<MapId>(), starts.elements<std::int64_t>(),
                                       ids.elements<MapId>()};
    const auto read = rows_of<Number>(rows);
    const auto written = writable_rows<Number>(out);
    const Unlocked unlocked;
    transfer(read, proposals, expansions, written, kinds_out);
  };
  with_number_type(rows, [&](auto number) {
    with_id_type(draft, [&](auto id) {
      with_id_type(firsts, [&](auto map_id) { run(number, id, map_id); });
    });
  });
}

void restrict_tensors(py::handle draft_probs, py::handle exact, py::handle out_object) {
  const Tensor rows(draft_probs, kRestrict, "draft_probs");
  const Tensor shared(exact, kRestrict, "exact");
  const Tensor out(out_object, kRestrict, "out");
  rows.require_dimensions(2, "[R, V_d]");
  shared.require_dimensions(1, "[D]");
  out.require_dimensions(2, "[R, V_t]");
  out.require_apart_from(rows);
  out.require_apart_from(shared);
  with_number_type(rows, [&]<class Number>(Number) {
    with_id_type(shared, [&]<class Id>(Id) {
      const auto read = rows_of<Number>(rows);
      const auto map = shared.elements<Id>();
      const auto written = writable_rows<Number>(out);
      const Unlocked unlocked;
      restrict_to_shared(read, map, written);
    });
  });
}

}  // namespace

void bind_transfer(py::module_& module) {
  module.def("transfer", transfer_tensors);
  module.def("restrict", restrict_tensors);
}

}  // namespace tokentiming::python
