#include "tables.h"

#include <algorithm>
#include <utility>

#include "operations.h"

namespace tokentiming::python {
namespace {

constexpr const char* kByteTable = "ByteTable";
constexpr const char* kVocabularyMap = "VocabularyMap";

// A torch tensor that shares the memory of a tensor of any library.
py::object as_torch(py::handle object, const char* function, const char* argument) {
  Place any;
  const Tensor checked(object, function, argument, &any);
  const auto torch_type = py::module_::import("torch").attr("Tensor");
  if (py::isinstance(object, torch_type)) return py::reinterpret_borrow<py::object>(object);
  return py::module_::import("torch.utils.dlpack").attr("from_dlpack")(object);
}

// The contiguous elements of a tensor with one axis, for as long as the tensor lives.
template <class Number>
std::span<const Number> column(py::handle tensor, const char* function, const char* name,
                               const char* axes, Place& place, Part& part) {
  const Tensor view(tensor, function, name, &place);
  view.require_dimensions(1, axes);
  part = {name, view.memory()};
  return view.elements<Number>();
}

[[noreturn]] void refuse(const char* function, const std::string& message) {
  throw std::invalid_argument(std::string(function) + ": " + message);
}

// Checks offsets in CPU memory into a number of entries of another tensor.
void require_rising(std::span<const std::int64_t> offsets, std::size_t limit, const char* function,
                    const char* name, const char* entries) {
  if (offsets.front() == 0 && std::ranges::is_sorted(offsets) &&
      offsets.back() <= static_cast<std::int64_t>(limit)) {
    return;
  }
  refuse(function, std::string(name) + " must rise from 0 to at most the number of " + entries +
                       " (" + std::to_string(limit) + ")");
}

// The inverse for a map on a GPU; both tensors are added to those that are kept.
InverseMap inverse(py::handle targets, const char* name, py::list& kept, Place& place) {
  const py::tuple parts =
      py::module_::import("tokentiming.ops.inverse").attr("inverse")(targets, name);
  kept.append(parts);
  Part unused;
  return {column<std::int32_t>(parts[0], kVocabularyMap, name, "[T + 1]", place, unused),
          column<std::int32_t>(parts[1], kVocabularyMap, name, "[N]", place, unused)};
}

// The same object with its tensors on another device, or itself if no tensor had to move.
template <class Bound>
py::object to(const py::object& self, py::handle device) {
  const py::tuple tensors = self.cast<const Bound&>().tensors();
  py::list moved;
  bool same = true;
  for (const py::handle tensor : tensors) {
    const py::object there = tensor.attr("to")(device);
    moved.append(there);
    same = same && there.is(tensor);
  }
  return same ? self : py::type::of<Bound>()(*moved);
}

template <class Bound>
py::tuple reduce(const py::object& self) {
  return py::make_tuple(py::type::of<Bound>(), self.cast<const Bound&>().tensors());
}

// A class whose objects are moved, copied and pickled by their tensors, which are its attributes.
template <class Bound>
py::class_<Bound> bind(py::module_& module, const char* name,
                       std::initializer_list<const char*> attributes) {
  py::class_<Bound> made(module, name);
  made.attr("__module__") = "tokentiming.ops";
  std::size_t k = 0;
  for (const char* attribute : attributes) {
    made.def_property_readonly(attribute,
                               [k](const Bound& self) { return py::object(self.tensors()[k]); });
    ++k;
  }
  made.def("to", &to<Bound>, py::arg("device"));
  made.def("__reduce__", &reduce<Bound>);
  return made;
}

}  // namespace

BoundByteTable::BoundByteTable(py::handle bytes, py::handle offsets) {
  const py::object checked_bytes = as_torch(bytes, kByteTable, "bytes");
  tensors_ = py::make_tuple(checked_bytes, as_torch(offsets, kByteTable, "offsets"));
  table_ = {column<std::uint8_t>(tensors_[0], kByteTable, "bytes", "[N]", place_, parts_[0]),
            column<std::int64_t>(tensors_[1], kByteTable, "offsets", "[V + 1]", place_, parts_[1])};
  if (table_.offsets.empty()) refuse(kByteTable, "offsets must have V + 1 entries, got none");
  if (place_.on_gpu()) return;
  require_rising(table_.offsets, table_.bytes.size(), kByteTable, "offsets", "bytes");
}

BoundVocabularyMap::BoundVocabularyMap(py::handle exact, py::handle first,
                                       py::handle expansion_offsets, py::handle expansion_ids) {
  py::list tensors;
  tensors.append(as_torch(exact, kVocabularyMap, "exact"));
  tensors.append(as_torch(first, kVocabularyMap, "first"));
  tensors.append(as_torch(expansion_offsets, kVocabularyMap, "expansion_offsets"));
  tensors.append(as_torch(expansion_ids, kVocabularyMap, "expansion_ids"));
  tensors_ = py::tuple(tensors);
  const auto ids = [&](std::size_t k, const char* name, const char* axes) {
    return column<std::int32_t>(tensors_[k], kVocabularyMap, name, axes, place_, parts_[k]);
  };
  map_.exact = ids(0, "exact", "[D]");
  map_.first = ids(1, "first", "[D]");
  map_.expansion_offsets = column<std::int64_t>(tensors_[2], kVocabularyMap, "expansion_offsets",
                                                "[D + 1]", place_, parts_[2]);
  map_.expansion_ids = ids(3, "expansion_ids", "[E]");
  const auto number = [](std::size_t n) { return std::to_string(n); };
  if (map_.first.size() != map_.exact.size()) {
    refuse(kVocabularyMap, "first has " + number(map_.first.size()) + " entries, exact has " +
                               number(map_.exact.size()));
  }
  if (map_.expansion_offsets.size() != map_.first.size() + 1) {
    refuse(kVocabularyMap, "expansion_offsets must have " + number(map_.first.size() + 1) +
                               " entries, one more than first, got " +
                               number(map_.expansion_offsets.size()));
  }
  if (!place_.on_gpu()) {
    require_rising(map_.expansion_offsets, map_.expansion_ids.size(), kVocabularyMap,
                   "expansion_offsets", "expansion_ids");
    return;
  }
  map_.exact_inverse = inverse(tensors_[0], "exact", inverses_, place_);
  map_.first_inverse = inverse(tensors_[1], "first", inverses_, place_);
}

void bind_tables(py::module_& module) {
  bind<BoundByteTable>(module, "ByteTable", {"bytes", "offsets"})
      .def(py::init<py::handle, py::handle>(), py::arg("bytes"), py::arg("offsets"))
      .def("__len__", [](const BoundByteTable& self) { return self.get().size(); });
  bind<BoundVocabularyMap>(module, "VocabularyMap",
                           {"exact", "first", "expansion_offsets", "expansion_ids"})
      .def(py::init<py::handle, py::handle, py::handle, py::handle>(), py::arg("exact"),
           py::arg("first"), py::arg("expansion_offsets"), py::arg("expansion_ids"))
      .def("__len__", [](const BoundVocabularyMap& self) { return self.get().first.size(); });
}

}  // namespace tokentiming::python
