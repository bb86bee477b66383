// Tensors out of torch through DLPack's C exchange API, without a binding library: both modules
// take them in alike, so that what differs is the library's own cost.
#pragma once

#include <Python.h>
#include <dlpack/dlpack.h>

#include <span>
#include <stdexcept>

#include "tokentiming/sample.h"

inline DLTensor borrow(PyObject* tensor) {
  static PyTypeObject* known = nullptr;
  static const DLPackExchangeAPI* api = nullptr;
  if (Py_TYPE(tensor) != known) {
    known = Py_TYPE(tensor);
    PyObject* capsule =
        PyObject_GetAttrString(reinterpret_cast<PyObject*>(known), "__dlpack_c_exchange_api__");
    if (capsule == nullptr) throw std::invalid_argument("not a tensor with the exchange API");
    api =
        static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
  }
  DLTensor view;
  if (api->dltensor_from_py_object_no_sync(tensor, &view) != 0) {
    throw std::invalid_argument("a tensor that cannot be lent");
  }
  return view;
}

template <class Number>
std::span<Number> elements(const DLTensor& view) {
  std::size_t count = 1;
  for (int axis = 0; axis < view.ndim; ++axis) count *= static_cast<std::size_t>(view.shape[axis]);
  return {static_cast<Number*>(view.data) + view.byte_offset / sizeof(Number), count};
}

// What is left to do when the memory is at hand.
inline void sample_elements(std::span<const float> logits, std::span<const std::uint64_t> keys,
                            std::uint64_t seed, std::span<const tokentiming::State> states,
                            std::span<std::int64_t> ids) {
  const std::size_t columns = logits.size() / ids.size();
  tokentiming::sample(tokentiming::Rows<const float>{logits.data(), ids.size(), columns,
                                                     static_cast<std::ptrdiff_t>(columns)},
                      keys, seed, states, ids);
}

// One call's four tensors.
struct Arguments {
  std::span<const float> logits;
  std::span<const std::uint64_t> keys;
  std::span<const tokentiming::State> states;
  std::span<std::int64_t> ids;

  Arguments(PyObject* logits_object, PyObject* keys_object, PyObject* states_object,
            PyObject* out_object)
      : logits(elements<const float>(borrow(logits_object))),
        keys(elements<const std::uint64_t>(borrow(keys_object))),
        states(elements<const tokentiming::State>(borrow(states_object))),
        ids(elements<std::int64_t>(borrow(out_object))) {
    states = states.first(states.size() / 3);  // three numbers make a state
  }
};
