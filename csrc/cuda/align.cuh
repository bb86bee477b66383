// Banded dynamic time warping, one warp a pair.
#pragma once

#include "levenshtein.cuh"
#include "tokens.cuh"
#include "tokentiming/cuda.h"

namespace tokentiming::cuda {

static_assert(kMostTokenBytes <= kLongestByWarp);

struct Side {
  AnyIds ids;
  Sequences sequences;
  DeviceTable table;
};

struct AlignArguments {
  Side draft;
  Side target;
  std::int64_t band;
  std::int32_t* target_spans;
  std::int64_t* costs;
};

// Tokens of a pair that have few bytes in all are copied beside each other.
inline constexpr int kStagedBytes = 2048;

// A cell of the matrix: in the lower bits a distance, above them the step of the path to it.
using Cell = std::uint16_t;
inline constexpr int kStepShift = 14;
static_assert(kMostTokenBytes < 1 << kStepShift);
enum Step : int { kDiagonalStep, kDraftStep, kTargetStep };

struct AlignShared {
  DeviceBytes draft[kMostTokens];
  DeviceBytes target[kMostTokens];
  int edge[kMostTokens];  // costs along the last row of 32
  std::uint8_t staged[kStagedBytes];
  // K * M cells follow.
};

class Pair {
 public:
  __device__ Pair(const AlignArguments& a, AlignShared& shared)
      : a_(a),
        shared_(shared),
        cells_(reinterpret_cast<Cell*>(&shared + 1)),
        b_(blockIdx.x),
        lane_(static_cast<int>(threadIdx.x)) {}

  __device__ void run() {
    if (!a_.target.sequences.holds(b_)) return write_cost(-1);
    const std::int64_t columns = length(a_.target);
    if (!a_.draft.sequences.holds(b_)) return write_invalid(columns);
    const std::int64_t rows = length(a_.draft);
    if (rows == 0 && columns == 0) return write_cost(0);
    if (rows == 0 || columns == 0 || rows > kMostTokens || columns > kMostTokens) {
      return write_invalid(columns);
    }
    rows_ = static_cast<int>(rows);
    columns_ = static_cast<int>(columns);
    const int longer = rows_ > columns_ ? rows_ : columns_;
    const int difference = rows_ > columns_ ? rows_ - columns_ : columns_ - rows_;
    reach_ = a_.band < longer ? static_cast<int>(a_.band) : longer;
    if (reach_ < difference) reach_ = difference;

    const int draft_bytes = look_up(a_.draft, rows_, shared_.draft);
    const int target_bytes = look_up(a_.target, columns_, shared_.target);
    if (draft_bytes < 0 || target_bytes < 0) return write_invalid(columns);
    __syncwarp();
    if (draft_bytes + target_bytes <= kStagedBytes) stage();
    measure();
    const int cost = fill();
    if (lane_ == 0) trace_back();
    write_cost(cost);
  }

 private:
  __device__ std::int64_t length(const Side& side) const {
    return side.sequences.end(b_) - side.sequences.begin(b_);
  }
  __device__ void write_cost(std::int64_t cost) const {
    if (lane_ == 0) a_.costs[b_] = cost;
  }
  __device__ void write_invalid(std::int64_t columns) const {
    std::int32_t* spans = a_.target_spans + 2 * a_.target.sequences.begin(b_);
    for (std::int64_t k = lane_; k < 2 * columns; k += kWarp) spans[k] = -1;
    write_cost(-1);
  }
  __device__ bool in_reach(int i, int j) const { return i - j <= reach_ && j - i <= reach_; }

  // Finds the bytes of a side's tokens; returns how many there are, or -1 if a token has none to be
  // had.
  __device__ int look_up(const Side& side, int count, DeviceBytes* tokens) const {
    const std::int64_t begin = side.sequences.begin(b_);
    int bytes = 0;
    bool sound = true;
    for (int k = lane_; k < count; k += static_cast<int>(kWarp)) {
      const DeviceBytes token = side.table[side.ids[begin + k]];
      sound &= token.size >= 0 && token.size <= kMostTokenBytes;
      bytes += sound ? static_cast<int>(token.size) : 0;
      tokens[k] = token;
    }
#pragma unroll
    for (unsigned other = kWarp / 2; other > 0; other /= 2) {
      bytes += __shfl_xor_sync(kAllLanes, bytes, other);
    }
    return __any_sync(kAllLanes, !sound) ? -1 : bytes;
  }

  __device__ void stage() {
    const int used = stage(shared_.draft, rows_, 0);
    stage(shared_.target, columns_, used);
    __syncwarp();
  }

  // Copies a side's tokens behind the first `used` bytes and returns how many are used then.
  __device__ int stage(DeviceBytes* tokens, int count, int used) {
    for (int first = 0; first < count; first += static_cast<int>(kWarp)) {
      const int k = first + lane_;
      const int size = k < count ? static_cast<int>(tokens[k].size) : 0;
      int until = size;
#pragma unroll
      for (unsigned distance = 1; distance < kWarp; distance *= 2) {
        const int below = __shfl_up_sync(kAllLanes, until, distance);
        if (lane_ >= static_cast<int>(distance)) until += below;
      }
      if (k < count) {
        std::uint8_t* place = shared_.staged + used + until - size;
        for (int r = 0; r < size; ++r) place[r] = tokens[k].data[r];
        tokens[k].data = place;
      }
      used += __shfl_sync(kAllLanes, until, kWarp - 1);
    }
    return used;
  }

  // The distances of all cells within reach.
  __device__ void measure() {
    const int count = rows_ * columns_;
    for (int first = 0; first < count; first += static_cast<int>(kWarp)) {
      const int cell = first + lane_;
      const int i = cell / columns_;
      const int j = cell % columns_;
      const bool wanted = cell < count && in_reach(i, j);
      const bool alone = wanted && is_short(shared_.draft[i], shared_.target[j]);
      if (alone) {
        cells_[cell] = static_cast<Cell>(distance(shared_.draft[i], shared_.target[j]));
      }
      unsigned together = __ballot_sync(kAllLanes, wanted && !alone);
      while (together != 0) {
        const int theirs = first + __ffs(together) - 1;
        together &= together - 1;
        const int steps =
            distance_by_warp(shared_.draft[theirs / columns_], shared_.target[theirs % columns_]);
        if (lane_ == 0) cells_[theirs] = static_cast<Cell>(steps);
      }
    }
    __syncwarp();
  }

  // Fills the matrix C along its anti-diagonals, 32 rows at a time with a lane each, every lane one
  // column behind the lane above. Leaves the steps in the cells; returns the cost of the path.
  __device__ int fill() {
    constexpr int kUnreachable = 1 << 29;
    int cost = kUnreachable;
    for (int first = 0; first < rows_; first += static_cast<int>(kWarp)) {
      const int i = first + lane_;
      cost = kUnreachable;          // C[i, j - 1]
      int diagonal = kUnreachable;  // C[i - 1, j - 1]
      for (int step = 0; step < columns_ + static_cast<int>(kWarp) - 1; ++step) {
        int above = __shfl_up_sync(kAllLanes, cost, 1);  // C[i - 1, j]
        const int j = step - lane_;
        if (i >= rows_ || j < 0 || j >= columns_) continue;
        if (lane_ == 0) above = first == 0 ? kUnreachable : shared_.edge[j];
        if (i == 0 && j == 0) diagonal = 0;
        if (in_reach(i, j)) {
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
        if (lane_ == static_cast<int>(kWarp) - 1) shared_.edge[j] = cost;
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
  int lane_;
  int rows_ = 0;
  int columns_ = 0;
  int reach_ = 0;
};

__global__ void __launch_bounds__(kWarp)
    align_pair(const __grid_constant__ AlignArguments arguments) {
  Pair(arguments, shared_memory<AlignShared>()).run();
}

}  // namespace tokentiming::cuda
