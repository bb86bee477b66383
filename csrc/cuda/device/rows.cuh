// Rows of numbers, read eight entries at a time.
#pragma once

#include <bit>
#include <limits>
#include <type_traits>

#include "device.h"
#include "tokentiming/rows.h"
#include "widen.h"

namespace tokentiming::cuda {

// Entries that a thread reads at once: in half precision one load of sixteen bytes.
inline constexpr int kVectorSize = 8;

// kVectorSize entries as they are in memory. Loading is separate from widening, so that several
// loads can be in flight.
template <class Number>
class Vector {
 public:
  // From an aligned address.
  __device__ static Vector load(const Number* from) {
    Vector eight;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const Bytes16 sixteen = load_bytes16(from + part * (kVectorSize / kParts));
#pragma unroll
      for (int w = 0; w < 4; ++w) eight.words_[4 * part + w] = sixteen.words[w];
    }
    return eight;
  }
  // Loads entries from `at` on. Entries before 0 and from `end` on are `padding`.
  __device__ static Vector load(const Number* row, std::int64_t at, std::int64_t end,
                                Number padding) {
    const Number* from = row + at;
    if (at >= 0 && at + kVectorSize <= end && is_aligned(from)) return load(from);
    return load_each(row, at, end, padding);
  }
  // The same, for a row that may begin at any entry: reads the aligned sixteen bytes around the
  // entries and shifts them, unless that would leave the row.
  __device__ static Vector load_shifted(const Number* row, std::int64_t at, std::int64_t end,
                                        Number padding) {
    const auto past = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(row + at) % 16);
    const std::int64_t first = at - static_cast<std::int64_t>(past / sizeof(Number));
    constexpr std::int64_t kRead = (kParts + 1) * (kVectorSize / kParts);
    if (past == 0 || first < 0 || first + kRead > end) return load(row, at, end, padding);
    std::uint32_t words[kWords + 4];
#pragma unroll
    for (int part = 0; part <= kParts; ++part) {
      const Bytes16 sixteen = load_bytes16(row + first + part * (kVectorSize / kParts));
#pragma unroll
      for (int w = 0; w < 4; ++w) words[4 * part + w] = sixteen.words[w];
    }
    // By powers of two, since registers have no index at run time.
    shift_by<2>(words, (past & 8) != 0);
    shift_by<1>(words, (past & 4) != 0);
    const unsigned bits = past % 4 * 8;
    Vector eight;
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const std::uint64_t both = static_cast<std::uint64_t>(words[w + 1]) << 32 | words[w];
      eight.words_[w] = static_cast<std::uint32_t>(both >> bits);
    }
    return eight;
  }
  __device__ static Vector filled(Number entry) {
    Vector eight{};
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) eight.set(k, entry);
    return eight;
  }

  // As 32-bit words, in the order of memory.
  static constexpr int kWords = kVectorSize * sizeof(Number) / sizeof(std::uint32_t);
  __device__ std::uint32_t word(int w) const { return words_[w]; }
  __device__ static Vector of_words(const std::uint32_t* words) {
    Vector eight;
#pragma unroll
    for (int w = 0; w < kWords; ++w) eight.words_[w] = words[w];
    return eight;
  }

  __device__ Number operator[](int k) const {
    if constexpr (sizeof(Number) == 2) {
      return {static_cast<std::uint16_t>(words_[k / 2] >> (k % 2 * 16))};
    } else if constexpr (sizeof(Number) == 4) {
      return std::bit_cast<Number>(words_[k]);
    } else {
      const std::uint64_t high = words_[2 * k + 1];
      return std::bit_cast<Number>(high << 32 | words_[2 * k]);
    }
  }

 private:
  static constexpr int kParts = kVectorSize * sizeof(Number) / sizeof(Bytes16);

  __device__ static Vector load_each(const Number* row, std::int64_t at, std::int64_t end,
                                     Number padding) {
    Vector eight{};
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) {
      eight.set(k, 0 <= at + k && at + k < end ? row[at + k] : padding);
    }
    return eight;
  }
  // Moves the words that follow `count` others to their place, if asked for.
  template <int count>
  __device__ static void shift_by(std::uint32_t (&words)[kWords + 4], bool asked) {
#pragma unroll
    for (int w = 0; w + count < kWords + 4; ++w) words[w] = asked ? words[w + count] : words[w];
  }

  __device__ void set(int k, Number entry) {
    if constexpr (sizeof(Number) == 2) {
      words_[k / 2] |= static_cast<std::uint32_t>(entry.bits) << (k % 2 * 16);
    } else if constexpr (sizeof(Number) == 4) {
      words_[k] = std::bit_cast<std::uint32_t>(entry);
    } else {
      const auto bits = std::bit_cast<std::uint64_t>(entry);
      words_[2 * k] = static_cast<std::uint32_t>(bits);
      words_[2 * k + 1] = static_cast<std::uint32_t>(bits >> 32);
    }
  }

  std::uint32_t words_[kWords];
};

// -inf of any type.
template <class Number>
constexpr Number lowest_logit() {
  if constexpr (std::is_same_v<Number, Half>) {
    return {0xFC00};
  } else if constexpr (std::is_same_v<Number, BFloat16>) {
    return {0xFF80};
  } else {
    return -std::numeric_limits<Number>::infinity();
  }
}

}  // namespace tokentiming::cuda
