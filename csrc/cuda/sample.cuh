// The exponential race in one pass over the logits.
//
// A block races a stretch of the vocabulary for several rows, so that the keys are read once for
// all of them. Every token's score gets an upper bound in float; the few that reach the best score
// so far are scored in double, as on the CPU. What the best score so far is depends on how the
// blocks run, and changes which tokens are left out, never who wins: a token left out is below it.
//
// Instructions a logit: Philox takes 2 multiplications of 32 by 32 to 64 bits and 2 exclusive ors
// of three words in each of 10 rounds, less 1 of either at the first round (one product is the
// row's own) and at the last (one word is asked for): 36, and its round keys 20 additions for eight
// tokens. The bound takes 6 more: shift, two conversions, multiplication, subtraction, addition;
// comparison and mask 2, widening 1. These 48 are what bounds the operation, not memory: a
// half-precision logit is 2 bytes.
#pragma once

#include <limits>

#include "exponential.h"
#include "race_bound.h"
#include "rows.cuh"
#include "tokentiming/sample.h"

namespace tokentiming::cuda {

inline constexpr unsigned kRaceThreads = 256;
inline constexpr unsigned kRaceWarps = kRaceThreads / kWarp;
inline constexpr int kMaxRowsPerBlock = 8;  // at most, side by side in a block
static_assert(kMaxRowsPerBlock <= kWarp);
inline constexpr std::int64_t kRaceTile =
    kRaceThreads * kVectorSize;  // tokens a block takes at once

// The best token so far. Without any the id is -1, and the score -inf; an invalid row has the id -1
// and the score +inf.
struct Best {
  double score;
  std::int64_t id;

  static constexpr Best none() { return {-std::numeric_limits<double>::infinity(), -1}; }
  static constexpr Best invalid() { return {std::numeric_limits<double>::infinity(), -1}; }
  // Of equal scores the lowest id is ahead.
  constexpr bool worse_than(const Best& other) const {
    return score < other.score || (score == other.score && id > other.id);
  }
};

__device__ inline Best warp_best(Best mine) {
#pragma unroll
  for (unsigned other = kWarp / 2; other > 0; other /= 2) {
    const Best theirs{__shfl_xor_sync(kAllLanes, mine.score, other),
                      __shfl_xor_sync(kAllLanes, mine.id, other)};
    if (mine.worse_than(theirs)) mine = theirs;
  }
  return mine;
}

// Floats in the order of unsigned numbers; 0 stands for none.
__device__ inline unsigned to_ordered(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float from_ordered(unsigned bits) {
  constexpr float kLowest = std::numeric_limits<float>::lowest();  // finite: -inf is out of reach
  const float x =
      std::bit_cast<float>(bits >> 31 ? bits & 0x7FFFFFFFu : ~static_cast<std::uint32_t>(bits));
  return x > kLowest ? x : kLowest;
}

struct RowNoise {
  Philox::Key key;
  std::uint32_t byte_offset;
  std::uint32_t empty_tokens;
};

template <class Logit>
struct RaceArguments {
  Rows<const Logit> logits;
  const std::uint64_t* keys;
  std::int64_t count;  // of keys
  std::uint64_t seed;
  const State* states;
  std::int64_t* ids;
  int rows_per_block;
  std::int64_t tokens_per_block;  // tokens a block
  unsigned* thresholds;           // of each row, ordered
  unsigned* finished_blocks;      // blocks of each group of rows
  Best* bests;                    // of each stretch and row
};

struct RaceShared {
  RowNoise noise[kMaxRowsPerBlock];
  Best bests[kRaceWarps][kMaxRowsPerBlock];
  bool last;
};

__device__ inline bool is_state(const State& s) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 32;
  return s.row >= 0 && s.byte_offset >= 0 && s.byte_offset < kLimit && s.empty_tokens >= 0 &&
         s.empty_tokens < kLimit;
}

template <class Logit>
class Race {
 public:
  __device__ Race(const RaceArguments<Logit>& a, RaceShared& shared)
      : a_(a),
        shared_(shared),
        first_row_(static_cast<std::int64_t>(blockIdx.x) * a.rows_per_block),
        rows_(rows_in_group()),
        begin_(static_cast<std::int64_t>(blockIdx.y) * a.tokens_per_block),
        end_(begin_ + a.tokens_per_block < a.count ? begin_ + a.tokens_per_block : a.count) {}

  __device__ void run() {
    load_noise();
    const std::int64_t lane_start = static_cast<std::int64_t>(threadIdx.x) * kVectorSize;
    const std::int64_t warp_start = lane_start / (kWarp * kVectorSize) * (kWarp * kVectorSize);
    for (std::int64_t step = begin_; step + warp_start < end_; step += kRaceTile) {
      race(step + lane_start);
    }
    reduce_best();
  }

 private:
  __device__ int rows_in_group() const {
    const std::int64_t left = static_cast<std::int64_t>(a_.logits.rows) - first_row_;
    return left < a_.rows_per_block ? static_cast<int>(left) : a_.rows_per_block;
  }

  __device__ void load_noise() {
    const auto row = static_cast<int>(threadIdx.x);
    if (row < rows_) {
      const State state = a_.states[first_row_ + row];
      shared_.noise[row] = {noise_key(a_.seed, state.row),
                            static_cast<std::uint32_t>(state.byte_offset),
                            static_cast<std::uint32_t>(state.empty_tokens)};
    }
    if (threadIdx.x < kRaceWarps * kMaxRowsPerBlock) {
      shared_.bests[threadIdx.x / kMaxRowsPerBlock][threadIdx.x % kMaxRowsPerBlock] = Best::none();
    }
    __syncthreads();
  }

  // Races this lane's eight tokens from `at` on for every row. Warps begin at different rows:
  // who comes to a row after others finds its threshold raised, and has few tokens to score.
  __device__ void race(std::int64_t at) {
    std::uint64_t keys[kVectorSize];
    load_keys(at, keys);
    int next_row =
        static_cast<int>((blockIdx.y + threadIdx.x / kWarp) % static_cast<unsigned>(rows_));
    auto next = logits_of(next_row, at);
    for (int turn = 0; turn < rows_; ++turn) {
      const int row = next_row;
      const auto logits = next;
      next_row = row + 1 < rows_ ? row + 1 : 0;
      float threshold = from_ordered(__ldcg(a_.thresholds + first_row_ + row));
      if (turn + 1 < rows_) next = logits_of(next_row, at);
      unsigned left = candidates(keys, logits, row, threshold);
      // Each lane scores one of its tokens at a time; then few are left that reach the best.
      while (__any_sync(kAllLanes, left != 0)) {
        Best candidate = Best::none();
        if (left != 0) {
          candidate = score(row, at + __ffs(left) - 1);
          left &= left - 1;
        }
        candidate = warp_best(candidate);
        const float below = __double2float_rd(candidate.score);
        if (below > threshold) threshold = below;
        if (threadIdx.x % kWarp == 0) update_best(row, candidate, threshold);
        left &= candidates(keys, logits, row, threshold);
      }
    }
  }

  __device__ void load_keys(std::int64_t at, std::uint64_t (&keys)[kVectorSize]) const {
    const auto vector = Vector<std::uint64_t>::load(a_.keys, at, end_, 0);
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) keys[k] = vector[k];
  }

  __device__ Vector<Logit> logits_of(int row, std::int64_t at) const {
    return Vector<Logit>::load(a_.logits[static_cast<std::size_t>(first_row_ + row)], at, end_,
                               lowest_logit<Logit>());
  }

  // A float that is not below the logit.
  __device__ static float round_up(Logit logit) {
    if constexpr (std::is_same_v<Logit, double>) {
      return __double2float_ru(logit);
    } else {
      return widen(logit);
    }
  }

  // A bit for each token whose bound is not below the threshold; that of NaN never is.
  __device__ unsigned candidates(const std::uint64_t (&keys)[kVectorSize],
                                 const Vector<Logit>& logits, int row, float threshold) const {
    const RowNoise noise = shared_.noise[row];
    unsigned mask = 0;
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) {
      const auto w = static_cast<float>(
          noise_bits(noise.key, keys[k], noise.byte_offset, noise.empty_tokens) >> 40);
      const auto bits = static_cast<float>(std::bit_cast<std::int32_t>(w));
      const float gain = kBoundOffset - kBoundSlope * bits;
      if (!(__fadd_ru(round_up(logits[k]), gain) < threshold)) mask |= 1u << k;
    }
    return mask;
  }

  __device__ Best score(int row, std::int64_t token) const {
    const auto logit = widen(a_.logits[static_cast<std::size_t>(first_row_ + row)][token]);
    if (!(logit < std::numeric_limits<Wide<Logit>>::infinity())) return Best::invalid();
    const RowNoise noise = shared_.noise[row];
    const std::uint64_t bits =
        noise_bits(noise.key, a_.keys[token], noise.byte_offset, noise.empty_tokens);
    return {static_cast<double>(logit) - log_exponential_of(bits), token};
  }

  __device__ void update_best(int row, const Best& candidate, float threshold) {
    Best& best = shared_.bests[threadIdx.x / kWarp][row];
    if (!best.worse_than(candidate)) return;
    best = candidate;
    atomicMax(a_.thresholds + first_row_ + row, to_ordered(threshold));
  }

  __device__ Best block_best(int row) const {
    Best best = shared_.bests[0][row];
    for (unsigned warp = 1; warp < kRaceWarps; ++warp) {
      if (best.worse_than(shared_.bests[warp][row])) best = shared_.bests[warp][row];
    }
    return best;
  }

  // The warps' leaders of a row into one; the last block of a group, into the winner. One warp has
  // all rows.
  __device__ void reduce_best() {
    __syncthreads();
    const auto row = static_cast<int>(threadIdx.x);
    const auto all_rows = static_cast<std::int64_t>(a_.logits.rows);
    if (threadIdx.x < kWarp) {
      if (row < rows_) a_.bests[blockIdx.y * all_rows + first_row_ + row] = block_best(row);
      __syncwarp();
      if (threadIdx.x == 0) {
        __threadfence();  // behind the barrier, so that it publishes what all lanes have written
        shared_.last = atomicAdd(a_.finished_blocks + blockIdx.x, 1) == gridDim.y - 1;
        __threadfence();
      }
    }
    __syncthreads();
    if (!shared_.last || row >= rows_) return;
    Best best = Best::none();
    for (unsigned block = 0; block < gridDim.y; ++block) {
      const Best* block_best = a_.bests + block * all_rows + first_row_ + row;
      const Best theirs{__ldcg(&block_best->score), __ldcg(&block_best->id)};
      if (best.worse_than(theirs)) best = theirs;
    }
    a_.ids[first_row_ + row] = is_state(a_.states[first_row_ + row]) ? best.id : -1;
  }

  const RaceArguments<Logit>& a_;
  RaceShared& shared_;
  std::int64_t first_row_;
  int rows_;
  std::int64_t begin_;
  std::int64_t end_;
};

template <class Logit>
__global__ void __launch_bounds__(kRaceThreads, sizeof(Logit) == 2 ? 3 : 2)
    race(const __grid_constant__ RaceArguments<Logit> arguments) {
  Race<Logit>(arguments, shared_memory<RaceShared>()).run();
}

// ---- the noise itself, an entry a thread ----

struct NoiseArguments {
  const std::uint64_t* keys;
  std::int64_t count;  // of keys
  std::uint64_t seed;
  const State* states;
  double* noise;
  std::int64_t size;  // of noise
};

inline constexpr unsigned kNoiseThreads = 128;

__global__ void __launch_bounds__(kNoiseThreads)
    write_noise(const __grid_constant__ NoiseArguments a) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kNoiseThreads + threadIdx.x;
  if (at >= a.size) return;
  const State state = a.states[at / a.count];
  a.noise[at] =
      is_state(state)
          ? log_exponential_of(noise_bits(noise_key(a.seed, state.row), a.keys[at % a.count],
                                          static_cast<std::uint32_t>(state.byte_offset),
                                          static_cast<std::uint32_t>(state.empty_tokens)))
          : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace tokentiming::cuda
