// Shared by the races of `sample` and `candidates`: noise of a row, upper bounds of scores,
// thresholds, and the division of work among blocks.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "exponential.h"
#include "launch.h"
#include "race_bound.h"
#include "rows.cuh"
#include "tokentiming/sample.h"

namespace tokentiming::cuda {

inline constexpr unsigned kRaceThreads = 256;
inline constexpr unsigned kRaceWarps = kRaceThreads / kWarp;
inline constexpr int kMaxRowsPerBlock = 8;
static_assert(kMaxRowsPerBlock <= kWarp);
inline constexpr std::int64_t kRaceTile = kRaceThreads * kVectorSize;  // tokens per iteration

// A float as an unsigned number in the same order, for atomicMax. 0 is below every float.
__device__ inline unsigned to_ordered(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float from_ordered(unsigned bits) {
  constexpr float kLowest = std::numeric_limits<float>::lowest();  // finite: -inf never reaches it
  const float x =
      std::bit_cast<float>(bits >> 31 ? bits & 0x7FFFFFFFu : ~static_cast<std::uint32_t>(bits));
  return x > kLowest ? x : kLowest;
}

__device__ inline bool is_state(const State& s) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 32;
  return s.row >= 0 && s.byte_offset >= 0 && s.byte_offset < kLimit && s.empty_tokens >= 0 &&
         s.empty_tokens < kLimit;
}

// The noise of one row.
struct RowNoise {
  Philox::Key key;
  std::uint32_t byte_offset;
  std::uint32_t empty_tokens;

  __device__ static RowNoise at(std::uint64_t seed, const State& state) {
    return {noise_key(seed, state.row), static_cast<std::uint32_t>(state.byte_offset),
            static_cast<std::uint32_t>(state.empty_tokens)};
  }
  __device__ std::uint64_t bits(std::uint64_t token_key) const {
    return noise_bits(key, token_key, byte_offset, empty_tokens);
  }
};

// The logit as a float, rounded up.
template <class Logit>
__device__ inline float round_up(Logit logit) {
  if constexpr (std::is_same_v<Logit, double>) {
    return __double2float_ru(logit);
  } else {
    return widen(logit);
  }
}

// An upper bound of the score. NaN stays NaN.
template <class Logit>
__device__ inline float score_bound(Logit logit, std::uint64_t noise_bits) {
  const auto w = static_cast<float>(noise_bits >> 40);
  const auto bits = static_cast<float>(std::bit_cast<std::int32_t>(w));
  const float gain = kBoundOffset - kBoundSlope * bits;
  return __fadd_ru(round_up(logit), gain);
}

__device__ inline void load_keys(const std::uint64_t* keys, std::int64_t at, std::int64_t end,
                                 std::uint64_t (&loaded)[kVectorSize]) {
  const auto vector = Vector<std::uint64_t>::load(keys, at, end, 0);
#pragma unroll
  for (int k = 0; k < kVectorSize; ++k) loaded[k] = vector[k];
}

// ---- host ----

inline std::size_t race_blocks(std::size_t keys, std::size_t tokens_per_block) {
  return std::max<std::size_t>(1, (keys + tokens_per_block - 1) / tokens_per_block);
}

// How blocks divide rows and tokens.
struct RaceGrid {
  std::size_t rows_per_block;
  std::size_t tokens_per_block;
  std::size_t groups;  // of rows
  std::size_t blocks;  // along the vocabulary

  // A block takes as many rows as possible while there are enough blocks to occupy every
  // multiprocessor. It takes two tiles if there would be twice as many blocks.
  static RaceGrid of(const char* operation, std::size_t rows, std::size_t keys, int device) {
    const std::size_t min_blocks = 4 * multiprocessors(operation, device);
    const auto all_blocks = [&](std::size_t rows_per_block, std::size_t tokens_per_block) {
      return (rows + rows_per_block - 1) / rows_per_block * race_blocks(keys, tokens_per_block);
    };
    std::size_t rows_per_block = kMaxRowsPerBlock;
    while (rows_per_block > 1 && all_blocks(rows_per_block, kRaceTile) < min_blocks) {
      rows_per_block /= 2;
    }
    std::size_t tokens_per_block = kRaceTile;
    if (all_blocks(rows_per_block, 2 * tokens_per_block) >= 2 * min_blocks) tokens_per_block *= 2;
    return {rows_per_block, tokens_per_block, (rows + rows_per_block - 1) / rows_per_block,
            race_blocks(keys, tokens_per_block)};
  }

  // The blocks of one tile start together: they share its keys in the cache, and the blocks of the
  // next tile start with higher thresholds. Rows go along x, which may have 2^31 - 1 blocks; y may
  // have 65535.
  Grid with(std::size_t shared_bytes) const {
    return {static_cast<unsigned>(groups), static_cast<unsigned>(blocks), kRaceThreads,
            shared_bytes};
  }
};

}  // namespace tokentiming::cuda
