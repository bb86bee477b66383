// Levenshtein distances between byte strings, bit-parallel: Myers, 1999, in Hyyro's form for the
// distance between whole strings, 2003. csrc/cpu/levenshtein.h explains the names Peq, VP, VN, HP,
// HN, D0 and Score.
#pragma once

#include "device.h"
#include "tokens.cuh"

namespace tokentiming::cuda {

// The first `count` bytes in one word, at most four.
__device__ inline std::uint32_t pack_bytes(const std::uint8_t* bytes, int count) {
  std::uint32_t word = 0;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    if (r < count) word |= std::uint32_t{bytes[r]} << (8 * r);
  }
  return word;
}

// One bit for each of the four bytes in which two words agree.
__device__ inline std::uint32_t equal_bytes(std::uint32_t a, std::uint32_t b) {
  constexpr std::uint32_t kLower = 0x7F7F7F7F;
  const std::uint32_t different = a ^ b;
  // The upper bit of each byte that has no bit set.
  const std::uint32_t equal = ~(((different & kLower) + kLower) | different | kLower);
  return equal * 0x00204081u >> 28;
}

// One block of the edit matrix in the sense of Myers, part "the block-based algorithm": the bits of
// one word, for a pattern of at most as many bytes as Word has bits, or for one block of a longer
// pattern.
template <class Word>
class MyersBlock {
 public:
  static constexpr int kMaxBytes = 8 * sizeof(Word);

  __device__ MyersBlock(const std::uint8_t* pattern, int size) : size_(size) {
#pragma unroll
    for (int r = 0; r < kMaxBytes; r += 4) {
      pattern_[r / 4] = r < size ? pack_bytes(pattern + r, size - r) : 0;
    }
  }

  // Advances by one byte of text. `h_in` is the horizontal difference, 1, 0 or -1, along the row
  // above the block; the result is the one along the block's last row.
  __device__ int advance(std::uint8_t byte, int h_in) {
    const Word Eq = Peq(byte) | (h_in < 0 ? 1 : 0);
    const Word D0 = (((Eq & VP_) + VP_) ^ VP_) | Eq | VN_;
    Word HP = VN_ | ~(D0 | VP_);
    Word HN = VP_ & D0;
    const int last_row = size_ - 1;
    const int h_out = static_cast<int>(HP >> last_row & 1) - static_cast<int>(HN >> last_row & 1);
    HP = static_cast<Word>(HP << 1) | (h_in > 0 ? 1 : 0);
    HN = static_cast<Word>(HN << 1) | (h_in < 0 ? 1 : 0);
    VP_ = HN | ~(D0 | HP);
    VN_ = HP & D0;
    return h_out;
  }

 private:
  // Computed rather than looked up: a table for each thread would not fit. Bits past the pattern
  // do not change the pattern's own bits.
  __device__ Word Peq(std::uint8_t byte) const {
    Word bits = 0;
#pragma unroll
    for (int r = 0; r < kMaxBytes; r += 4) {
      if (r < size_) bits |= Word{equal_bytes(pattern_[r / 4], byte * 0x01010101u)} << r;
    }
    return bits;
  }

  std::uint32_t pattern_[kMaxBytes / 4];
  int size_;
  Word VP_ = ~Word{0};
  Word VN_ = 0;
};

template <class Word>
__device__ inline int single_block_distance(const DeviceBytes& pattern, const DeviceBytes& text) {
  MyersBlock<Word> block(pattern.data, static_cast<int>(pattern.size));
  auto Score = static_cast<int>(pattern.size);
  // Row 0 grows by one with every byte of text.
  for (std::int64_t k = 0; k < text.size; ++k) Score += block.advance(text.data[k], 1);
  return Score;
}

// Whether the shorter string fits one block, so that one lane computes the distance.
__device__ inline bool fits_lane(const DeviceBytes& a, const DeviceBytes& b) {
  return (a.size < b.size ? a.size : b.size) <= MyersBlock<std::uint64_t>::kMaxBytes;
}

// Computed by one lane. Needs fits_lane(a, b).
__device__ inline int lane_distance(const DeviceBytes& a, const DeviceBytes& b) {
  const DeviceBytes& pattern = a.size <= b.size ? a : b;
  const DeviceBytes& text = a.size <= b.size ? b : a;
  if (pattern.size == 0) return static_cast<int>(text.size);
  if (pattern.size <= MyersBlock<std::uint32_t>::kMaxBytes) {
    return single_block_distance<std::uint32_t>(pattern, text);
  }
  return single_block_distance<std::uint64_t>(pattern, text);
}

// The longest pattern that warp_distance takes.
inline constexpr std::int64_t kMaxWarpPatternBytes = kWarp * MyersBlock<std::uint64_t>::kMaxBytes;

// Computed by all lanes of a warp together: lane l has block l of the pattern, 64 bytes, and is one
// byte of text behind lane l - 1. All lanes return the distance.
__device__ inline int warp_distance(const DeviceBytes& pattern, const DeviceBytes& text) {
  constexpr int kBlockBytes = MyersBlock<std::uint64_t>::kMaxBytes;
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  const auto pattern_size = static_cast<int>(pattern.size);
  const auto text_size = static_cast<int>(text.size);
  const int blocks = (pattern_size + kBlockBytes - 1) / kBlockBytes;
  const int size = pattern_size - lane * kBlockBytes;
  MyersBlock<std::uint64_t> block(pattern.data + lane * kBlockBytes,
                                  size < kBlockBytes ? size : kBlockBytes);
  int h_out = 0;
  int Score = pattern_size;
  for (int step = 0; step < text_size + blocks - 1; ++step) {
    const int h_above = __shfl_up_sync(kAllLanes, h_out, 1);
    const int k = step - lane;
    if (lane < blocks && k >= 0 && k < text_size) {
      h_out = block.advance(text.data[k], lane == 0 ? 1 : h_above);
      Score += h_out;
    }
  }
  return __shfl_sync(kAllLanes, Score, static_cast<unsigned>(blocks - 1));
}

}  // namespace tokentiming::cuda
