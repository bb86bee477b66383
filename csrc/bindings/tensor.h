// Views of Python tensors for the core.
#pragma once

#include <dlpack/dlpack.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>

#include "tokentiming/cuda.h"
#include "tokentiming/rows.h"

namespace tokentiming::python {

namespace py = pybind11;

// The name DLPack has for a type of the core.
template <class Number>
inline constexpr DLDataType kDlpack{std::is_floating_point_v<Number> ? kDLFloat
                                    : std::is_signed_v<Number>       ? kDLInt
                                                                     : kDLUInt,
                                    8 * sizeof(Number), 1};
template <>
inline constexpr DLDataType kDlpack<Half>{kDLFloat, 16, 1};
template <>
inline constexpr DLDataType kDlpack<BFloat16>{kDLBfloat, 16, 1};

// Releases the GIL for its lifetime. pybind11's own class also manages threads that pybind11 has
// created, of which there are none here.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() { PyEval_RestoreThread(state_); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state_;
};

class Tensor;

// The device of the tensors of one call: all in CPU memory, or all on one GPU.
class Place {
 public:
  // Refuses a tensor on another device than those before it.
  void admit(const char* function, const char* argument, DLDevice device,
             const DLPackExchangeAPI* api);
  // Refuses an argument whose tensors are on another device than those before it.
  void admit(const char* function, const char* argument, const Place& other) {
    admit(function, argument, other.device_, other.api_);
  }

  bool on_gpu() const { return device_.device_type == kDLCUDA; }
  // torch's current stream.
  cuda::Stream stream() const;

 private:
  friend class Scratch;

  const char* function_ = nullptr;
  const char* first_ = nullptr;  // the argument whose device it is
  DLDevice device_{kDLCPU, 0};
  const DLPackExchangeAPI* api_ = nullptr;
};

// Memory on a GPU for one call, from torch's own allocator. Construction and destruction need the
// GIL.
class Scratch {
 public:
  Scratch(const Place& place, std::size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::span<std::byte> bytes() const;

 private:
  DLManagedTensorVersioned* memory_ = nullptr;
};

// A borrowed view of a tensor; nothing is copied. It is valid while it lives and the caller holds
// the Python object, and must be destroyed with the GIL held.
//
// torch tensors are read through DLPack's C exchange API, which is looked up once for each type.
// All others, such as NumPy arrays, are read through __dlpack__. Every check throws WrongType for a
// wrong type or dtype and std::invalid_argument for anything else, with a message that begins
// "function: argument".
class Tensor {
 public:
  // Refuses anything but a tensor in CPU memory, or on the device of `place` if it is given, and
  // tensors whose values differ from their memory (a recorded gradient, a pending negation).
  Tensor(py::handle object, const char* function, const char* argument, Place* place = nullptr);

  int dimensions() const { return view_.ndim; }
  std::int64_t size(int axis) const { return view_.shape[axis]; }
  std::int64_t count() const;
  // Elements from one entry of the axis to the next.
  std::int64_t stride(int axis) const;
  DLDataType dtype() const { return view_.dtype; }

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(static_cast<char*>(view_.data) + view_.byte_offset);
  }

  // The checked elements of a contiguous tensor.
  template <class Number>
  std::span<const Number> elements() const {
    require_dtype(kDlpack<Number>);
    require_contiguous();
    return {data<const Number>(), static_cast<std::size_t>(count())};
  }
  template <class Number>
  std::span<Number> writable_elements() const {
    require_writable();
    const auto readable = elements<Number>();
    return {const_cast<Number*>(readable.data()), readable.size()};
  }

  // The range of bytes from the first to the end of the last element, for strides of either sign; 0
  // and 0 if there are none.
  struct Memory {
    std::intptr_t begin;
    std::intptr_t end;
  };
  Memory memory() const;

  // `axes` describes the expected shape, such as "[R, V]".
  void require_dimensions(int dimensions, const char* axes) const;
  [[noreturn]] void refuse_dtype(const std::string& expected) const;
  [[noreturn]] void refuse(const std::string& reason) const;
  const char* function() const { return function_; }
  const char* argument() const { return argument_; }

 private:
  template <class Read>
  void reading(const Read& read) const;
  void take(py::object capsule);
  void require_dtype(DLDataType expected) const;
  void require_contiguous() const;
  void require_writable() const;
  std::string message(const std::string& reason) const;

  const char* function_;
  const char* argument_;
  DLTensor view_{};
  py::object owner_;  // the capsule that frees the memory borrowed through __dlpack__
  bool read_only_ = false;
};

// The memory of one tensor of an argument that has several.
struct Part {
  const char* name;
  Tensor::Memory memory;
};
struct Parts {
  const char* argument;
  std::span<const Part> parts;
};

// Refuses an output that shares memory with an input or with another output. A call names all its
// tensors here, with null for a missing optional one, and its arguments of several tensors.
void require_apart(std::initializer_list<const Tensor*> outputs,
                   std::initializer_list<const Tensor*> inputs,
                   std::initializer_list<Parts> tables = {});

// True if both are integers or floats of the same kind and width.
inline bool same_dtype(DLDataType a, DLDataType b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

}  // namespace tokentiming::python
