#include "tokentiming/sample.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "exponential.h"
#include "parallel.h"
#include "race.h"
#include "sample_checks.h"
#include "simd/dispatch.h"
#include "widen.h"

namespace tokentiming {
namespace {

[[noreturn]] void refuse(const std::string& message) { tokentiming::refuse("sample", message); }

// ---- the race ----

struct Best {
  double score = -std::numeric_limits<double>::infinity();
  std::int64_t id = -1;
  bool invalid = false;  // a logit was NaN or +inf
};

// The race over one chunk. Only the candidates, the few tokens whose upper bound reaches the best
// score so far, are scored exactly: every other token is below that score. The time at which
// threads see each other's scores affects which tokens are scored, but not which token wins.
template <class Logit>
class Race {
 public:
  Race(Noise noise, RaceThreshold& threshold) : noise_(noise), threshold_(threshold) {}

  Best run(const Logit* logits, const std::uint64_t* keys, std::size_t begin, std::size_t end) {
    const simd::FirstCandidate first_candidate = simd::fastest_kernels().first_candidate;
    const simd::NoiseWords words = noise_words(noise_);
    for (std::size_t block = begin; block < end && !best_.invalid; block += kRaceBlock) {
      const std::size_t count = std::min(kRaceBlock, end - block);
      const float* const bounds = block_.round_up(logits + block, count);
      for (std::size_t k = 0; k < count; ++k) {
        k += first_candidate(words, keys + block + k, bounds + k, count - k, threshold_.value());
        if (k < count) score_token(logits[block + k], keys[block + k], block + k);
      }
    }
    return best_;
  }

 private:
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
  RaceThreshold& threshold_;
  Best best_;
  FloatBlock<Logit> block_;
};

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

  const std::size_t chunks = (keys.size() + kRaceChunk - 1) / kRaceChunk;
  std::vector<Best> bests(chunks * logits.rows);
  std::vector<RaceThreshold> thresholds(logits.rows);
  // All rows of a chunk come before the next chunk, so that its keys are read from memory once.
  parallel_for(bests.size(), race_grain(keys.size()), [&](std::size_t task) {
    const std::size_t begin = task / logits.rows * kRaceChunk;
    const std::size_t row = task % logits.rows;
    Race<Logit> race(Noise(seed, states[row]), thresholds[row]);
    bests[task] =
        race.run(logits[row], keys.data(), begin, std::min(begin + kRaceChunk, keys.size()));
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
