// Levenshtein distances between byte strings.
#pragma once

#include "device.h"
#include "tokens.cuh"

namespace tokentiming::cuda {

// The first four of some bytes, or as many as there are.
__device__ inline std::uint32_t word_of(const std::uint8_t* bytes, int count) {
  std::uint32_t word = 0;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    if (r < count) word |= std::uint32_t{bytes[r]} << (8 * r);
  }
  return word;
}

// A bit for each of the four bytes in which two words agree.
__device__ inline std::uint32_t equal_bytes(std::uint32_t a, std::uint32_t b) {
  constexpr std::uint32_t kLower = 0x7F7F7F7F;
  const std::uint32_t differing = a ^ b;
  // The upper bit of each byte that has no bit set.
  const std::uint32_t equal = ~(((differing & kLower) + kLower) | differing | kLower);
  return equal * 0x00204081u >> 28;
}

// A column of the edit matrix in one word (Myers, 1999, in Hyyro's form for the distance between
// whole strings, 2003), for a pattern of at most as many bytes as Word has bits, or for a strip of
// a longer one.
//
// `up` and `down` hold, a bit for each byte, whether the matrix grows or shrinks by one from the
// row above to this row in the current column.
template <class Word>
class Column {
 public:
  static constexpr int kLongest = 8 * sizeof(Word);

  __device__ Column(const std::uint8_t* pattern, int size) : size_(size) {
#pragma unroll
    for (int r = 0; r < kLongest; r += 4) {
      fours_[r / 4] = r < size ? word_of(pattern + r, size - r) : 0;
    }
  }

  // Moves on by a byte of text. Takes how the matrix changes along the row above the strip, and
  // returns how it changes along the strip's last row: 1, 0 or -1.
  __device__ int advance(std::uint8_t byte, int above) {
    const Word match = matches(byte) | (above < 0 ? 1 : 0);
    const Word diagonal = (((match & up_) + up_) ^ up_) | match | down_;
    Word right = down_ | ~(diagonal | up_);
    Word left = up_ & diagonal;
    const int last = size_ - 1;
    const int change = static_cast<int>(right >> last & 1) - static_cast<int>(left >> last & 1);
    right = static_cast<Word>(right << 1) | (above > 0 ? 1 : 0);
    left = static_cast<Word>(left << 1) | (above < 0 ? 1 : 0);
    up_ = left | ~(diagonal | right);
    down_ = right & diagonal;
    return change;
  }

 private:
  // A bit for each byte of the pattern that is this one. Bits behind the pattern change none of its
  // own.
  __device__ Word matches(std::uint8_t byte) const {
    Word match = 0;
#pragma unroll
    for (int r = 0; r < kLongest; r += 4) {
      if (r < size_) match |= Word{equal_bytes(fours_[r / 4], byte * 0x01010101u)} << r;
    }
    return match;
  }

  std::uint32_t fours_[kLongest / 4];  // the pattern
  int size_;
  Word up_ = ~Word{0};
  Word down_ = 0;
};

template <class Word>
__device__ inline int distance_by(const DeviceBytes& pattern, const DeviceBytes& text) {
  Column<Word> column(pattern.data, static_cast<int>(pattern.size));
  auto distance = static_cast<int>(pattern.size);
  // The top row of the matrix grows by one with every byte of text.
  for (std::int64_t k = 0; k < text.size; ++k) distance += column.advance(text.data[k], 1);
  return distance;
}

// Whether one lane can tell the distance.
__device__ inline bool is_short(const DeviceBytes& a, const DeviceBytes& b) {
  return (a.size < b.size ? a.size : b.size) <= Column<std::uint64_t>::kLongest;
}

// By each lane for itself; the shorter string is short.
__device__ inline int distance(const DeviceBytes& a, const DeviceBytes& b) {
  const DeviceBytes& pattern = a.size <= b.size ? a : b;
  const DeviceBytes& text = a.size <= b.size ? b : a;
  if (pattern.size == 0) return static_cast<int>(text.size);
  if (pattern.size <= Column<std::uint32_t>::kLongest) {
    return distance_by<std::uint32_t>(pattern, text);
  }
  return distance_by<std::uint64_t>(pattern, text);
}

// Of what a warp can take together.
inline constexpr std::int64_t kLongestByWarp = kWarp * Column<std::uint64_t>::kLongest;

// By the warp's lanes together: each takes a strip of 64 bytes of the pattern, one byte of text
// behind the lane that has the strip above. All lanes get the distance.
__device__ inline int distance_by_warp(const DeviceBytes& pattern, const DeviceBytes& text) {
  constexpr int kStrip = Column<std::uint64_t>::kLongest;
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  const auto pattern_size = static_cast<int>(pattern.size);
  const auto text_size = static_cast<int>(text.size);
  const int strips = (pattern_size + kStrip - 1) / kStrip;
  const int left = pattern_size - lane * kStrip;
  Column<std::uint64_t> column(pattern.data + lane * kStrip, left < kStrip ? left : kStrip);
  int change = 0;
  int distance = pattern_size;
  for (int step = 0; step < text_size + strips - 1; ++step) {
    const int from_above = __shfl_up_sync(kAllLanes, change, 1);
    const int k = step - lane;
    if (lane < strips && k >= 0 && k < text_size) {
      change = column.advance(text.data[k], lane == 0 ? 1 : from_above);
      distance += change;
    }
  }
  return __shfl_sync(kAllLanes, distance, static_cast<unsigned>(strips - 1));
}

}  // namespace tokentiming::cuda
