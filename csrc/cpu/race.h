// What the exponential races of `sample` and `candidates` share: blocks of logits as floats, and
// the threshold that rules out most tokens.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <type_traits>

#include "refuse.h"
#include "simd/dispatch.h"
#include "tokentiming/sample.h"
#include "widen.h"

namespace tokentiming {

// Tokens of a chunk, the unit of work of a thread. It is large enough to outweigh the cost of
// waking a thread, and small enough that one row occupies several threads and that a chunk's keys
// stay in cache from row to row.
inline constexpr std::size_t kRaceChunk = 8192;

// Tokens widened at a time.
inline constexpr std::size_t kRaceBlock = 1024;

// How many tasks of one chunk and one row each a thread takes at a time.
inline std::size_t race_grain(std::size_t keys) {
  return std::max<std::size_t>(1, kRaceChunk / std::max<std::size_t>(1, keys));
}

// A lower bound of the score that a token needs, raised by all threads that race the row.
class RaceThreshold {
 public:
  float value() const { return value_.load(std::memory_order_relaxed); }

  // Rounds down, so that no token that could still win or tie has a bound below it.
  void raise_to(double score) {
    const float rounded =
        std::nextafter(static_cast<float>(score), -std::numeric_limits<float>::infinity());
    float current = value();
    while (current < rounded && !value_.compare_exchange_weak(current, rounded)) {
    }
  }

 private:
  // Finite, so that a score of -inf is always below it.
  std::atomic<float> value_ = std::numeric_limits<float>::lowest();
};

// A block of logits as floats.
template <class Logit>
class FloatBlock {
 public:
  // The logits as floats, rounded up from double: a pointer to them, or a converted copy.
  const float* round_up(const Logit* logits, std::size_t count) {
    if constexpr (std::is_same_v<Logit, float>) {
      return logits;
    } else if constexpr (std::is_same_v<Logit, double>) {
      std::transform(logits, logits + count, widened_.begin(), round_up_one);
    } else if constexpr (std::is_same_v<Logit, Half>) {
      simd::fastest_kernels().float_blocks.widen_half(logits, count, widened_.data());
    } else {
      simd::fastest_kernels().float_blocks.widen_bfloat16(logits, count, widened_.data());
    }
    return widened_.data();
  }

 private:
  static float round_up_one(double logit) {
    const auto rounded = static_cast<float>(logit);
    if (!(double{rounded} < logit)) return rounded;
    return std::nextafter(rounded, std::numeric_limits<float>::infinity());
  }

  std::array<float, std::is_same_v<Logit, float> ? 0 : kRaceBlock> widened_;
};

inline simd::NoiseWords noise_words(const Noise& noise) {
  return {{noise.key()[0], noise.key()[1]}, {noise.byte_offset(), noise.empty_tokens()}};
}

inline void check_states(const char* operation, std::span<const State> states) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 32;
  for (std::size_t r = 0; r < states.size(); ++r) {
    const State& s = states[r];
    if (s.row < 0 || s.byte_offset < 0 || s.byte_offset >= kLimit || s.empty_tokens < 0 ||
        s.empty_tokens >= kLimit) {
      refuse(operation, "states[" + std::to_string(r) + "] is (" + std::to_string(s.row) + ", " +
                            std::to_string(s.byte_offset) + ", " + std::to_string(s.empty_tokens) +
                            "); the row must not be negative, byte offset and empty tokens must be"
                            " in [0, 2^32)");
    }
  }
}

}  // namespace tokentiming
