// Number types of models, and matrices in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>

namespace tokentiming {

// The bits of an IEEE binary16 and of a bfloat16.
struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

// A borrowed matrix; each row is contiguous, and rows are `stride` elements apart.
template <class Number>
struct Rows {
  Number* data;
  std::size_t rows;
  std::size_t columns;
  std::ptrdiff_t stride;

  constexpr Number* operator[](std::size_t row) const {
    return data + static_cast<std::ptrdiff_t>(row) * stride;
  }
};

// Rows of any of the floating-point types.
using AnyRows =
    std::variant<Rows<const Half>, Rows<const BFloat16>, Rows<const float>, Rows<const double>>;

// Distributions over a vocabulary, one per row.
struct Distributions {
  AnyRows rows;
  bool is_logits;  // otherwise rows are probabilities
};

}  // namespace tokentiming
