#include "tensor.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "errors.h"
#include "operations.h"

namespace tokentiming::python {
namespace {

bool is_true(PyObject* new_reference) {
  if (new_reference == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(new_reference).ptr() == Py_True;
}

// Cached facts about a type of tensor: its exchange API, or null, and its attributes, which saves a
// look-up for each tensor.
class TensorType {
 public:
  const DLPackExchangeAPI* api = nullptr;

  // The last result is cached, since nearly all tensors of a process have one type. It owns the
  // type, so that the type's address is not reused. The result is copied: every call into Python
  // may switch to another thread, which replaces the cached one.
  static TensorType of(py::handle object) {
    static auto* const last = new TensorType;
    PyTypeObject* const type = Py_TYPE(object.ptr());
    if (last->type_.ptr() == reinterpret_cast<PyObject*>(type)) return *last;
    TensorType found(type);
    // Destroyed at the end, because the destructor may also run Python.
    const TensorType before = std::exchange(*last, found);
    return found;
  }

  bool requires_grad(py::handle object) const {
    PyObject* const property = requires_grad_.ptr();
    if (property == nullptr) return false;
    const descrgetfunc get = Py_TYPE(property)->tp_descr_get;
    return get == nullptr ? property == Py_True : is_true(get(property, object.ptr(), type_.ptr()));
  }
  bool is_neg(py::handle object) const {
    return is_neg_ && is_true(PyObject_CallOneArg(is_neg_.ptr(), object.ptr()));
  }

 private:
  TensorType() = default;
  explicit TensorType(PyTypeObject* type)
      : type_(py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(type))) {
    const py::object capsule = py::getattr(type_, "__dlpack_c_exchange_api__", py::none());
    constexpr const char* kName = "dlpack_exchange_api";
    if (!PyCapsule_IsValid(capsule.ptr(), kName)) return;
    const auto* found =
        static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), kName));
    if (found->header.version.major != DLPACK_MAJOR_VERSION) return;
    if (found->dltensor_from_py_object_no_sync == nullptr) return;
    // Other libraries' tensors need not have them.
    requires_grad_ = py::getattr(type_, "requires_grad", py::handle());
    is_neg_ = py::getattr(type_, "is_neg", py::handle());
    api = found;
  }

  py::object type_;
  py::object requires_grad_;
  py::object is_neg_;
};

py::object dlpack_capsule(py::handle object) {
  const py::object method = object.attr("__dlpack__");
  try {
    return method(py::arg("max_version") = py::make_tuple(DLPACK_MAJOR_VERSION, 0));
  } catch (const py::error_already_set& error) {
    // A producer of an older DLPack than 1.0 takes no version.
    if (!error.matches(PyExc_TypeError)) throw;
    return method();
  }
}

// The first line of an error: torch appends a native stack trace.
std::string first_line(const py::error_already_set& error) {
  PyObject* const text = PyObject_Str(error.value().ptr());
  if (text == nullptr) {
    PyErr_Clear();
    return Py_TYPE(error.value().ptr())->tp_name;
  }
  const std::string lines = py::reinterpret_steal<py::str>(text);
  return lines.substr(0, lines.find('\n'));
}

std::string name(DLDataType dtype) {
  static constexpr const char* kNames[] = {"int",    "uint",    "float", "opaque",
                                           "bfloat", "complex", "bool"};
  if (dtype.code >= std::size(kNames)) return "an 8-bit or smaller float";
  return kNames[dtype.code] + (dtype.code == kDLBool ? "" : std::to_string(dtype.bits));
}

std::string name(DLDevice device) {
  if (device.device_type == kDLCUDA) return "on cuda:" + std::to_string(device.device_id);
  return "in CPU memory";
}

}  // namespace

void Place::admit(const char* function, const char* argument, DLDevice device,
                  const DLPackExchangeAPI* api) {
  const auto refuse = [&](const std::string& reason) {
    throw std::invalid_argument(std::string(function) + ": " + argument + " " + reason);
  };
  const bool on_gpu = device.device_type == kDLCUDA;
  if (!on_gpu) device = {kDLCPU, 0};
  if (first_ != nullptr) {
    if (device.device_type == device_.device_type && device.device_id == device_.device_id) return;
    refuse("is " + name(device) + ", " + first_ + " is " + name(device_) +
           "; all have to be on one device");
  }
  if (on_gpu && api == nullptr) {
    refuse("is on a GPU and no torch tensor; use torch.from_dlpack (torch >= 2.10)");
  }
  function_ = function;
  first_ = argument;
  device_ = device;
  api_ = api;
}

cuda::Stream Place::stream() const {
  cuda::Stream stream{nullptr, device_.device_id};
  if (api_->current_work_stream(kDLCUDA, device_.device_id, &stream.handle) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

Scratch::Scratch(const Place& place, std::size_t bytes) {
  if (bytes == 0) return;
  auto size = static_cast<std::int64_t>(bytes);
  DLTensor wanted{};
  wanted.device = place.device_;
  wanted.ndim = 1;
  wanted.dtype = kDlpack<std::uint8_t>;
  wanted.shape = &size;
  std::string reason;
  const auto keep_reason = [](void* text, const char*, const char* message) {
    *static_cast<std::string*>(text) = message;
  };
  if (place.api_->managed_tensor_allocator(&wanted, &memory_, &reason, keep_reason) != 0) {
    throw std::runtime_error(std::string(place.function_) +
                             ": no memory on the GPU for a workspace: " + reason);
  }
}

Scratch::~Scratch() {
  if (memory_ != nullptr && memory_->deleter != nullptr) memory_->deleter(memory_);
}

std::span<std::byte> Scratch::bytes() const {
  if (memory_ == nullptr) return {};
  const DLTensor& tensor = memory_->dl_tensor;
  return {static_cast<std::byte*>(tensor.data) + tensor.byte_offset,
          static_cast<std::size_t>(tensor.shape[0])};
}

Tensor::Tensor(py::handle object, const char* function, const char* argument, Place* place)
    : function_(function), argument_(argument) {
  const TensorType type = TensorType::of(object);
  const DLPackExchangeAPI* const api = type.api;
  if (api == nullptr && !py::hasattr(object, "__dlpack__")) {
    throw WrongType(message("must be a tensor, got " + std::string(Py_TYPE(object.ptr())->tp_name) +
                            "; give a torch tensor or anything with __dlpack__"));
  }
  reading([&] {
    if (api == nullptr) {
      take(dlpack_capsule(object));
    } else if (api->dltensor_from_py_object_no_sync(object.ptr(), &view_) != 0) {
      throw py::error_already_set();
    }
  });
  const DLDeviceType device = view_.device.device_type;
  const bool reached = device == kDLCPU || device == kDLCUDAHost || (place && device == kDLCUDA);
  if (!reached) refuse("is not in CPU memory; move it with .cpu()");
  if (place) place->admit(function, argument, view_.device, api);
  if (view_.data == nullptr && count() > 0) refuse("has no memory behind it (a fake tensor?)");

  // The exchange API returns the plain memory. torch's flags (gradient, negation) must be queried
  // separately; only floating-point tensors have them.
  if (api != nullptr && (view_.dtype.code == kDLFloat || view_.dtype.code == kDLBfloat)) {
    bool requires_grad = false;
    bool is_neg = false;
    reading([&] {
      requires_grad = type.requires_grad(object);
      is_neg = type.is_neg(object);
    });
    if (requires_grad) refuse("requires grad, and no gradient passes through here; use .detach()");
    if (is_neg) refuse("has a pending negation; use .resolve_neg()");
  }
}

// An error of the object's own code becomes an argument error; an interrupt propagates.
template <class Read>
void Tensor::reading(const Read& read) const {
  try {
    read();
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    const auto text = message("cannot be read: " + first_line(error));
    py::raise_from(error, argument_value_error(), text.c_str());
    throw py::error_already_set();
  }
}

void Tensor::take(py::object capsule) {
  owner_ = std::move(capsule);
  constexpr const char* kVersioned = "dltensor_versioned";
  constexpr const char* kUnversioned = "dltensor";
  if (PyCapsule_IsValid(owner_.ptr(), kVersioned)) {
    const auto* managed = static_cast<const DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(owner_.ptr(), kVersioned));
    if (managed->version.major != DLPACK_MAJOR_VERSION) {
      refuse("cannot be read: its DLPack is of version " + std::to_string(managed->version.major));
    }
    view_ = managed->dl_tensor;
    read_only_ = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  } else if (PyCapsule_IsValid(owner_.ptr(), kUnversioned)) {
    view_ = static_cast<const DLManagedTensor*>(PyCapsule_GetPointer(owner_.ptr(), kUnversioned))
                ->dl_tensor;
  } else {
    refuse("cannot be read: its __dlpack__ gives no DLPack capsule");
  }
}

std::int64_t Tensor::count() const {
  std::int64_t count = 1;
  for (int axis = 0; axis < view_.ndim; ++axis) count *= view_.shape[axis];
  return count;
}

std::int64_t Tensor::stride(int axis) const {
  if (view_.strides != nullptr) return view_.strides[axis];
  std::int64_t stride = 1;
  for (int inner = axis + 1; inner < view_.ndim; ++inner) stride *= view_.shape[inner];
  return stride;
}

void Tensor::require_dimensions(int dimensions, const char* axes) const {
  if (view_.ndim == dimensions) return;
  refuse("must have shape " + std::string(axes) + ", got " + std::to_string(view_.ndim) +
         " dimensions");
}

void Tensor::require_dtype(DLDataType expected) const {
  if (!same_dtype(view_.dtype, expected)) refuse_dtype(name(expected));
}

void Tensor::require_contiguous() const {
  if (count() == 0) return;
  std::int64_t expected = 1;
  for (int axis = view_.ndim - 1; axis >= 0; --axis) {
    if (size(axis) != 1 && stride(axis) != expected) {
      refuse("must be contiguous; use .contiguous()");
    }
    expected *= size(axis);
  }
}

void Tensor::require_writable() const {
  if (read_only_) refuse("is read-only and cannot take a result");
}

Tensor::Memory Tensor::memory() const {
  if (count() == 0) return {0, 0};
  std::intptr_t begin = reinterpret_cast<std::intptr_t>(data<char>());
  std::intptr_t end = begin;
  const std::int64_t element = (view_.dtype.bits * view_.dtype.lanes + 7) / 8;
  for (int axis = 0; axis < view_.ndim; ++axis) {
    const std::int64_t reach = (size(axis) - 1) * stride(axis) * element;
    (reach < 0 ? begin : end) += reach;
  }
  return {begin, end + element};
}

void require_apart(std::initializer_list<const Tensor*> outputs,
                   std::initializer_list<const Tensor*> inputs,
                   std::initializer_list<Parts> tables) {
  for (const Tensor* const* output = outputs.begin(); output != outputs.end(); ++output) {
    const auto [begin, end] = (*output)->memory();
    const auto refuse = [&](const std::string& other) {
      (*output)->refuse("shares memory with " + other + "; give a tensor of its own");
    };
    const auto overlaps = [begin, end](const Tensor::Memory& other) {
      return begin < other.end && other.begin < end;
    };
    const auto require_apart_from = [&](const Tensor* other) {
      if (other != nullptr && overlaps(other->memory())) refuse(other->argument());
    };
    std::for_each(inputs.begin(), inputs.end(), require_apart_from);
    std::for_each(output + 1, outputs.end(), require_apart_from);
    for (const Parts& table : tables) {
      for (const Part& part : table.parts) {
        if (overlaps(part.memory)) refuse(std::string(table.argument) + "." + part.name);
      }
    }
  }
}

void Tensor::refuse_dtype(const std::string& expected) const {
  throw WrongType(message("must be " + expected + ", got " + name(view_.dtype)));
}

void Tensor::refuse(const std::string& reason) const {
  throw std::invalid_argument(message(reason));
}

std::string Tensor::message(const std::string& reason) const {
  return std::string(function_) + ": " + argument_ + " " + reason;
}

namespace {

// The length of an argument's first axis, for results that Python makes.
std::int64_t length(py::handle object, const char* function, const char* argument,
                    const char* axes) {
  Place place;
  const Tensor tensor(object, function, argument, &place);
  const std::string_view every(axes);
  tensor.require_dimensions(1 + static_cast<int>(std::ranges::count(every, ',')), axes);
  return tensor.size(0);
}

std::string dtype(py::handle object, const char* function, const char* argument) {
  Place place;
  return name(Tensor(object, function, argument, &place).dtype());
}

}  // namespace

void bind_tensor(py::module_& module) {
  module.def("length", length);
  module.def("dtype", dtype);
}

}  // namespace tokentiming::python
