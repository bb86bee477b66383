#include "tokentiming/transfer.h"

#include "operations.h"
#include "scalars.h"
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

// Refuses an output that is not as wide as the call says.
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

// A map the other way round, which only a GPU reads.
class OriginTensors {
 public:
  OriginTensors(py::handle offsets, py::handle draft_ids, const char* function, Place& place) {
    if (offsets.is_none() && draft_ids.is_none()) {
      if (!place.on_gpu()) return;
      throw std::invalid_argument(std::string(function) +
                                  ": origins are missing; a GPU needs ops.Origins.of(...) of the "
                                  "same map");
    }
    offsets_.emplace(offsets, function, "origins.offsets", &place);
    draft_ids_.emplace(draft_ids, function, "origins.draft_ids", &place);
    offsets_->require_dimensions(1, "[T + 1]");
    draft_ids_->require_dimensions(1, "[N]");
    get();
  }

  InverseMap get() const {
    return {offsets_->elements<std::int32_t>(), draft_ids_->elements<std::int32_t>()};
  }
  // Null without origins.
  const Tensor* offsets() const { return offsets_ ? &*offsets_ : nullptr; }
  const Tensor* draft_ids() const { return draft_ids_ ? &*draft_ids_ : nullptr; }

 private:
  std::optional<Tensor> offsets_;
  std::optional<Tensor> draft_ids_;
};

void transfer_tensors(py::handle draft_probs, py::handle draft_ids, py::handle draft_offsets,
                      py::handle target_ids, py::handle target_offsets, py::handle target_spans,
                      py::handle draft_table_bytes, py::handle draft_table_offsets,
                      py::handle target_table_bytes, py::handle target_table_offsets,
                      py::handle first, py::handle expansion_offsets, py::handle expansion_ids,
                      py::handle origin_offsets, py::handle origin_ids, py::handle columns,
                      py::handle probs, py::handle cases) {
  Place place;
  const Tensor rows(draft_probs, kTransfer, "draft_probs", &place);
  const Tensor draft(draft_ids, kTransfer, "draft_ids", &place);
  const Tensor target(target_ids, kTransfer, "target_ids", &place);
  const Tensor spans(target_spans, kTransfer, "target_spans", &place);
  const Tensor draft_bytes(draft_table_bytes, kTransfer, "draft_vocab.bytes", &place);
  const Tensor draft_starts(draft_table_offsets, kTransfer, "draft_vocab.offsets", &place);
  const Tensor target_bytes(target_table_bytes, kTransfer, "target_vocab.bytes", &place);
  const Tensor target_starts(target_table_offsets, kTransfer, "target_vocab.offsets", &place);
  const Tensor firsts(first, kTransfer, "expansions.first", &place);
  const Tensor starts(expansion_offsets, kTransfer, "expansions.expansion_offsets", &place);
  const Tensor ids(expansion_ids, kTransfer, "expansions.expansion_ids", &place);
  const Tensor out(probs, kTransfer, "out.probs", &place);
  const Tensor kinds(cases, kTransfer, "out.cases", &place);
  rows.require_dimensions(2, "[K, V_d]");
  draft.require_dimensions(1, "[K]");
  target.require_dimensions(1, "[M]");
  spans.require_dimensions(2, "[M, 2]");
  firsts.require_dimensions(1, "[D]");
  starts.require_dimensions(1, "[D + 1]");
  ids.require_dimensions(1, "[E]");
  out.require_dimensions(2, "[M, V_t]");
  kinds.require_dimensions(1, "[M]");
  const Offsets draft_rows(draft_offsets, kTransfer, "draft_offsets", draft.count(), place);
  const Offsets target_rows(target_offsets, kTransfer, "target_offsets", target.count(), place);
  const OriginTensors origins(origin_offsets, origin_ids, kTransfer, place);
  const ByteTable draft_table = byte_table(draft_bytes, draft_starts);
  const ByteTable target_table = byte_table(target_bytes, target_starts);
  const auto kinds_out = kinds.writable_elements<std::int8_t>();
  if (!columns.is_none()) require_columns(out, columns);
  require_apart({&out, &kinds}, {&rows, &draft, draft_rows.tensor(), &target, target_rows.tensor(),
                                 &spans, &draft_bytes, &draft_starts, &target_bytes, &target_starts,
                                 &firsts, &starts, &ids, origins.offsets(), origins.draft_ids()});

  VocabularyMap map{{},
                    firsts.elements<std::int32_t>(),
                    starts.elements<std::int64_t>(),
                    ids.elements<std::int32_t>()};
  if (place.on_gpu()) map.first_inverse = origins.get();
  const auto run = [&]<class Number, class Id>(Number, Id) {
    const Ragged<Id> draft_side{draft.elements<Id>(), draft_rows.get()};
    const Ragged<Id> target_side{target.elements<Id>(), target_rows.get()};
    const auto spans_in = spans.elements<std::int32_t>();
    const auto read = rows_of<Number>(rows);
    const auto written = writable_rows<Number>(out);
    if (place.on_gpu()) {
      const Scratch scratch(place, cuda::transfer_workspace(written.rows));
      const cuda::Stream stream = place.stream();
      const Unlocked unlocked;
      return cuda::transfer(read, draft_side, target_side, spans_in, draft_table, target_table, map,
                            written, kinds_out, scratch.bytes(), stream);
    }
    const Unlocked unlocked;
    transfer(read, draft_side, target_side, spans_in, draft_table, target_table, map, written,
             kinds_out);
  };
  with_number_type(rows,
                   [&](auto number) { with_id_type(draft, [&](auto id) { run(number, id); }); });
}

void restrict_tensors(py::handle draft_probs, py::handle exact, py::handle columns,
                      py::handle origin_offsets, py::handle origin_ids, py::handle out_object) {
  Place place;
  const Tensor rows(draft_probs, kRestrict, "draft_probs", &place);
  const Tensor shared(exact, kRestrict, "exact", &place);
  const Tensor out(out_object, kRestrict, "out", &place);
  rows.require_dimensions(2, "[R, V_d]");
  shared.require_dimensions(1, "[D]");
  out.require_dimensions(2, "[R, V_t]");
  const OriginTensors origins(origin_offsets, origin_ids, kRestrict, place);
  require_columns(out, columns);
  require_apart({&out}, {&rows, &shared, origins.offsets(), origins.draft_ids()});
  with_number_type(rows, [&]<class Number>(Number) {
    const auto read = rows_of<Number>(rows);
    const auto written = writable_rows<Number>(out);
    VocabularyMap map{shared.elements<std::int32_t>(), {}, {}, {}};
    if (place.on_gpu()) {
      map.exact_inverse = origins.get();
      const Scratch scratch(place, cuda::restrict_workspace(written.rows));
      const cuda::Stream stream = place.stream();
      const Unlocked unlocked;
      return cuda::restrict_to_shared(read, map, written, scratch.bytes(), stream);
    }
    const Unlocked unlocked;
    restrict_to_shared(read, map, written);
  });
}

}  // namespace

void bind_transfer(py::module_& module) {
  module.def("transfer", transfer_tensors);
  module.def("restrict", restrict_tensors);
  module.def("columns", columns_of);
}

}  // namespace tokentiming::python
