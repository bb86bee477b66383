#include "tensor.h"

#include <utility>

#include "errors.h"

namespace tokentiming::python {
namespace {

bool is_true(PyObject* new_reference) {
  if (new_reference == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(new_reference).ptr() == Py_True;
}

// What is known of a type of tensor: its exchange API, or null, and what its attributes are found
// to be, which spares a search for each tensor.
class TensorType {
 public:
  const DLPackExchangeAPI* api = nullptr;

  explicit TensorType(PyTypeObject* type) : type_(type) {
    const py::handle object(reinterpret_cast<PyObject*>(type));
    const py::object capsule = py::getattr(object, "__dlpack_c_exchange_api__", py::none());
    constexpr const char* kName = "dlpack_exchange_api";
    if (!PyCapsule_IsValid(capsule.ptr(), kName)) return;
    const auto* found =
        static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), kName));
    if (found->header.version.major != DLPACK_MAJOR_VERSION) return;
    if (found->dltensor_from_py_object_no_sync == nullptr) return;
    requires_grad_ = object.attr("requires_grad");
    is_neg_ = object.attr("is_neg");
    api = found;
  }

  // The last answer is kept, for a process asks about one type nearly always; so is the type, lest
  // its address come to mean another one.
  static const TensorType& of(py::handle object) {
    static TensorType* last = nullptr;
    PyTypeObject* type = Py_TYPE(object.ptr());
    if (last == nullptr || type != last->type_) {
      auto* found = new TensorType(type);
      Py_INCREF(type);
      if (last != nullptr) Py_DECREF(last->type_);
      delete std::exchange(last, found);
    }
    return *last;
  }

  bool requires_grad(py::handle object) const {
    PyObject* property = requires_grad_.ptr();
    return is_true(Py_TYPE(property)->tp_descr_get(property, object.ptr(),
                                                   reinterpret_cast<PyObject*>(type_)));
  }
  bool is_neg(py::handle object) const {
    return is_true(PyObject_CallOneArg(is_neg_.ptr(), object.ptr()));
  }

 private:
  PyTypeObject* type_;
  py::object requires_grad_;
  py::object is_neg_;
};

py::object dlpack_capsule(py::handle object) {
  const py::object method = object.attr("__dlpack__");
  try {
    return method(py::arg("max_version") = py::make_tuple(DLPACK_MAJOR_VERSION, 0));
  } catch (const py::error_already_set& error) {
    // A producer from before DLPack 1.0 takes no version.
    if (!error.matches(PyExc_TypeError)) throw;
    return method();
  }
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

void Place::admit(const Tensor& tensor, DLDevice device, const DLPackExchangeAPI* api) {
  const bool on_gpu = device.device_type == kDLCUDA;
  if (!on_gpu) device = {kDLCPU, 0};
  if (first_ != nullptr) {
    if (device.device_type == device_.device_type && device.device_id == device_.device_id) return;
    tensor.refuse("is " + name(device) + ", " + first_ + " is " + name(device_) +
                  "; all have to be on one device");
  }
  if (on_gpu && api == nullptr) {
    tensor.refuse("is on a GPU and no torch tensor; use torch.from_dlpack (torch >= 2.10)");
  }
  function_ = tensor.function();
  first_ = tensor.argument();
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
  const TensorType& type = TensorType::of(object);
  const DLPackExchangeAPI* const api = type.api;
  if (api == nullptr && !py::hasattr(object, "__dlpack__")) {
    throw WrongType(
        message("must be a tensor, got " + std::string(Py_TYPE(object.ptr())->tp_name)));
  }
  try {
    if (api != nullptr) {
      if (api->dltensor_from_py_object_no_sync(object.ptr(), &view_) != 0) {
        throw py::error_already_set();
      }
    } else {
      owner_ = dlpack_capsule(object);
      if (PyCapsule_IsValid(owner_.ptr(), "dltensor_versioned")) {
        const auto* managed = owner_.cast<py::capsule>().get_pointer<DLManagedTensorVersioned>();
        view_ = managed->dl_tensor;
        read_only_ = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
      } else {
        view_ = owner_.cast<py::capsule>().get_pointer<DLManagedTensor>()->dl_tensor;
      }
    }
  } catch (py::error_already_set& error) {
    // Only the first line: torch appends a native stack trace.
    const std::string reason = py::str(error.value());
    const auto text = message("cannot be read: " + reason.substr(0, reason.find('\n')));
    py::raise_from(error, argument_value_error(), text.c_str());
    throw py::error_already_set();
  }
  const DLDeviceType device = view_.device.device_type;
  const bool reached = device == kDLCPU || device == kDLCUDAHost || (place && device == kDLCUDA);
  if (!reached) refuse("is not in CPU memory; move it with .cpu()");
  if (place) place->admit(*this, view_.device, api);
  if (view_.data == nullptr && count() > 0) refuse("has no memory behind it (a fake tensor?)");

  // The exchange API hands out memory as it lies. What torch keeps beside it must be asked for;
  // only floating-point tensors carry such things.
  if (api != nullptr && (view_.dtype.code == kDLFloat || view_.dtype.code == kDLBfloat)) {
    if (type.requires_grad(object)) {
      refuse("requires grad, and no gradient passes through here; use .detach()");
    }
    if (type.is_neg(object)) refuse("has a pending negation; use .resolve_neg()");
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

void Tensor::require_apart_from(const Tensor& input) const {
  // The bytes from the first element to behind the last, strides of either sign.
  const auto extent = [](const Tensor& tensor) {
    std::intptr_t begin = reinterpret_cast<std::intptr_t>(tensor.data<char>());
    std::intptr_t end = begin;
    const std::int64_t size = tensor.dtype().bits / 8;
    for (int axis = 0; axis < tensor.dimensions(); ++axis) {
      const std::int64_t reach = (tensor.size(axis) - 1) * tensor.stride(axis) * size;
      (reach < 0 ? begin : end) += reach;
    }
    return std::pair(begin, end + size);
  };
  if (count() == 0 || input.count() == 0) return;
  const auto [begin, end] = extent(*this);
  const auto [input_begin, input_end] = extent(input);
  if (begin < input_end && input_begin < end) {
    refuse(std::string("shares memory with ") + input.argument_);
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

}  // namespace tokentiming::python
