// Byte tables and vocabulary maps as Python objects, checked once at construction.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <span>
#include <string>

#include "errors.h"
#include "tensor.h"
#include "tokentiming/align.h"
#include "tokentiming/transfer.h"

namespace tokentiming::python {

// A ByteTable and the torch tensors whose memory it borrows.
class BoundByteTable {
 public:
  static constexpr const char* kName = "ops.ByteTable";
  static constexpr const char* kExample = "vocabulary.table";

  BoundByteTable(py::handle bytes, py::handle offsets);

  const ByteTable& get() const { return table_; }
  const Place& place() const { return place_; }
  std::span<const Part> parts() const { return parts_; }
  py::tuple tensors() const { return tensors_; }

 private:
  Place place_;
  py::tuple tensors_;  // bytes, offsets
  ByteTable table_;
  std::array<Part, 2> parts_;
};

// A VocabularyMap and the torch tensors whose memory it borrows. On a GPU it has its inverses.
class BoundVocabularyMap {
 public:
  static constexpr const char* kName = "ops.VocabularyMap";
  static constexpr const char* kExample = "VocabularyMap.build(draft, target).core";

  BoundVocabularyMap(py::handle exact, py::handle first, py::handle expansion_offsets,
                     py::handle expansion_ids);

  const VocabularyMap& get() const { return map_; }
  const Place& place() const { return place_; }
  std::span<const Part> parts() const { return parts_; }
  py::tuple tensors() const { return tensors_; }

 private:
  Place place_;
  py::tuple tensors_;  // exact, first, expansion_offsets, expansion_ids
  py::list inverses_;  // their offsets and draft_ids, on a GPU
  VocabularyMap map_;
  std::array<Part, 4> parts_;
};

// The object that was given for an argument; refuses anything else by name.
template <class Bound>
const Bound& bound(py::handle object, const char* function, const char* argument, Place& place) {
  py::detail::make_caster<Bound> caster;
  if (!caster.load(object, false)) {
    throw WrongType(std::string(function) + ": " + argument + " must be an " + Bound::kName +
                    ", got " + Py_TYPE(object.ptr())->tp_name + "; give an " + Bound::kName +
                    ", such as " + Bound::kExample);
  }
  const Bound& found = py::detail::cast_op<const Bound&>(caster);
  place.admit(function, argument, found.place());
  return found;
}

}  // namespace tokentiming::python
