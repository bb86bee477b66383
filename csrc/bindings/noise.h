// Conversion of Python tensors to keys and states of shared noise.
#pragma once

#include <span>
#include <string>

#include "tensor.h"
#include "tokentiming/sample.h"

namespace tokentiming::python {

// The same 64 bits as another type: torch lacks the arithmetic on uint64 that making keys needs.
inline std::span<const std::uint64_t> as_keys(const Tensor& keys) {
  keys.require_dimensions(1, "[N]");
  const auto elements = keys.elements<std::int64_t>();
  return {reinterpret_cast<const std::uint64_t*>(elements.data()), elements.size()};
}

inline std::span<const State> as_states(const Tensor& states) {
  static_assert(sizeof(State) == 3 * sizeof(std::int64_t));
  states.require_dimensions(2, "[R, 3]");
  if (states.size(1) != 3) {
    states.refuse("must have 3 columns (row, byte offset, empty tokens), got " +
                  std::to_string(states.size(1)));
  }
  const auto elements = states.elements<std::int64_t>();
  return {reinterpret_cast<const State*>(elements.data()), elements.size() / 3};
}

}  // namespace tokentiming::python
