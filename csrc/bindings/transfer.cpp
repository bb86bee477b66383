#include "tokentiming/transfer.h"

#include <optional>
#include <string>
#include <vector>

#include "operations.h"
#include "rows.h"
#include "run.h"
#include "scalars.h"
#include "tables.h"
#include "tokens.h"
#include "tokentiming/probabilities.h"

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

// The draft's rows: float32 and float64 probabilities as they are, anything else converted.
class DraftRows {
 public:
  DraftRows(py::handle probs, py::handle logits, py::handle temperature, const char* axes,
            const char* function, Place& place)
      : tensor_(logits.is_none() ? probs : logits, function,
                logits.is_none() ? "draft_probs" : "draft_logits", &place),
        is_logits_(!logits.is_none()),
        temperature_(Scalar(temperature, function, "temperature").as_double()) {
    tensor_.require_dimensions(2, axes);
    columns_ = static_cast<std::size_t>(tensor_.size(1));
    is_double_ = same_dtype(tensor_.dtype(), kDlpack<double>);
    is_plain_ = !is_logits_ && temperature_ == 1.0 &&
                (is_double_ || same_dtype(tensor_.dtype(), kDlpack<float>));
    if (!is_plain_) rows_ = {any_rows(tensor_), is_logits_};
    if (!is_plain_ && is_double_ && place.on_gpu()) {
      tensor_.refuse("must be float16, bfloat16 or float32 to be converted on a GPU; use .float()");
    }
  }

  const Tensor& tensor() const { return tensor_; }

  // Reads only the columns of this many draft tokens: further ones pad the draft's head.
  void without_padding(std::size_t tokens) {
    columns_ = std::min(columns_, tokens);
    if (!is_plain_) std::visit([this](auto& rows) { rows.columns = columns_; }, rows_.rows);
  }

  // Calls run(Number) with the type of the probabilities.
  template <class Run>
  void with_number(const Run& run) const {
    return is_double_ ? run(double{}) : run(float{});
  }

  // On a GPU, beside the workspace of the operation.
  std::size_t workspace() const {
    return is_plain_ ? 0 : memory_bytes() + cuda::probabilities_workspace(count());
  }

  // Calls work(rows) with the probabilities, or work(rows, workspace, stream) on a GPU.
  template <class Number, class Work>
  void read(const Work& work) const {
    if (is_plain_) return work(rows_of<Number>(tensor_));
    std::vector<Number> memory(count() * columns_);
    probabilities(rows_, temperature_, matrix(memory.data()), tensor_.function());
    work(matrix<const Number>(memory.data()));
  }
  template <class Number, class Work>
  void read(const Work& work, std::span<std::byte> workspace, cuda::Stream stream) const {
    if (is_plain_) return work(rows_of<Number>(tensor_), workspace, stream);
    if constexpr (std::is_same_v<Number, float>) {
      auto* memory = reinterpret_cast<float*>(workspace.data());
      const auto after = workspace.subspan(memory_bytes());
      cuda::probabilities(rows_, temperature_, matrix(memory), tensor_.function(), after, stream);
      work(matrix<const float>(memory), after.subspan(cuda::probabilities_workspace(count())),
           stream);
    }
  }

 private:
  std::size_t count() const { return static_cast<std::size_t>(tensor_.size(0)); }
  // A multiple of the alignment of a workspace.
  std::size_t memory_bytes() const { return (count() * columns_ * sizeof(float) + 15) / 16 * 16; }
  template <class Number>
  Rows<Number> matrix(Number* data) const {
    return {data, count(), columns_, static_cast<std::ptrdiff_t>(columns_)};
  }

  Tensor tensor_;
  std::size_t columns_ = 0;
  bool is_logits_;
  bool is_double_ = false;
  bool is_plain_ = false;
  double temperature_;
  Distributions rows_{};
};

void transfer_tensors(py::handle draft_probs, py::handle draft_logits, py::handle temperature,
                      py::handle draft_ids, py::handle target_ids, py::handle target_spans,
                      py::handle draft_table, py::handle target_table, py::handle vocabulary_map,
                      py::handle draft_offsets, py::handle target_offsets, py::handle columns,
                      py::handle probs, py::handle cases) {
  require_both(kTransfer, draft_offsets, target_offsets);
  Place place;
  DraftRows rows(draft_probs, draft_logits, temperature, "[K, V_d]", kTransfer, place);
  const Side draft(kDraftSide, draft_ids, draft_offsets, kTransfer, place);
  const Side target(kTargetSide, target_ids, target_offsets, kTransfer, place);
  const Tensor spans(target_spans, kTransfer, "target_spans", &place);
  spans.require_dimensions(2, "[M, 2]");
  const auto& draft_tokens = bound<BoundByteTable>(draft_table, kTransfer, "draft_table", place);
  const auto& target_tokens = bound<BoundByteTable>(target_table, kTransfer, "target_table", place);
  const auto& map = bound<BoundVocabularyMap>(vocabulary_map, kTransfer, "vocabulary_map", place);
  rows.without_padding(map.get().first.size());
  const Tensor out(probs, kTransfer, "out.probs", &place);
  const Tensor kinds(cases, kTransfer, "out.cases", &place);
  out.require_dimensions(2, "[M, V_t]");
  kinds.require_dimensions(1, "[M]");
  const auto spans_in = spans.elements<std::int32_t>();
  const auto kinds_out = kinds.writable_elements<std::int8_t>();
  if (!columns.is_none()) require_columns(out, columns);
  require_apart(
      {&out, &kinds},
      {&rows.tensor(), &draft.ids(), draft.offsets(), &target.ids(), target.offsets(), &spans},
      {{"draft_table", draft_tokens.parts()},
       {"target_table", target_tokens.parts()},
       {"vocabulary_map", map.parts()}});

  rows.with_number([&]<class Number>(Number) {
    with_id_type(draft.ids(), [&]<class Id>(Id) {
      const auto written = writable_rows<Number>(out);
      const auto draft_side = draft.get<Id>();
      const auto target_side = target.get<Id>();
      using cuda::transfer;
      using tokentiming::transfer;
      const auto work = [&](const Rows<const Number>& read, const auto&... on_gpu) {
        transfer(read, draft_side, target_side, spans_in, draft_tokens.get(), target_tokens.get(),
                 map.get(), written, kinds_out, on_gpu...);
      };
      run(place, rows.workspace() + cuda::transfer_workspace(written.rows),
          [&](const auto&... on_gpu) { rows.read<Number>(work, on_gpu...); });
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

void restrict_tensors(py::handle draft_probs, py::handle draft_logits, py::handle temperature,
                      py::handle vocabulary_map, py::handle columns, py::handle out_object) {
  Place place;
  DraftRows rows(draft_probs, draft_logits, temperature, "[R, V_d]", kRestrict, place);
  const auto& map = bound<BoundVocabularyMap>(vocabulary_map, kRestrict, "vocabulary_map", place);
  rows.without_padding(map.get().first.size());
  const Tensor out(out_object, kRestrict, "out", &place);
  out.require_dimensions(2, "[R, V_t]");
  require_columns(out, columns);
  require_apart({&out}, {&rows.tensor()}, {{"vocabulary_map", map.parts()}});
  rows.with_number([&]<class Number>(Number) {
    const auto written = writable_rows<Number>(out);
    using cuda::restrict_to_shared;
    using tokentiming::restrict_to_shared;
    const auto work = [&](const Rows<const Number>& read, const auto&... on_gpu) {
      restrict_to_shared(read, map.get(), written, on_gpu...);
    };
    run(place, rows.workspace() + cuda::restrict_workspace(written.rows),
        [&](const auto&... on_gpu) { rows.read<Number>(work, on_gpu...); });
  });
}

// The shape of out.
py::tuple restrict_shape(py::handle draft_probs, py::handle draft_logits, py::handle columns) {
  Place place;
  const bool is_logits = !draft_logits.is_none();
  const Tensor rows(is_logits ? draft_logits : draft_probs, kRestrict,
                    is_logits ? "draft_logits" : "draft_probs", &place);
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
