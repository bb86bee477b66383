// The tokens that lead the exponential race, and their shares, in one pass over the logits.
//
// Blocks divide rows and vocabulary as in sample.cu. A warp computes the upper bounds of 256 tokens
// of a row and adds their terms exp(logit) / E in single precision. It scores in double the tokens
// whose bounds reach the threshold, which is the greatest score that is last in some list. A token
// that is not scored has at least as many tokens above it as a list holds. The order in which
// blocks run therefore affects which tokens are scored, but not which lead.
//
// Sums depend on the number of blocks, which depends on the GPU, but not on their order.

#include <cmath>
#include <limits>

#include "candidate_list.h"
#include "device/race.cuh"
#include "device/reduce.cuh"
#include "race_term.h"
#include "sample_checks.h"
#include "tokentiming/candidates.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kCandidates = "candidates";

}  // namespace

template <class Logit>
struct CandidatesArguments {
  Rows<const Logit> logits;
  const std::uint64_t* keys;
  std::int64_t keys_count;
  std::uint64_t seed;
  const State* states;
  std::int64_t* ids;
  float* shares;
  int count;  // of candidates
  int rows_per_block;
  std::int64_t tokens_per_block;
  unsigned* thresholds;       // of each row, as to_ordered
  unsigned* finished_blocks;  // of each group of rows
  Candidate* leaders;         // [blocks along the vocabulary, rows, count]
  RaceTotal* totals;          // [blocks along the vocabulary, rows]
};

struct CandidatesShared {
  RowNoise noise[kMaxRowsPerBlock];
  Candidate leaders[kRaceWarps][kMaxRowsPerBlock][kMaxCandidates];
  RaceTotal totals[kRaceWarps][kMaxRowsPerBlock];
  bool last;
};

inline constexpr double kLog2E = 1.44269504088896340736;

struct Exp {
  __device__ double operator()(double x) const { return std::exp(x); }
};

// -log2(1 - u), where u is the quantile of E.
__device__ inline float scaled_exponential(std::uint64_t noise_bits) {
  const auto word = static_cast<std::uint32_t>(noise_bits >> 32);
  if (!needs_all_bits(word)) return -log2_survival(word);
  return static_cast<float>(kLog2E * std::exp(log_exponential_of(noise_bits)));
}

template <class Logit>
class CandidateRace {
 public:
  __device__ CandidateRace(const CandidatesArguments<Logit>& a, CandidatesShared& shared)
      : a_(a),
        shared_(shared),
        warp_(threadIdx.x / kWarp),
        lane_(static_cast<int>(threadIdx.x % kWarp)),
        first_row_(static_cast<std::int64_t>(blockIdx.x) * a.rows_per_block),
        rows_(rows_in_group()),
        begin_(static_cast<std::int64_t>(blockIdx.y) * a.tokens_per_block),
        end_(begin_ + a.tokens_per_block < a.keys_count ? begin_ + a.tokens_per_block
                                                        : a.keys_count) {}

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
  static_assert(kMaxRowsPerBlock == kRaceWarps);  // in reduce() each warp takes one row

  __device__ int rows_in_group() const {
    const std::int64_t left = static_cast<std::int64_t>(a_.logits.rows) - first_row_;
    return left < a_.rows_per_block ? static_cast<int>(left) : a_.rows_per_block;
  }

  __device__ void initialise() {
    const auto row = static_cast<int>(threadIdx.x);
    if (row < rows_) shared_.noise[row] = RowNoise::at(a_.seed, a_.states[first_row_ + row]);
    for (int r = 0; r < kMaxRowsPerBlock; ++r) {  // read only by this warp until reduce()
      if (lane_ < a_.count) shared_.leaders[warp_][r][lane_] = Candidate{};
      if (lane_ == 0) shared_.totals[warp_][r] = RaceTotal{};
    }
    __syncthreads();
  }

  // Races this lane's eight tokens from `at` on for every row. Warps start at different rows: a
  // warp that reaches a row after others has a higher threshold, and scores few tokens.
  __device__ void race(std::int64_t at) {
    std::uint64_t keys[kVectorSize];
    load_keys(a_.keys, at, end_, keys);
    int next_row = static_cast<int>((blockIdx.y + warp_) % static_cast<unsigned>(rows_));
    auto next = logits_of(next_row, at);
    for (int turn = 0; turn < rows_; ++turn) {
      const int row = next_row;
      const auto logits = next;
      next_row = row + 1 < rows_ ? row + 1 : 0;
      if (turn + 1 < rows_) next = logits_of(next_row, at);
      float bounds[kVectorSize];
      add_terms(row, logits, keys, bounds);
      rank(row, at, bounds);
    }
  }

  __device__ Vector<Logit> logits_of(int row, std::int64_t at) const {
    return Vector<Logit>::load(a_.logits[static_cast<std::size_t>(first_row_ + row)], at, end_,
                               lowest_logit<Logit>());
  }

  // Adds the terms of the warp's tokens to its total, and sets the upper bounds of their scores.
  __device__ void add_terms(int row, const Vector<Logit>& logits,
                            const std::uint64_t (&keys)[kVectorSize],
                            float (&bounds)[kVectorSize]) {
    using Number = Wide<Logit>;
    Number greatest = -std::numeric_limits<Number>::infinity();
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) greatest = Max{}(widen(logits[k]), greatest);
    greatest = warp_reduce(greatest, Max{});
    const Number shift = greatest > -std::numeric_limits<Number>::infinity() ? greatest : Number{0};
    const RowNoise noise = shared_.noise[row];
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) {
      const std::uint64_t bits = noise.bits(keys[k]);
      bounds[k] = score_bound(logits[k], bits);
      const auto below = static_cast<float>(widen(logits[k]) - shift);
      sum += exp2_approx(below * static_cast<float>(kLog2E)) / scaled_exponential(bits);
    }
    const double of_warp = kLog2E * static_cast<double>(warp_reduce(sum, Sum{}));
    if (lane_ == 0) {
      shared_.totals[warp_][row].add({static_cast<double>(greatest), of_warp}, Exp{});
    }
  }

  // Scores the tokens whose bounds reach the threshold, and adds those that lead to the warp's
  // list.
  __device__ void rank(int row, std::int64_t at, const float (&bounds)[kVectorSize]) {
    Candidate* const leaders = shared_.leaders[warp_][row];
    float threshold = from_ordered(__ldcg(a_.thresholds + first_row_ + row));
    unsigned left = reaching(bounds, threshold);
    // Each lane scores one token at a time; after each, fewer reach the raised threshold.
    while (__any_sync(kAllLanes, left != 0)) {
      Candidate mine;
      if (left != 0) {
        mine = score(row, at + __ffs(left) - 1);
        left &= left - 1;
      }
      add_lanes(leaders, mine);
      const float rounded_down = __double2float_rd(leaders[a_.count - 1].score);
      if (rounded_down > threshold) {
        threshold = rounded_down;
        if (lane_ == 0) atomicMax(a_.thresholds + first_row_ + row, to_ordered(threshold));
      }
      left &= reaching(bounds, threshold);
    }
  }

  // One bit for each token whose bound is not below the threshold. NaN counts as reaching it.
  __device__ static unsigned reaching(const float (&bounds)[kVectorSize], float threshold) {
    unsigned mask = 0;
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) {
      if (!(bounds[k] < threshold)) mask |= 1u << k;
    }
    return mask;
  }

  // A logit that makes the row invalid leads it, with the score +inf and the id -1.
  __device__ Candidate score(int row, std::int64_t token) const {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const auto logit =
        static_cast<double>(widen(a_.logits[static_cast<std::size_t>(first_row_ + row)][token]));
    if (!(logit < kInfinity)) return {kInfinity, -1};
    return {logit - log_exponential_of(shared_.noise[row].bits(a_.keys[token])), token};
  }

  // Adds the candidates of all lanes to a list.
  __device__ void add_lanes(Candidate* leaders, const Candidate& mine) const {
    unsigned lanes = __ballot_sync(kAllLanes, mine.before(leaders[a_.count - 1]));
    for (; lanes != 0; lanes &= lanes - 1) {
      const auto from = static_cast<unsigned>(__ffs(lanes) - 1);
      add(leaders,
          {__shfl_sync(kAllLanes, mine.score, from), __shfl_sync(kAllLanes, mine.id, from)});
    }
  }

  // Adds one candidate, the same in all lanes, to a list. The last entry drops out.
  __device__ void add(Candidate* leaders, const Candidate& token) const {
    Candidate mine;
    if (lane_ < a_.count) mine = leaders[lane_];
    // The list is in order, so that the entries before the token are the first ones.
    const unsigned before = __ballot_sync(kAllLanes, lane_ < a_.count && mine.before(token));
    const int place = __ffs(~before) - 1;
    __syncwarp();
    if (lane_ >= place && lane_ + 1 < a_.count) leaders[lane_ + 1] = mine;
    if (lane_ == place && place < a_.count) leaders[place] = token;
    __syncwarp();
  }

  // Adds a list in order, read by read(k), to another.
  template <class Read>
  __device__ void merge(Candidate* leaders, const Read& read) const {
    for (int k = 0; k < a_.count; ++k) {
      const Candidate token = read(k);
      if (!token.before(leaders[a_.count - 1])) return;
      add(leaders, token);
    }
  }

  // Adds up `parts` totals, read by read(part).
  template <class Read>
  __device__ RaceTotal add_totals(unsigned parts, const Read& read) const {
    double maximum = -std::numeric_limits<double>::infinity();
    for (auto part = static_cast<unsigned>(lane_); part < parts; part += kWarp) {
      maximum = Max{}(read(part).maximum, maximum);
    }
    maximum = warp_reduce(maximum, Max{});
    RaceTotal total{maximum, 0.0};
    for (auto part = static_cast<unsigned>(lane_); part < parts; part += kWarp) {
      total.add(read(part), Exp{});
    }
    return {maximum, warp_reduce(total.sum, Sum{})};
  }

  // Reduces the warps' lists and totals to one per row. The last block of a group of rows to finish
  // then reduces those of all blocks. A warp takes one row.
  __device__ void reduce() {
    __syncthreads();
    const auto row = static_cast<int>(warp_);
    if (row < rows_) write_block(row);
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();  // after the barrier, so that it covers the writes of all threads
      shared_.last = atomicAdd(a_.finished_blocks + blockIdx.x, 1) == gridDim.y - 1;
      __threadfence();
    }
    __syncthreads();
    if (shared_.last && row < rows_) write_row(row);
  }

  // The index of a row of this block in the arrays that blocks share.
  __device__ std::int64_t part(unsigned block, int row) const {
    return block * static_cast<std::int64_t>(a_.logits.rows) + first_row_ + row;
  }

  __device__ void write_block(int row) {
    Candidate* const leaders = shared_.leaders[0][row];
    for (unsigned warp = 1; warp < kRaceWarps; ++warp) {
      merge(leaders, [&](int k) { return shared_.leaders[warp][row][k]; });
    }
    const RaceTotal total =
        add_totals(kRaceWarps, [&](unsigned warp) { return shared_.totals[warp][row]; });
    const std::int64_t here = part(blockIdx.y, row);
    if (lane_ < a_.count) a_.leaders[here * a_.count + lane_] = leaders[lane_];
    if (lane_ == 0) a_.totals[here] = total;
  }

  __device__ void write_row(int row) {
    Candidate* const leaders = shared_.leaders[0][row];
    for (unsigned first = 0; first < gridDim.y; first += kWarp) {
      // Most blocks have no token to add: their best ones are read at once.
      const unsigned block = first + static_cast<unsigned>(lane_);
      const bool other = block < gridDim.y && block != blockIdx.y;
      const bool leads = other && of_block(block, row, 0).before(leaders[a_.count - 1]);
      for (unsigned lanes = __ballot_sync(kAllLanes, leads); lanes != 0; lanes &= lanes - 1) {
        const unsigned from = first + static_cast<unsigned>(__ffs(lanes)) - 1;
        merge(leaders, [&](int k) { return of_block(from, row, k); });
      }
    }
    const RaceTotal total = add_totals(gridDim.y, [&](unsigned block) {
      const RaceTotal* of_block = a_.totals + part(block, row);
      return RaceTotal{__ldcg(&of_block->maximum), __ldcg(&of_block->sum)};
    });
    const bool valid = is_state(a_.states[first_row_ + row]) &&
                       leaders[0].score < std::numeric_limits<double>::infinity();
    if (lane_ >= a_.count) return;
    const std::int64_t id = valid ? leaders[lane_].id : -1;
    const std::int64_t at = (first_row_ + row) * a_.count + lane_;
    a_.ids[at] = id;
    a_.shares[at] = id < 0 ? 0.0f : share(total, row, id);
  }

  __device__ Candidate of_block(unsigned block, int row, int k) const {
    const Candidate* candidate = a_.leaders + part(block, row) * a_.count + k;
    return {__ldcg(&candidate->score), __ldcg(&candidate->id)};
  }

  __device__ float share(const RaceTotal& total, int row, std::int64_t token) const {
    const auto logit =
        static_cast<double>(widen(a_.logits[static_cast<std::size_t>(first_row_ + row)][token]));
    return total.share(logit, log_exponential_of(shared_.noise[row].bits(a_.keys[token])), Exp{});
  }

  const CandidatesArguments<Logit>& a_;
  CandidatesShared& shared_;
  unsigned warp_;
  int lane_;
  std::int64_t first_row_;
  int rows_;
  std::int64_t begin_;
  std::int64_t end_;
};

template <class Logit>
__global__ void __launch_bounds__(kRaceThreads, 2)
    race_candidates(const __grid_constant__ CandidatesArguments<Logit> arguments) {
  CandidateRace<Logit>(arguments, shared_memory<CandidatesShared>()).run();
}

// ---- host ----

std::size_t candidates_workspace(std::size_t rows, std::size_t keys, std::size_t count) {
  const std::size_t parts = rows * race_blocks(keys, kRaceTile);
  return 2 * Workspace::size<unsigned>(rows) + Workspace::size<Candidate>(parts * count) +
         Workspace::size<RaceTotal>(parts);
}

template <class Logit>
void candidates(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
                std::uint64_t seed, std::span<const State> states, const Candidates& out,
                std::span<std::byte> workspace, Stream stream) {
  require_cuda(kCandidates);
  check_candidates_sizes(logits, keys.size(), states.size(), out);
  if (logits.rows == 0) return;
  const DeviceGuard guard(kCandidates, stream);
  const RaceGrid grid = RaceGrid::of(kCandidates, logits.rows, keys.size(), stream.device);

  const std::size_t count = out.ids.columns;
  const std::size_t partial_rows = logits.rows * grid.blocks;
  Workspace parts(kCandidates, workspace);
  const auto counters = parts.allocate<unsigned>(logits.rows + grid.groups);
  const auto leaders = parts.allocate<Candidate>(partial_rows * count);
  const auto totals = parts.allocate<RaceTotal>(partial_rows);
  const CandidatesArguments<Logit> arguments{logits,
                                             keys.data(),
                                             static_cast<std::int64_t>(keys.size()),
                                             seed,
                                             states.data(),
                                             out.ids.data,
                                             out.shares.data,
                                             static_cast<int>(count),
                                             static_cast<int>(grid.rows_per_block),
                                             static_cast<std::int64_t>(grid.tokens_per_block),
                                             counters.data(),
                                             counters.data() + logits.rows,
                                             leaders.data(),
                                             totals.data()};
  zero(kCandidates, counters, stream);
  launch(kCandidates, race_candidates<Logit>, grid.with(sizeof(CandidatesShared)), stream,
         arguments);
}

#define TOKENTIMING_CANDIDATES(Logit)                                                \
  template void candidates(const Rows<const Logit>&, std::span<const std::uint64_t>, \
                           std::uint64_t, std::span<const State>, const Candidates&, \
                           std::span<std::byte>, Stream)
TOKENTIMING_CANDIDATES(Half);
TOKENTIMING_CANDIDATES(BFloat16);
TOKENTIMING_CANDIDATES(float);
TOKENTIMING_CANDIDATES(double);
#undef TOKENTIMING_CANDIDATES

}  // namespace tokentiming::cuda
