// Conversion of Python tensors to ragged batches of tokens.
#pragma once

#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "dtypes.h"
#include "tensor.h"
#include "tokentiming/align.h"

namespace tokentiming::python {

// Offsets of a batch; without any, it is one sequence, which on a GPU needs no offsets.
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

// The names of the arguments of one side of a batch.
struct SideNames {
  const char* ids;
  const char* axes;
  const char* offsets;
};
inline constexpr SideNames kDraftSide{"draft_ids", "[K]", "draft_offsets"};
inline constexpr SideNames kTargetSide{"target_ids", "[M]", "target_offsets"};

// The token ids of one side, and their offsets or None.
class Side {
 public:
  Side(const SideNames& names, py::handle ids, py::handle offsets, const char* function,
       Place& place)
      : ids_(checked(names, ids, function, place)),
        offsets_(offsets, function, names.offsets, ids_.count(), place) {}

  const Tensor& ids() const { return ids_; }
  const Tensor* offsets() const { return offsets_.tensor(); }

  template <class Id>
  Ragged<Id> get() const {
    return {ids_.elements<Id>(), offsets_.get()};
  }

 private:
  static Tensor checked(const SideNames& names, py::handle ids, const char* function,
                        Place& place) {
    Tensor tensor(ids, function, names.ids, &place);
    tensor.require_dimensions(1, names.axes);
    return tensor;
  }

  Tensor ids_;
  Offsets offsets_;
};

// Refuses offsets that are given for one side only.
inline void require_both(const char* function, py::handle draft_offsets,
                         py::handle target_offsets) {
  if (draft_offsets.is_none() == target_offsets.is_none()) return;
  const SideNames& missing = draft_offsets.is_none() ? kDraftSide : kTargetSide;
  throw std::invalid_argument(std::string(function) + ": " + missing.offsets +
                              " is missing; give offsets for both sides or neither");
}

}  // namespace tokentiming::python
