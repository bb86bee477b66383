#include "tokentiming/sample.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "exponential.h"
#include "parallel.h"
#include "sample_checks.h"
#include "simd/dispatch.h"
#include "widen.h"

namespace tokentiming {
namespace {

[[noreturn]] void refuse(const std::string& message) { tokentiming::refuse("sample", message); }

// ---- the race ----

// Tokens of a chunk, the unit of work of a thread: large against the cost of waking it, small
// enough that one row occupies several threads and that a chunk's keys stay in cache from row to
// row.
constexpr std::size_t kChunk = 8192;

// Tokens widened at a time.
constexpr std::size_t kBlock = 1024;

struct Best {
  double score = -std::numeric_limits<double>::infinity();
  std::int64_t id = -1;
  bool invalid = false;  // a logit was NaN or +inf
};

// A lower bound of the score of a row's winner, raised by all threads that race the row.
class Threshold {
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
  // Finite, so that -inf never reaches it.
  std::atomic<float> value_ = std::numeric_limits<float>::lowest();
};

// The logit as a float, rounded up if it is no float.
inline float round_up(double logit) {
  const auto rounded = static_cast<float>(logit);
  if (!(double{rounded} < logit)) return rounded;
  return std::nextafter(rounded, std::numeric_limits<float>::infinity());
}

// The race over one chunk. Only the candidates, the few tokens whose upper bound reaches the best
// score so far, are scored exactly: every other token is below that score. When the threads see
// each other's scores changes which tokens are scored, never which token wins.
template <class Logit>
class Race {
 public:
  Race(Noise noise, Threshold& threshold) : noise_(noise), threshold_(threshold) {}

  Best run(const Logit* logits, const std::uint64_t* keys, std::size_t begin, std::size_t end) {
    const simd::FirstCandidate first_candidate = simd::fastest_kernels().first_candidate;
    const simd::NoiseWords words{{noise_.key()[0], noise_.key()[1]},
                                 {noise_.byte_offset(), noise_.empty_tokens()}};
    for (std::size_t block = begin; block < end && !best_.invalid; block += kBlock) {
      const std::size_t count = std::min(kBlock, end - block);
      const float* const bounds = upper_bounds(logits + block, count);
      for (std::size_t k = 0; k < count; ++k) {
        k += first_candidate(words, keys + block + k, bounds + k, count - k, threshold_.value());
        if (k < count) score_token(logits[block + k], keys[block + k], block + k);
      }
    }
    return best_;
  }

 private:
  // A block of logits as floats: a pointer to them, or widened.
  const float* upper_bounds(const Logit* logits, std::size_t count) {
    if constexpr (std::is_same_v<Logit, float>) {
      return logits;
    } else if constexpr (std::is_same_v<Logit, double>) {
      std::transform(logits, logits + count, widened_.begin(), round_up);
    } else if constexpr (std::is_same_v<Logit, Half>) {
      simd::fastest_kernels().float_blocks.widen_half(logits, count, widened_.data());
    } else {
      simd::fastest_kernels().float_blocks.widen_bfloat16(logits, count, widened_.data());
    }
    return widened_.data();
  }

  void score_token(Logit narrow, std::uint64_t key, std::size_t token) {
    const auto logit = widen(narrow);
    if (!(logit < std::numeric_limits<Wide<Logit>>::infinity())) {
      best_.invalid = true;
      return;
    }
    const double score = double{logit} - noise_.log_exponential(key);
    if (score > best_.score) {  // tokens are in order: of equal scores the lowest id stays
      best_.score = score;
      best_.id = static_cast<std::int64_t>(token);
      threshold_.raise_to(score);
    }
  }

  Noise noise_;
  Threshold& threshold_;
  Best best_;
  std::array<float, std::is_same_v<Logit, float> ? 0 : kBlock> widened_;
};

void check_states(const char* operation, std::span<const State> states) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 32;
  for (std::size_t r = 0; r < states.size(); ++r) {
    const State& s = states[r];
    if (s.row < 0 || s.byte_offset < 0 || s.byte_offset >= kLimit || s.empty_tokens < 0 ||
        s.empty_tokens >= kLimit) {
      throw std::invalid_argument(
          std::string(operation) + ": states[" + std::to_string(r) + "] is (" +
          std::to_string(s.row) + ", " + std::to_string(s.byte_offset) + ", " +
          std::to_string(s.empty_tokens) +
          "); the row must not be negative, byte offset and empty tokens must be in [0, 2^32)");
    }
  }
}

}  // namespace

double log_exponential(std::uint64_t bits) { return log_exponential_of(bits); }

Noise::Noise(std::uint64_t seed, const State& state)
    : key_(noise_key(seed, state.row)),
      byte_offset_(static_cast<std::uint32_t>(state.byte_offset)),
      empty_tokens_(static_cast<std::uint32_t>(state.empty_tokens)) {}

std::uint64_t Noise::bits(std::uint64_t token_key) const {
  return noise_bits(key_, token_key, byte_offset_, empty_tokens_);
}

double Noise::log_exponential(std::uint64_t token_key) const {
  return tokentiming::log_exponential(bits(token_key));
}

template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids) {
  check_sample_sizes(logits.rows, logits.columns, keys.size(), states.size(), ids.size());
  check_states("sample", states);

  const std::size_t chunks = (keys.size() + kChunk - 1) / kChunk;
  std::vector<Best> bests(chunks * logits.rows);
  std::vector<Threshold> thresholds(logits.rows);
  // All rows of a chunk come before the next chunk, so that its keys are read from memory once.
  const std::size_t grain =
      std::max<std::size_t>(1, kChunk / std::max<std::size_t>(1, keys.size()));
  parallel_for(bests.size(), grain, [&](std::size_t task) {
    const std::size_t begin = task / logits.rows * kChunk;
    const std::size_t row = task % logits.rows;
    Race<Logit> race(Noise(seed, states[row]), thresholds[row]);
    bests[task] = race.run(logits[row], keys.data(), begin, std::min(begin + kChunk, keys.size()));
  });

  // Chunks in ascending order and a strict comparison: of equal scores the lowest id stays. The
  // winners are kept in the first chunk's entries, so that no id is written before all rows are
  // checked.
  for (std::size_t row = 0; row < logits.rows; ++row) {
    Best winner;
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      const Best& best = bests[chunk * logits.rows + row];
      winner.invalid |= best.invalid;
      if (best.score > winner.score) winner.score = best.score, winner.id = best.id;
    }
    if (winner.invalid) refuse("logits[" + std::to_string(row) + "] holds NaN or +inf");
    if (winner.id < 0) refuse("logits[" + std::to_string(row) + "] has no finite entry to draw");
    bests[row] = winner;
  }
  for (std::size_t row = 0; row < logits.rows; ++row) ids[row] = bests[row].id;
}

void log_noise(std::span<const std::uint64_t> keys, std::uint64_t seed,
               std::span<const State> states, std::span<double> noise) {
  check_noise_size(keys.size(), states.size(), noise.size());
  check_states("log_noise", states);
  for (std::size_t r = 0; r < states.size(); ++r) {
    const Noise at_state(seed, states[r]);
    for (std::size_t v = 0; v < keys.size(); ++v) {
      noise[r * keys.size() + v] = at_state.log_exponential(keys[v]);
    }
  }
}

template void sample(const Rows<const Half>&, std::span<const std::uint64_t>, std::uint64_t,
                     std::span<const State>, std::span<std::int64_t>);
template void sample(const Rows<const BFloat16>&, std::span<const std::uint64_t>, std::uint64_t,
                     std::span<const State>, std::span<std::int64_t>);
template void sample(const Rows<const float>&, std::span<const std::uint64_t>, std::uint64_t,
                     std::span<const State>, std::span<std::int64_t>);
template void sample(const Rows<const double>&, std::span<const std::uint64_t>, std::uint64_t,
                     std::span<const State>, std::span<std::int64_t>);

}  // namespace tokentiming
