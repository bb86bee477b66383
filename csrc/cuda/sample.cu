// The exponential race in one pass over the logits.
//
// A block races a tile of the vocabulary for several rows, so that it reads the keys once for all
// of them. Every token's score gets an upper bound in float. Only the candidates, the few tokens
// whose bound reaches the best score so far, are scored in double, as on the CPU. The best score so
// far depends on the order in which blocks run. It affects which tokens are scored, but not which
// token wins: a token that is not scored is below the best.
//
// Instructions per logit: Philox takes 2 multiplications of 32 by 32 to 64 bits and 2 exclusive ors
// of three words in each of 10 rounds, less 1 of either in the first round (one product is the same
// for the whole row) and in the last (only one word is needed): 36, and 20 additions to the round
// keys for eight tokens. The bound takes 6 more: shift, two conversions, multiplication,
// subtraction, addition. Comparison and mask take 2, widening 1. These 48 instructions are the
// bound of the operation, not memory: a logit in half precision is 2 bytes.

#include <limits>

#include "device/race.cuh"
#include "sample_checks.h"
#include "tokentiming/sample.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kSample = "sample";
constexpr const char* kLogNoise = "log_noise";

}  // namespace

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
      shared_.noise[row] = RowNoise::at(a_.seed, a_.states[first_row_ + row]);
    }
    if (threadIdx.x < kRaceWarps * kMaxRowsPerBlock) {
      shared_.bests[threadIdx.x / kMaxRowsPerBlock][threadIdx.x % kMaxRowsPerBlock] = Best::none();
    }
    __syncthreads();
  }

  // Races this lane's eight tokens from `at` on for every row. Warps start at different rows: a
  // warp that reaches a row after others has a higher threshold, and scores few tokens.
  __device__ void race(std::int64_t at) {
    std::uint64_t keys[kVectorSize];
    load_keys(a_.keys, at, end_, keys);
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

  __device__ Vector<Logit> logits_of(int row, std::int64_t at) const {
    return Vector<Logit>::load(a_.logits[static_cast<std::size_t>(first_row_ + row)], at, end_,
                               lowest_logit<Logit>());
  }

  // One bit for each token whose bound is not below the threshold. NaN is a candidate.
  __device__ unsigned candidates(const std::uint64_t (&keys)[kVectorSize],
                                 const Vector<Logit>& logits, int row, float threshold) const {
    const RowNoise noise = shared_.noise[row];
    unsigned mask = 0;
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) {
      if (!(score_bound(logits[k], noise.bits(keys[k])) < threshold)) mask |= 1u << k;
    }
    return mask;
  }

  __device__ Best score(int row, std::int64_t token) const {
    const auto logit = widen(a_.logits[static_cast<std::size_t>(first_row_ + row)][token]);
    if (!(logit < std::numeric_limits<Wide<Logit>>::infinity())) return Best::invalid();
    const std::uint64_t bits = shared_.noise[row].bits(a_.keys[token]);
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

  // Reduces the warps' best tokens to one per row. The last block of a group of rows to finish then
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

// ---- log_noise, one entry per thread ----

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
  a.noise[at] = is_state(state)
                    ? log_exponential_of(RowNoise::at(a.seed, state).bits(a.keys[at % a.count]))
                    : std::numeric_limits<double>::quiet_NaN();
}

// ---- host ----

std::size_t sample_workspace(std::size_t rows, std::size_t keys) {
  return 2 * Workspace::size<unsigned>(rows) +
         Workspace::size<Best>(rows * race_blocks(keys, kRaceTile));
}

template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids,
            std::span<std::byte> workspace, Stream stream) {
  require_cuda(kSample);
  check_sample_sizes(logits.rows, logits.columns, keys.size(), states.size(), ids.size());
  if (logits.rows == 0) return;
  const DeviceGuard guard(kSample, stream);

  const RaceGrid grid = RaceGrid::of(kSample, logits.rows, keys.size(), stream.device);

  Workspace parts(kSample, workspace);
  const auto counters = parts.allocate<unsigned>(logits.rows + grid.groups);
  const auto bests = parts.allocate<Best>(logits.rows * grid.blocks);
  const RaceArguments<Logit> arguments{logits,
                                       keys.data(),
                                       static_cast<std::int64_t>(keys.size()),
                                       seed,
                                       states.data(),
                                       ids.data(),
                                       static_cast<int>(grid.rows_per_block),
                                       static_cast<std::int64_t>(grid.tokens_per_block),
                                       counters.data(),
                                       counters.data() + logits.rows,
                                       bests.data()};
  zero(kSample, counters, stream);
  launch(kSample, race<Logit>, grid.with(sizeof(RaceShared)), stream, arguments);
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
