// The exponential race in one pass over the logits.
//
// A block races a tile of the vocabulary for several rows, so that it reads the keys once for all
// of them. Every token's score gets an upper bound in float. Only the candidates, the few tokens
// whose bound reaches the best score so far, are scored in double, as on the CPU. The best score so
// far depends on the order in which blocks run; it changes which tokens are scored, never which
// token wins: a token that is not scored is below the best.
//
// Instructions a logit: Philox takes 2 multiplications of 32 by 32 to 64 bits and 2 exclusive ors
// of three words in each of 10 rounds, less 1 of either in the first round (one product is the same
// for the whole row) and in the last (only one word is needed): 36, and 20 additions to the round
// keys for eight tokens. The bound takes 6 more: shift, two conversions, multiplication,
// subtraction, addition. Comparison and mask take 2, widening 1. These 48 instructions are the
// bound of the operation, not memory: a logit in half precision is 2 bytes.

#include <limits>

#include "device/launch.h"
#include "device/rows.cuh"
#include "exponential.h"
#include "race_bound.h"
#include "sample_checks.h"
#include "tokentiming/sample.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kSample = "sample";
constexpr const char* kLogNoise = "log_noise";

}  // namespace

inline constexpr unsigned kRaceThreads = 256;
inline constexpr unsigned kRaceWarps = kRaceThreads / kWarp;
inline constexpr int kMaxRowsPerBlock = 8;
static_assert(kMaxRowsPerBlock <= kWarp);
inline constexpr std::int64_t kRaceTile = kRaceThreads * kVectorSize;  // tokens per iteration

// The best token so far. With no token the id is -1 and the score -inf; an invalid row has the id
// -1 and the score +inf.
struct Best {
  double score;
  std::int64_t id;

  static constexpr Best none() { return {-std::numeric_limits<double>::infinity(), -1}; }
  static constexpr Best invalid() { return {std::numeric_limits<double>::infinity(), -1}; }
  // Of equal scores the lowest id wins.
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
  std::int64_t tokens_per_block;
  unsigned* thresholds;       // of each row, as to_ordered
  unsigned* finished_blocks;  // of each group of rows
  Best* bests;                // [blocks along the vocabulary, rows]
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
    initialise();
    const std::int64_t lane_start = static_cast<std::int64_t>(threadIdx.x) * kVectorSize;
    const std::int64_t warp_start = lane_start / (kWarp * kVectorSize) * (kWarp * kVectorSize);
    for (std::int64_t tile = begin_; tile + warp_start < end_; tile += kRaceTile) {
      race(tile + lane_start);
    }
    reduce();
  }

 private:
  __device__ int rows_in_group() const {
    const std::int64_t left = static_cast<std::int64_t>(a_.logits.rows) - first_row_;
    return left < a_.rows_per_block ? static_cast<int>(left) : a_.rows_per_block;
  }

  __device__ void initialise() {
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

  // Races this lane's eight tokens from `at` on for every row. Warps start at different rows: a
  // warp that reaches a row after others finds its threshold raised, and scores few tokens.
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
      // Each lane scores one candidate at a time; after each, fewer reach the raised threshold.
      while (__any_sync(kAllLanes, left != 0)) {
        Best candidate = Best::none();
        if (left != 0) {
          candidate = score(row, at + __ffs(left) - 1);
          left &= left - 1;
        }
        candidate = warp_best(candidate);
        const float rounded_down = __double2float_rd(candidate.score);
        if (rounded_down > threshold) threshold = rounded_down;
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

  // The logit as a float, rounded up.
  __device__ static float round_up(Logit logit) {
    if constexpr (std::is_same_v<Logit, double>) {
      return __double2float_ru(logit);
    } else {
      return widen(logit);
    }
  }

  // One bit for each token whose bound is not below the threshold. NaN is a candidate.
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

  // Reduces the warps' best tokens to one a row. The last block of a group of rows to finish then
  // reduces those of all blocks, and writes the ids. One warp handles all rows.
  __device__ void reduce() {
    __syncthreads();
    const auto row = static_cast<int>(threadIdx.x);
    const auto all_rows = static_cast<std::int64_t>(a_.logits.rows);
    if (threadIdx.x < kWarp) {
      if (row < rows_) a_.bests[blockIdx.y * all_rows + first_row_ + row] = block_best(row);
      __syncwarp();
      if (threadIdx.x == 0) {
        __threadfence();  // after the barrier, so that it covers the writes of all lanes
        shared_.last = atomicAdd(a_.finished_blocks + blockIdx.x, 1) == gridDim.y - 1;
        __threadfence();
      }
    }
    __syncthreads();
    if (!shared_.last || row >= rows_) return;
    Best best = Best::none();
    for (unsigned block = 0; block < gridDim.y; ++block) {
      const Best* of_block = a_.bests + block * all_rows + first_row_ + row;
      const Best theirs{__ldcg(&of_block->score), __ldcg(&of_block->id)};
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

// ---- log_noise, one entry a thread ----

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

// ---- host ----

namespace {

std::size_t block_count(std::size_t keys, std::size_t tokens_per_block) {
  return std::max<std::size_t>(1, (keys + tokens_per_block - 1) / tokens_per_block);
}

}  // namespace

std::size_t sample_workspace(std::size_t rows, std::size_t keys) {
  return 2 * Workspace::size<unsigned>(rows) +
         Workspace::size<Best>(rows * block_count(keys, kRaceTile));
}

template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids,
            std::span<std::byte> workspace, Stream stream) {
  require_cuda(kSample);
  check_sample_sizes(logits.rows, logits.columns, keys.size(), states.size(), ids.size());
  if (logits.rows == 0) return;
  const DeviceGuard guard(kSample, stream);

  // A block takes as many rows as leaves enough blocks to occupy every multiprocessor, and two
  // tiles if there would be twice as many blocks as that.
  const std::size_t min_blocks = 4 * multiprocessors(kSample, stream.device);
  const auto blocks = [&](std::size_t rows_per_block, std::size_t tokens_per_block) {
    return (logits.rows + rows_per_block - 1) / rows_per_block *
           block_count(keys.size(), tokens_per_block);
  };
  std::size_t rows_per_block = kMaxRowsPerBlock;
  while (rows_per_block > 1 && blocks(rows_per_block, kRaceTile) < min_blocks) rows_per_block /= 2;
  std::size_t tokens_per_block = kRaceTile;
  if (blocks(rows_per_block, 2 * tokens_per_block) >= 2 * min_blocks) tokens_per_block *= 2;
  const std::size_t groups = (logits.rows + rows_per_block - 1) / rows_per_block;

  Workspace parts(kSample, workspace);
  const auto counters = parts.allocate<unsigned>(logits.rows + groups);
  const auto bests = parts.allocate<Best>(logits.rows * block_count(keys.size(), tokens_per_block));
  const RaceArguments<Logit> arguments{logits,
                                       keys.data(),
                                       static_cast<std::int64_t>(keys.size()),
                                       seed,
                                       states.data(),
                                       ids.data(),
                                       static_cast<int>(rows_per_block),
                                       static_cast<std::int64_t>(tokens_per_block),
                                       counters.data(),
                                       counters.data() + logits.rows,
                                       bests.data()};
  zero(kSample, counters, stream);
  // The blocks of one tile start together: they share its keys in the cache, and the blocks of the
  // next tile find the thresholds raised. Rows go along x, which may have 2^31 - 1 blocks; y may
  // have 65535.
  launch(kSample, race<Logit>,
         {static_cast<unsigned>(groups),
          static_cast<unsigned>(block_count(keys.size(), tokens_per_block)), kRaceThreads,
          sizeof(RaceShared)},
         stream, arguments);
}

void log_noise(std::span<const std::uint64_t> keys, std::uint64_t seed,
               std::span<const State> states, std::span<double> noise, Stream stream) {
  require_cuda(kLogNoise);
  check_noise_size(keys.size(), states.size(), noise.size());
  if (noise.empty()) return;
  const DeviceGuard guard(kLogNoise, stream);
  const NoiseArguments arguments{keys.data(),  static_cast<std::int64_t>(keys.size()),
                                 seed,         states.data(),
                                 noise.data(), static_cast<std::int64_t>(noise.size())};
  const std::size_t blocks = (noise.size() + kNoiseThreads - 1) / kNoiseThreads;
  launch(kLogNoise, write_noise, {static_cast<unsigned>(blocks), 1, kNoiseThreads, 0}, stream,
         arguments);
}

#define TOKENTIMING_SAMPLE(Logit)                                                               \
  template void sample(const Rows<const Logit>&, std::span<const std::uint64_t>, std::uint64_t, \
                       std::span<const State>, std::span<std::int64_t>, std::span<std::byte>,   \
                       Stream)
TOKENTIMING_SAMPLE(Half);
TOKENTIMING_SAMPLE(BFloat16);
TOKENTIMING_SAMPLE(float);
TOKENTIMING_SAMPLE(double);
#undef TOKENTIMING_SAMPLE

}  // namespace tokentiming::cuda
