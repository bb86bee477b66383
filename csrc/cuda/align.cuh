// Banded dynamic time warping, one block a pair: its warps take cells of the matrix in turn and
// measure their distances, then one of them finds the path.
#pragma once

#include "levenshtein.cuh"
#include "reduce.cuh"
#include "tokens.cuh"
#include "tokentiming/cuda.h"

namespace tokentiming::cuda {

static_assert(kMaxTokenBytes <= kMaxWarpPatternBytes);

struct AlignSide {
  AnyIds ids;
  Sequences sequences;
  DeviceTable table;
};

struct AlignArguments {
  AlignSide draft;
  AlignSide target;
  std::int64_t band;
  std::int32_t* target_spans;
  std::int64_t* costs;
};

// A thread looks for the bytes of one token.
inline constexpr int kAlignThreads = 2 * kMaxTokens;

// What a token without bytes counts for: more than all bytes that a pair can have.
inline constexpr int kInvalidBytes = 1 << 20;
static_assert(kAlignThreads * kMaxTokenBytes < kInvalidBytes);

// Tokens of a pair that have few bytes in all are copied beside each other.
inline constexpr int kStagedBytes = 2048;

// A cell of the matrix: in the lower bits a distance, above them the step of the path to it.
using Cell = std::uint16_t;
inline constexpr int kStepShift = 14;
static_assert(kMaxTokenBytes < 1 << kStepShift);
enum Step : int { kDiagonalStep, kDraftStep, kTargetStep };

struct AlignShared {
  DeviceBytes draft[kMaxTokens];
  DeviceBytes target[kMaxTokens];
  WarpPartials<int> bytes;
  WarpPartials<int> scan;
  int boundary[2]
              [kMaxTokens];  // costs along the last row of 32, of one 32 and of the next by turns
  std::uint8_t staged[kStagedBytes];
  // K * M cells follow.
};

class PairAligner {
 public:
  __device__ PairAligner(const AlignArguments& a, AlignShared& shared)
      : a_(a),
        shared_(shared),
        cells_(reinterpret_cast<Cell*>(&shared + 1)),
        b_(blockIdx.x),
        thread_(static_cast<int>(threadIdx.x)),
        lane_(static_cast<int>(threadIdx.x % kWarp)) {}

  __device__ void run() {
    if (!a_.target.sequences.is_valid(b_)) return write_cost(-1);
    const std::int64_t columns = length(a_.target);
    if (!a_.draft.sequences.is_valid(b_)) return write_invalid(columns);
    const std::int64_t rows = length(a_.draft);
    if (rows == 0 && columns == 0) return write_cost(0);
    if (rows == 0 || columns == 0 || rows > kMaxTokens || columns > kMaxTokens) {
      return write_invalid(columns);
    }
    rows_ = static_cast<int>(rows);
    columns_ = static_cast<int>(columns);
    const int longer = rows_ > columns_ ? rows_ : columns_;
    const int difference = rows_ > columns_ ? rows_ - columns_ : columns_ - rows_;
    radius_ = a_.band < longer ? static_cast<int>(a_.band) : longer;
    if (radius_ < difference) radius_ = difference;

    if (!load_tokens()) return write_invalid(columns);
    compute_distances();
    if (thread_ != lane_) return;
    const int cost = fill_costs();
    if (lane_ == 0) trace_back();
    write_cost(cost);
  }

 private:
  __device__ std::int64_t length(const AlignSide& side) const {
    return side.sequences.end(b_) - side.sequences.begin(b_);
  }
  __device__ void write_cost(std::int64_t cost) const {
    if (thread_ == 0) a_.costs[b_] = cost;
  }
  __device__ void write_invalid(std::int64_t columns) const {
    std::int32_t* spans = a_.target_spans + 2 * a_.target.sequences.begin(b_);
    for (std::int64_t k = thread_; k < 2 * columns; k += kAlignThreads) spans[k] = -1;
    write_cost(-1);
  }
  __device__ bool in_band(int i, int j) const { return i - j <= radius_ && j - i <= radius_; }

  // Finds the bytes of all tokens; false if one of them is out of range.
  __device__ bool load_tokens() {
    const bool is_draft = thread_ < kMaxTokens;
    const int k = thread_ % static_cast<int>(kMaxTokens);
    const bool active = k < (is_draft ? rows_ : columns_);
    DeviceBytes token{nullptr, 0};
    if (active) token = is_draft ? load_tokens(a_.draft, k) : load_tokens(a_.target, k);
    const bool valid = token.size >= 0 && token.size <= kMaxTokenBytes;
    const int size = valid ? static_cast<int>(token.size) : kInvalidBytes;
    const int bytes = block_reduce(size, shared_.bytes, Sum{});
    if (bytes >= kInvalidBytes) return false;
    if (bytes <= kStagedBytes) token.data = stage(token, block_exclusive_sum(size, shared_.scan));
    if (active) (is_draft ? shared_.draft : shared_.target)[k] = token;
    __syncthreads();
    return true;
  }
  __device__ DeviceBytes load_tokens(const AlignSide& side, int k) const {
    return side.table[side.ids[side.sequences.begin(b_) + k]];
  }

  // Copies a token behind the bytes of those before it.
  __device__ const std::uint8_t* stage(const DeviceBytes& token, int scan) {
    std::uint8_t* const place = shared_.staged + scan;
    const std::uint8_t* const from = token.data;
#pragma unroll 4
    for (int r = 0; r < static_cast<int>(token.size); ++r) place[r] = __ldg(from + r);
    return place;
  }

  // The distances of all cells within reach.
  __device__ void compute_distances() {
    const int count = rows_ * columns_;
    for (int first = thread_ - lane_; first < count; first += kAlignThreads) {
      const int cell = first + lane_;
      const int i = cell / columns_;
      const int j = cell % columns_;
      const bool active = cell < count && in_band(i, j);
      const bool by_lane = active && fits_lane(shared_.draft[i], shared_.target[j]);
      if (by_lane) {
        cells_[cell] = static_cast<Cell>(lane_distance(shared_.draft[i], shared_.target[j]));
      }
      unsigned by_warp = __ballot_sync(kAllLanes, active && !by_lane);
      while (by_warp != 0) {
        const int warp_cell = first + __ffs(by_warp) - 1;
        by_warp &= by_warp - 1;
        const int steps = warp_distance(shared_.draft[warp_cell / columns_],
                                        shared_.target[warp_cell % columns_]);
        if (lane_ == 0) cells_[warp_cell] = static_cast<Cell>(steps);
      }
    }
    __syncthreads();
  }

  // Fills the matrix C along its anti-diagonals, 32 rows at a time with a lane each, every lane one
  // column behind the lane above. Leaves the steps in the cells; returns the cost of the path.
  __device__ int fill_costs() {
    constexpr int kUnreachable = 1 << 29;
    int cost = kUnreachable;
    for (int first = 0; first < rows_; first += static_cast<int>(kWarp)) {
      const int i = first + lane_;
      const int* boundary_above = shared_.boundary[(first / kWarp + 1) % 2];
      int* boundary_below = shared_.boundary[first / kWarp % 2];
      cost = kUnreachable;          // C[i, j - 1]
      int diagonal = kUnreachable;  // C[i - 1, j - 1]
      for (int step = 0; step < columns_ + static_cast<int>(kWarp) - 1; ++step) {
        int above = __shfl_up_sync(kAllLanes, cost, 1);  // C[i - 1, j]
        const int j = step - lane_;
        if (i >= rows_ || j < 0 || j >= columns_) continue;
        if (lane_ == 0) above = first == 0 ? kUnreachable : boundary_above[j];
        if (i == 0 && j == 0) diagonal = 0;
        if (in_band(i, j)) {
          Cell& cell = cells_[i * columns_ + j];
          const int upper = above < diagonal ? above : diagonal;
          const int upper_step = above < diagonal ? kDraftStep : kDiagonalStep;
          const int taken = cost < upper ? kTargetStep : upper_step;
          cost = (cost < upper ? cost : upper) + cell;
          cell = static_cast<Cell>(taken << kStepShift);
        } else {
          cost = kUnreachable;
        }
        diagonal = above;
        if (lane_ == static_cast<int>(kWarp) - 1) boundary_below[j] = cost;
      }
      __syncwarp();
    }
    return __shfl_sync(kAllLanes, cost, static_cast<unsigned>(rows_ - 1) % kWarp);
  }

  __device__ void trace_back() const {
    std::int32_t* spans = a_.target_spans + 2 * a_.target.sequences.begin(b_);
    int i = rows_ - 1;
    for (int j = columns_ - 1; j >= 0; --j) {
      const auto step = [&] { return cells_[i * columns_ + j] >> kStepShift; };
      spans[2 * j + 1] = i + 1;
      while (step() == kDraftStep) --i;
      spans[2 * j] = i;
      if (step() == kDiagonalStep) --i;
    }
  }

  const AlignArguments& a_;
  AlignShared& shared_;
  Cell* cells_;
  std::int64_t b_;
  int thread_;
  int lane_;
  int rows_ = 0;
  int columns_ = 0;
  int radius_ = 0;
};

__global__ void __launch_bounds__(kAlignThreads)
    align_pair(const __grid_constant__ AlignArguments arguments) {
  PairAligner(arguments, shared_memory<AlignShared>()).run();
}

}  // namespace tokentiming::cuda
