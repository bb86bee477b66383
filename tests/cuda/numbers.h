// Random rows of every type that a kernel reads.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include "tokentiming/rows.h"

namespace tokentiming::test {

inline float to_float(Half x) {
  const int exponent = (x.bits >> 10) & 31;
  const int fraction = x.bits & 1023;
  const float sign = x.bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25)
                          : std::ldexp(static_cast<float>(fraction), -24));
}
inline float to_float(BFloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
inline float to_float(float x) { return x; }
inline double to_float(double x) { return x; }

// Rounds towards zero.
template <class Number>
Number narrow(double x) {
  if constexpr (std::is_same_v<Number, BFloat16>) {
    return {static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(x)) >> 16)};
  } else if constexpr (std::is_same_v<Number, Half>) {
    const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const double magnitude = std::abs(x);
    if (std::isnan(x)) return {0x7E00};
    if (magnitude >= 65536.0) return {static_cast<std::uint16_t>(sign | 0x7C00)};
    if (magnitude < 0x1p-14) {
      return {static_cast<std::uint16_t>(sign | static_cast<int>(magnitude * 0x1p24))};
    }
    int exponent;
    const double fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
    const int bits = static_cast<int>(fraction * 2048.0) - 1024;
    return {static_cast<std::uint16_t>(sign | (exponent + 14) << 10 | bits)};
  } else {
    return static_cast<Number>(x);
  }
}

// Rows with a stride, at an offset in their memory.
template <class Number>
struct Matrix {
  std::size_t rows, columns;
  std::size_t offset, stride;
  std::vector<Number> memory;

  Matrix(std::size_t rows, std::size_t columns, std::size_t offset, std::size_t stride)
      : rows(rows),
        columns(columns),
        offset(offset),
        stride(stride),
        memory(rows == 0 ? offset : offset + (rows - 1) * stride + columns, Number{}) {}

  Number& at(std::size_t row, std::size_t column) { return memory[offset + row * stride + column]; }
  double value(std::size_t row, std::size_t column) const {
    return to_float(memory[offset + row * stride + column]);
  }
  // The same matrix with its memory at `where`.
  Rows<const Number> in(const Number* where) const {
    return {where + offset, rows, columns, static_cast<std::ptrdiff_t>(stride)};
  }
  Rows<const Number> here() const { return in(memory.data()); }
};

// With a random offset and stride: contiguous or not, aligned or not.
template <class Number>
Matrix<Number> random_matrix(std::mt19937& random, std::size_t rows, std::size_t columns) {
  const std::size_t offset = random() % 3 ? 0 : random() % 8;
  const std::size_t stride = random() % 2 ? columns : (columns + 7) / 8 * 8 + random() % 2 * 3;
  return {rows, columns, offset, stride};
}

}  // namespace tokentiming::test
