// Ragged batches of tokens and byte tables out of Python tensors.
#pragma once

#include <array>
#include <optional>

#include "tensor.h"
#include "tokentiming/align.h"

namespace tokentiming::python {

// One side's offsets; without any, the side is one sequence, which on a GPU needs none to say so.
class Offsets {
 public:
  Offsets(py::handle object, const char* function, const char* argument, std::int64_t tokens,
          Place& place)
      : whole_{0, tokens}, on_gpu_(place.on_gpu()) {
    if (!object.is_none()) {
      tensor_.emplace(object, function, argument, &place);
      tensor_->require_dimensions(1, "[B + 1]");
      if (tensor_->elements<std::int64_t>().empty()) {
        tensor_->refuse("must have B + 1 entries, got none");
      }
    }
  }
  std::span<const std::int64_t> get() const {
    if (tensor_) return tensor_->elements<std::int64_t>();
    if (on_gpu_) return {};
    return whole_;
  }
  // Null without offsets.
  const Tensor* tensor() const { return tensor_ ? &*tensor_ : nullptr; }

 private:
  std::array<std::int64_t, 2> whole_;
  bool on_gpu_;
  std::optional<Tensor> tensor_;
};

inline ByteTable byte_table(const Tensor& bytes, const Tensor& offsets) {
  bytes.require_dimensions(1, "[N]");
  offsets.require_dimensions(1, "[V + 1]");
  return {bytes.elements<std::uint8_t>(), offsets.elements<std::int64_t>()};
}

// Calls run(Id{}) with the type of the tensor's elements, int32 or int64.
template <class Run>
void with_id_type(const Tensor& ids, const Run& run) {
  if (same_dtype(ids.dtype(), kDlpack<std::int64_t>)) return run(std::int64_t{});
  if (same_dtype(ids.dtype(), kDlpack<std::int32_t>)) return run(std::int32_t{});
  ids.refuse_dtype("int32 or int64");
}

}  // namespace tokentiming::python
