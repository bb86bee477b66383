// Laws moved by a map between vocabularies, each target token adding up what comes to it.
#pragma once

#include "reduce.cuh"
#include "tokentiming/rows.h"

namespace tokentiming::cuda {

inline constexpr unsigned kGatherThreads = 256;
inline constexpr int kGatherSteps = 4;  // columns a thread
inline constexpr std::int64_t kGatherColumns = kGatherThreads * kGatherSteps;

struct DeviceOrigins {
  const std::int32_t* offsets;
  std::int64_t targets;
  const std::int32_t* draft_ids;
  std::int64_t count;
  std::int64_t draft_tokens;  // columns of a row that may be read
};

// A stretch of the origins' draft tokens.
struct Stretch {
  std::int32_t begin;
  std::int32_t end;
};

// What has been seen of a row, in bits.
enum Seen : int { kNothing = 0, kMass = 1, kUnsound = 2 };
struct JoinSeen {
  __device__ int operator()(int a, int b) const { return a | b; }
};

__device__ inline bool is_probability(float x) { return x >= 0 && x < INFINITY; }
__device__ inline bool is_probability(double x) { return x >= 0 && x < INFINITY; }

// One lane's view of a row and the map that it is moved by.
template <class Number>
class Gatherer {
 public:
  __device__ Gatherer(const DeviceOrigins& origins, const Number* row)
      : origins_(origins), row_(row) {}

  // What comes to this lane's target token, added up in ascending order of the draft tokens. All
  // lanes of the warp call it. Tokens that many come to, as to a common first letter, are taken by
  // the warp together: it reads 32 entries at once and adds them one by one.
  __device__ Number sum(std::int64_t target) {
    const Stretch mine = stretch(target);
    const bool crowded = mine.end - mine.begin > kFew;
    Number sum = 0;
    if (!crowded) {
      for (std::int32_t k = mine.begin; k < mine.end; ++k) sum += entry(k);
    }
    unsigned left = __ballot_sync(kAllLanes, crowded);
    while (left != 0) {
      const auto lane = static_cast<unsigned>(__ffs(left) - 1);
      left &= left - 1;
      const Stretch theirs{__shfl_sync(kAllLanes, mine.begin, lane),
                           __shfl_sync(kAllLanes, mine.end, lane)};
      const Number together = sum_by_warp(theirs);
      if (threadIdx.x % kWarp == lane) sum = together;
    }
    return sum;
  }

  __device__ Stretch stretch(std::int64_t target) {
    if (target >= origins_.targets) return {0, 0};
    const Stretch found{origins_.offsets[target], origins_.offsets[target + 1]};
    if (0 <= found.begin && found.begin <= found.end && found.end <= origins_.count) return found;
    seen_ |= kUnsound;
    return {0, 0};
  }

  // The probability of the k-th draft token of the origins.
  __device__ Number entry(std::int32_t k) {
    const std::int32_t d = origins_.draft_ids[k];
    const bool within = 0 <= d && d < origins_.draft_tokens;
    const Number p = within ? row_[d] : Number{-1};
    if (!is_probability(p)) seen_ |= kUnsound;
    if (p > 0) seen_ |= kMass;
    return p;
  }

  __device__ int seen() const { return seen_; }

 private:
  static constexpr std::int32_t kFew = 4;

  __device__ Number sum_by_warp(const Stretch& all) {
    const auto lane = static_cast<std::int32_t>(threadIdx.x % kWarp);
    const auto entry_at = [&](std::int32_t k) { return k < all.end ? entry(k) : Number{0}; };
    Number sum = 0;
    Number next = entry_at(all.begin + lane);
    for (std::int32_t k = all.begin; k < all.end; k += static_cast<std::int32_t>(kWarp)) {
      const Number mine = next;
      next = entry_at(k + static_cast<std::int32_t>(kWarp) + lane);
#pragma unroll
      for (unsigned other = 0; other < kWarp; ++other) {
        sum += __shfl_sync(kAllLanes, mine, other);
      }
    }
    return sum;
  }

  const DeviceOrigins& origins_;
  const Number* row_;
  int seen_ = kNothing;
};

// Calls write(column, sum) for this block's part of a row; returns what this thread has seen.
template <class Number, class Write>
__device__ inline int gather_columns(const DeviceOrigins& origins, const Number* row,
                                     std::int64_t columns, const Write& write) {
  Gatherer<Number> gatherer(origins, row);
  for (int step = 0; step < kGatherSteps; ++step) {
    const std::int64_t column =
        blockIdx.x * kGatherColumns + step * static_cast<int>(kGatherThreads) + threadIdx.x;
    const Number sum = gatherer.sum(column);
    if (column < columns) write(column, sum);
  }
  return gatherer.seen();
}

// ---- restrict ----

template <class Number>
struct RestrictArguments {
  Rows<const Number> draft_probs;
  DeviceOrigins origins;
  Rows<Number> probs;
  double* masses;  // of each row; NaN if it has no law
};

// A block a row: its mass on shared tokens.
template <class Number>
__global__ void __launch_bounds__(kGatherThreads)
    shared_mass(const __grid_constant__ RestrictArguments<Number> a) {
  auto& of_warps = shared_memory<OfWarps<double>>();
  Gatherer<Number> gatherer(a.origins, a.draft_probs[blockIdx.x]);
  double mass = 0.0;
  for (std::int64_t k = threadIdx.x; k < a.origins.count; k += kGatherThreads) {
    mass += static_cast<double>(gatherer.entry(static_cast<std::int32_t>(k)));
  }
  if (gatherer.seen() & kUnsound) mass = NAN;
  mass = join_block(mass, of_warps, [](double x, double y) { return x + y; });
  if (threadIdx.x == 0) a.masses[blockIdx.x] = mass > 0.0 ? mass : NAN;
}

// As on the CPU: by the inverse, but for masses so small that it is infinite.
template <class Number>
__device__ inline Number normalised(Number x, double mass) {
  const double factor = 1.0 / mass;
  const auto wide = static_cast<double>(x);
  return static_cast<Number>(factor < INFINITY ? wide * factor : wide / mass);
}

template <class Number>
__global__ void __launch_bounds__(kGatherThreads)
    gather_shared(const __grid_constant__ RestrictArguments<Number> a) {
  const double mass = a.masses[blockIdx.y];
  Number* out = a.probs[blockIdx.y];
  gather_columns(a.origins, a.draft_probs[blockIdx.y], static_cast<std::int64_t>(a.probs.columns),
                 [&](std::int64_t column, Number sum) {
                   out[column] = mass > 0.0 ? normalised(sum, mass) : static_cast<Number>(NAN);
                 });
}

}  // namespace tokentiming::cuda
