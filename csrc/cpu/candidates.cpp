#include "tokentiming/candidates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "candidate_list.h"
#include "parallel.h"
#include "race.h"
#include "race_term.h"
#include "sample_checks.h"
#include "simd/dispatch.h"
#include "widen.h"

namespace tokentiming {
namespace {

constexpr const char* kCandidates = "candidates";

constexpr auto kExp = [](double x) { return std::exp(x); };

// The best tokens of a row so far, best first. All threads that race the row add to them.
class Leaders {
 public:
  // A lower bound of the score that a token needs.
  float threshold() const { return threshold_.value(); }

  // The result does not depend on the order in which tokens are added.
  void add(const Candidate& token, std::size_t count) {
    const std::lock_guard lock(mutex_);
    if (!token.before(entries_[count - 1])) return;
    std::size_t at = count - 1;
    for (; at > 0 && token.before(entries_[at - 1]); --at) entries_[at] = entries_[at - 1];
    entries_[at] = token;
    threshold_.raise_to(entries_[count - 1].score);  // -inf before there are enough tokens
  }

  // Called after all threads are done.
  const Candidate& operator[](std::size_t k) const { return entries_[k]; }

 private:
  std::mutex mutex_;
  std::array<Candidate, kMaxCandidates> entries_;
  RaceThreshold threshold_;
};

// What one chunk adds to the sum over its row.
struct ChunkTotal {
  RaceTotal total;
  bool invalid = false;  // a logit was NaN or +inf
};

// The race over one chunk, block by block: upper words of the noise, the sum of all terms in single
// precision, then the ranking. Only the few tokens whose upper bound reaches the threshold are
// scored exactly: `count` tokens have scores above those of all others. The time at which threads
// see each other's thresholds affects which tokens are scored, but not which lead.
template <class Logit>
class Race {
 public:
  Race(const Noise& noise, Leaders& leaders, std::size_t count)
      : noise_(noise), leaders_(leaders), count_(count) {}

  ChunkTotal run(const Logit* logits, const std::uint64_t* keys, std::size_t begin,
                 std::size_t end) {
    for (std::size_t block = begin; block < end && !chunk_.invalid; block += kRaceBlock) {
      run_block(logits + block, keys + block, block, std::min(kRaceBlock, end - block));
    }
    return chunk_;
  }

 private:
  void run_block(const Logit* logits, const std::uint64_t* keys, std::size_t first,
                 std::size_t size) {
    const float* const bounds = block_.round_up(logits, size);
    kernels_.upper_words(noise_words(noise_), keys, size, words_.data());
    add_terms(logits, bounds, keys, size);
    if (chunk_.invalid) return;
    for (std::size_t k = 0; k < size; ++k) {
      k += kernels_.first_reaching(words_.data() + k, bounds + k, size - k, leaders_.threshold());
      if (k == size) return;
      const double score = double{widen(logits[k])} - noise_.log_exponential(keys[k]);
      leaders_.add({score, static_cast<std::int64_t>(first + k)}, count_);
    }
  }

  void add_terms(const Logit* logits, const float* bounds, const std::uint64_t* keys,
                 std::size_t size) {
    if constexpr (std::is_same_v<Logit, double>) {
      const double maximum = kernels_.double_blocks.maximum(logits, size);
      chunk_.invalid |= maximum == std::numeric_limits<double>::infinity();
      if (!std::isfinite(maximum)) return;
      std::array<float, kRaceBlock> below;  // a float is accurate enough for the difference
      std::transform(logits, logits + size, below.begin(),
                     [&](double logit) { return static_cast<float>(logit - maximum); });
      add_floats(below.data(), keys, size, maximum);
    } else {
      add_floats(bounds, keys, size, 0.0);
    }
  }

  // The same for logits less `shift`.
  void add_floats(const float* logits, const std::uint64_t* keys, std::size_t size, double shift) {
    const simd::RaceSum block = kernels_.race_sum(words_.data(), logits, size);
    chunk_.invalid |= std::isnan(block.sum);
    if (block.maximum == -std::numeric_limits<float>::infinity()) return;
    const double correction = block.inaccurate ? correction_of(logits, keys, size, block) : 0.0;
    chunk_.total.add({double{block.maximum} + shift, block.sum + correction}, kExp);
  }

  // Corrects the terms of words that need all bits, which few blocks have.
  double correction_of(const float* logits, const std::uint64_t* keys, std::size_t size,
                       const simd::RaceSum& block) const {
    double correction = 0.0;
    for (std::size_t k = 0; k < size; ++k) {
      if (!needs_all_bits(words_[k])) continue;
      constexpr float kZero = 0.0f;
      const double inaccurate = kernels_.race_sum(&words_[k], &kZero, 1).sum;
      const double exact = std::exp(-noise_.log_exponential(keys[k]));
      correction += std::exp(double{logits[k]} - double{block.maximum}) * (exact - inaccurate);
    }
    return correction;
  }

  const simd::Kernels& kernels_ = simd::fastest_kernels();
  Noise noise_;
  Leaders& leaders_;
  std::size_t count_;
  ChunkTotal chunk_;
  FloatBlock<Logit> block_;
  std::array<std::uint32_t, kRaceBlock> words_;
};

}  // namespace

template <class Logit>
void candidates(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
                std::uint64_t seed, std::span<const State> states, const Candidates& out) {
  check_candidates_sizes(logits, keys.size(), states.size(), out);
  check_states(kCandidates, states);
  const std::size_t count = out.ids.columns;

  const std::size_t chunks = (keys.size() + kRaceChunk - 1) / kRaceChunk;
  std::vector<ChunkTotal> of_chunks(chunks * logits.rows);
  std::vector<Leaders> leaders(logits.rows);
  // All rows of a chunk come before the next chunk, so that its keys are read from memory once.
  parallel_for(of_chunks.size(), race_grain(keys.size()), [&](std::size_t task) {
    const std::size_t begin = task / logits.rows * kRaceChunk;
    const std::size_t row = task % logits.rows;
    Race<Logit> race(Noise(seed, states[row]), leaders[row], count);
    const std::size_t end = std::min(begin + kRaceChunk, keys.size());
    of_chunks[task] = race.run(logits[row], keys.data(), begin, end);
  });

  // Chunks in ascending order, so that sums do not depend on the threads. Nothing is written before
  // all rows are checked.
  std::vector<RaceTotal> totals(logits.rows);
  for (std::size_t row = 0; row < logits.rows; ++row) {
    const std::string name = "logits[" + std::to_string(row) + "]";
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      const ChunkTotal& part = of_chunks[chunk * logits.rows + row];
      if (part.invalid) refuse(kCandidates, name + " holds NaN or +inf");
      totals[row].add(part.total, kExp);
    }
    if (leaders[row][0].id < 0) refuse(kCandidates, name + " has no finite entry to draw");
  }
  for (std::size_t row = 0; row < logits.rows; ++row) {
    const Noise noise(seed, states[row]);
    const auto share = [&](std::int64_t id) {
      if (id < 0) return 0.0f;
      const double log_exponential = noise.log_exponential(keys[static_cast<std::size_t>(id)]);
      return totals[row].share(double{widen(logits[row][id])}, log_exponential, kExp);
    };
    for (std::size_t k = 0; k < count; ++k) {
      out.ids[row][k] = leaders[row][k].id;
      out.shares[row][k] = share(out.ids[row][k]);
    }
  }
}

#define TOKENTIMING_CANDIDATES(Logit)                                                \
  template void candidates(const Rows<const Logit>&, std::span<const std::uint64_t>, \
                           std::uint64_t, std::span<const State>, const Candidates&)
TOKENTIMING_CANDIDATES(Half);
TOKENTIMING_CANDIDATES(BFloat16);
TOKENTIMING_CANDIDATES(float);
TOKENTIMING_CANDIDATES(double);
#undef TOKENTIMING_CANDIDATES

}  // namespace tokentiming
