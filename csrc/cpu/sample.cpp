#include "tokentiming/sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "gain_bounds/gain_bounds.h"
#include "parallel.h"
#include "widen.h"

namespace tokentiming {
namespace {

[[noreturn]] void refuse(const std::string& message) {
  throw std::invalid_argument("sample: " + message);
}

// ---- log E ----
// The standard library's logarithm differs in the last bit from one machine to the next, and a bit
// can change a token. These use +, -, * and / alone, whose results IEEE 754 fixes.

// log((1 + s) / (1 - s)) for |s| <= 1/3, by the odd power series of 2 atanh(s).
double log_ratio(double s) {
  const double square = s * s;
  double sum = 0.0;
  for (int k = 35; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return 2.0 * s * sum;
}

double log_positive(double x) {
  constexpr double kLog2 = 0.693147180559945309417;
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);
  if (mantissa < 0.707106781186547524) {
    mantissa *= 2.0;
    --exponent;
  }
  return exponent * kLog2 + log_ratio((mantissa - 1.0) / (mantissa + 1.0));
}

// ---- the race ----

// A row is raced in chunks of this many tokens: large against a thread's wake-up, small enough for
// one row to occupy several threads, and for a chunk's keys to stay in cache from row to row.
constexpr std::size_t kChunk = 8192;

// Tokens bounded before any of them is looked at again.
constexpr std::size_t kBlock = 256;

struct Leader {
  double score = -std::numeric_limits<double>::infinity();
  std::int64_t id = -1;
  bool invalid = false;  // a logit was NaN or +inf
};

// The race over one chunk. Exact scores are taken only of the few tokens whose upper bound reaches
// the best score so far; a token left out has been proved to lose.
template <class Logit>
class Race {
 public:
  Race(const Noise& noise, GainBounds gain_bounds) : noise_(noise), gain_bounds_(gain_bounds) {}

  Leader run(const Logit* logits, const std::uint64_t* keys, std::size_t begin, std::size_t end) {
    for (std::size_t block = begin; block < end; block += kBlock) {
      const std::size_t count = std::min(kBlock, end - block);
      if (!load(logits + block, count)) continue;
      gain_bounds_(noise_, keys + block, count, gains_.data());
      if (!bound_scores(count)) continue;
      // The most promising token first: after it most others are out of reach.
      const auto promising = static_cast<std::size_t>(
          std::max_element(bounds_.begin(), bounds_.begin() + count) - bounds_.begin());
      enter(promising, keys, block);
      for (std::size_t k = 0; k < count; ++k) {
        if (bounds_[k] >= threshold_) enter(k, keys, block);
      }
    }
    return leader_;
  }

 private:
  // Widens a block of logits; true if one of them could still win given the greatest of gains.
  bool load(const Logit* logits, std::size_t count) {
    constexpr auto kInfinity = std::numeric_limits<Wide<Logit>>::infinity();
    int invalid = 0;
    int reachable = 0;
    for (std::size_t k = 0; k < count; ++k) {
      const auto logit = widen(logits[k]);
      logits_[k] = logit;
      invalid |= !(logit < kInfinity);
      reachable |= logit + kMaxGain >= threshold_;
    }
    leader_.invalid |= invalid != 0;
    return reachable != 0;
  }

  bool bound_scores(std::size_t count) {
    int reachable = 0;
    for (std::size_t k = 0; k < count; ++k) {
      bounds_[k] = logits_[k] + gains_[k];
      reachable |= bounds_[k] >= threshold_;
    }
    return reachable != 0;
  }

  void enter(std::size_t k, const std::uint64_t* keys, std::size_t block) {
    const double score = double{logits_[k]} - noise_.log_exponential(keys[block + k]);
    const auto id = static_cast<std::int64_t>(block + k);
    if (score > leader_.score || (score == leader_.score && id < leader_.id)) {
      leader_.score = score;
      leader_.id = id;
      // Rounded down, so that no bound of a token that could still win or tie falls below it.
      threshold_ = std::max(kLowest, std::nextafter(static_cast<Wide<Logit>>(score),
                                                    -std::numeric_limits<Wide<Logit>>::infinity()));
    }
  }

  // Finite, so that -inf is out of reach from the start.
  static constexpr auto kLowest = std::numeric_limits<Wide<Logit>>::lowest();

  const Noise& noise_;
  GainBounds gain_bounds_;
  Leader leader_;
  Wide<Logit> threshold_ = kLowest;
  std::array<Wide<Logit>, kBlock> logits_;
  std::array<Wide<Logit>, kBlock> bounds_;
  std::array<float, kBlock> gains_;
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

// A double near 0 is fine-grained and a double near 1 is not. So u is used as it stands in the
// lower half, where E is small and decides who wins, and 1 - u, built from the complemented bits,
// in the upper half: both ends keep all the 64 bits can say.
double log_exponential(std::uint64_t bits) {
  constexpr double kScale = 0x1p-64;
  if (bits >> 63 == 0) {
    const double u = (static_cast<double>(bits) + 0.5) * kScale;
    return log_positive(log_ratio(u / (2.0 - u)));  // E = -log(1 - u)
  }
  const double complement = (static_cast<double>(~bits) + 0.5) * kScale;
  return log_positive(-log_positive(complement));
}

Noise::Noise(std::uint64_t seed, const State& state)
    : byte_offset_(static_cast<std::uint32_t>(state.byte_offset)),
      empty_tokens_(static_cast<std::uint32_t>(state.empty_tokens)) {
  const auto row = static_cast<std::uint64_t>(state.row);
  const auto stream =
      philox({static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32), 0, 0},
             {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  key_ = {stream[0], stream[1]};
}

std::uint64_t Noise::bits(std::uint64_t token_key) const {
  const auto words =
      philox({static_cast<std::uint32_t>(token_key), static_cast<std::uint32_t>(token_key >> 32),
              byte_offset_, empty_tokens_},
             key_);
  return std::uint64_t{words[0]} << 32 | words[1];
}

double Noise::log_exponential(std::uint64_t token_key) const {
  return tokentiming::log_exponential(bits(token_key));
}

template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids) {
  if (keys.size() > logits.columns) {
    refuse("keys has " + std::to_string(keys.size()) + " entries, logits only " +
           std::to_string(logits.columns) + " columns");
  }
  if (states.size() != logits.rows) {
    refuse("states has " + std::to_string(states.size()) + " rows, logits has " +
           std::to_string(logits.rows));
  }
  if (ids.size() != logits.rows) {
    refuse("out has " + std::to_string(ids.size()) + " entries, logits has " +
           std::to_string(logits.rows) + " rows");
  }
  check_states("sample", states);

  std::vector<Noise> noise;
  noise.reserve(states.size());
  for (const State& state : states) noise.emplace_back(seed, state);

  const GainBounds gain_bounds = gain_bounds_kernels().front().run;
  const std::size_t chunks = (keys.size() + kChunk - 1) / kChunk;
  std::vector<Leader> leaders(chunks * logits.rows);
  // All rows of a chunk before the next chunk: its keys are read from memory once.
  const std::size_t grain =
      std::max<std::size_t>(1, kChunk / std::max<std::size_t>(1, keys.size()));
  parallel_for(leaders.size(), grain, [&](std::size_t task) {
    const std::size_t begin = task / logits.rows * kChunk;
    const std::size_t row = task % logits.rows;
    Race<Logit> race(noise[row], gain_bounds);
    leaders[task] =
        race.run(logits[row], keys.data(), begin, std::min(begin + kChunk, keys.size()));
  });

  // Chunks in ascending order and a strict comparison: of equal scores the lowest id stays. The
  // first chunk's place collects the winner, so that nothing is written before all rows are judged.
  for (std::size_t row = 0; row < logits.rows; ++row) {
    Leader winner;
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      const Leader& leader = leaders[chunk * logits.rows + row];
      winner.invalid |= leader.invalid;
      if (leader.score > winner.score) winner.score = leader.score, winner.id = leader.id;
    }
    if (winner.invalid) refuse("logits[" + std::to_string(row) + "] holds NaN or +inf");
    if (winner.id < 0) refuse("logits[" + std::to_string(row) + "] has no finite entry to draw");
    leaders[row] = winner;
  }
  for (std::size_t row = 0; row < logits.rows; ++row) ids[row] = leaders[row].id;
}

void log_noise(std::span<const std::uint64_t> keys, std::uint64_t seed,
               std::span<const State> states, std::span<double> noise) {
  if (noise.size() != keys.size() * states.size()) {
    throw std::invalid_argument("log_noise: out must have an entry for every state and key");
  }
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
