// Distributions moved by a map between vocabularies, each target token adding up what comes to it.
#pragma once

#include "reduce.cuh"
#include "tokentiming/rows.h"

namespace tokentiming::cuda {

inline constexpr unsigned kGatherThreads = 256;
inline constexpr int kLoadsInFlight = 4;                  // loads of a thread
inline constexpr int kColumnsPerThread = kLoadsInFlight;  // columns a thread
inline constexpr int kGatherTile = kGatherThreads * kColumnsPerThread;
inline constexpr int kGatherWarps = kGatherThreads / kWarp;
inline constexpr int kLanes = kWarp;
// On a processor at once: as many as leave each its registers.
template <class Number>
inline constexpr unsigned kMinBlocksPerMultiprocessor = sizeof(Number) == 4 ? 5 : 4;

struct DeviceOrigins {
  const std::int32_t* offsets;
  int targets;
  const std::int32_t* draft_ids;
  int count;
  int draft_tokens;  // columns of a row that may be read
};

// A stretch of the origins' draft tokens.
struct Range {
  std::int32_t begin;
  std::int32_t end;
};

// What has been seen of a row, in bits.
enum RowFlags : int { kNoFlags = 0, kHasMass = 1, kInvalid = 2 };
struct BitOr {
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

  // Whether so many come to a target token, as to a common first letter, that a warp adds them up.
  __device__ static bool is_long(const Range& all) { return all.end - all.begin > kMaxPerLane; }

  // The probabilities of some of the origins' draft tokens, 0 for a place that is none, -1. All are
  // under way before one is looked at.
  __device__ void read(const int (&indices)[kLoadsInFlight], Number (&out)[kLoadsInFlight]) {
    std::int32_t ids[kLoadsInFlight];
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) {
      ids[u] = indices[u] < 0 ? -1 : origins_.draft_ids[indices[u]];
      out[u] = indices[u] < 0 ? 0 : -1;
    }
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) out[u] = probability(ids[u], out[u]);
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) add_flags(out[u]);
  }

  // What comes to a target token, added up in ascending order of the draft tokens, the first of
  // which has been read.
  __device__ Number sum(const Range& all, Number first) {
    Number sum = Number{0} + first;  // no -0
    for (std::int32_t k = all.begin + 1; k < all.end; ++k) sum += entry(k);
    return sum;
  }

  // The same, by all lanes of a warp: they read at once what is added up one by one.
  __device__ Number sum_by_warp(const Range& all) {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    Number sum = 0;
    for (int begin = all.begin; begin < all.end; begin += kLoadsInFlight * kLanes) {
      Number mine[kLoadsInFlight];
      load_strided(begin + lane, all.end, kLanes, mine);
#pragma unroll
      for (int u = 0; u < kLoadsInFlight; ++u) {
        if (begin + u * kLanes >= all.end) break;
#pragma unroll
        for (unsigned other = 0; other < kWarp; ++other) {
          sum += __shfl_sync(kAllLanes, mine[u], other);
        }
      }
    }
    return sum;
  }

  // Tokens behind the last have the empty stretch at its end.
  __device__ Range range(int target) {
    const Range found{offset(target), offset(target + 1)};
    if (0 <= found.begin && found.begin <= found.end && found.end <= origins_.count) return found;
    flags_ |= kInvalid;
    return {0, 0};
  }

  // The sum of the origins' entries that this thread of so many has, in any order.
  __device__ double thread_sum(int threads) {
    double sum = 0.0;
    for (int k = static_cast<int>(threadIdx.x); k < origins_.count; k += kLoadsInFlight * threads) {
      Number mine[kLoadsInFlight];
      load_strided(k, origins_.count, threads, mine);
#pragma unroll
      for (int u = 0; u < kLoadsInFlight; ++u) sum += static_cast<double>(mine[u]);
    }
    return sum;
  }

  __device__ int flags() const { return flags_; }

 private:
  // As many as a lane adds up, while the others of its warp may have less to do.
  static constexpr std::int32_t kMaxPerLane = 64;

  __device__ std::int32_t offset(int target) const {
    return origins_.offsets[target < origins_.targets ? target : origins_.targets];
  }

  // The probability of the k-th draft token of the origins.
  __device__ Number entry(std::int32_t k) {
    const Number p = probability(origins_.draft_ids[k], -1);
    add_flags(p);
    return p;
  }

  // Several of them, `step` apart, and 0 from `end` on.
  __device__ void load_strided(int first, int end, int step, Number (&out)[kLoadsInFlight]) {
    int indices[kLoadsInFlight];
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) {
      indices[u] = first + u * step < end ? first + u * step : -1;
    }
    read(indices, out);
  }

  __device__ Number probability(std::int32_t d, Number if_missing) const {
    return 0 <= d && d < origins_.draft_tokens ? row_[d] : if_missing;
  }
  __device__ void add_flags(Number p) {
    if (!is_probability(p)) flags_ |= kInvalid;
    if (p > 0) flags_ |= kHasMass;
  }

  const DeviceOrigins& origins_;
  const Number* row_;
  int flags_ = kNoFlags;
};

// Which of a block's columns are crowded, a bit each.
using LongColumns = unsigned[kColumnsPerThread * kGatherWarps];

// Calls write(column, sum) for this block's part of a row; returns what this thread has seen. A
// thread adds up what comes to its columns, but for the crowded ones: those lie side by side, and
// the block's warps take them in turn. All threads have to call it.
template <class Number, class Write>
__device__ inline int gather_columns(const DeviceOrigins& origins, const Number* row, int columns,
                                     LongColumns& long_columns, const Write& write) {
  Gatherer<Number> gatherer(origins, row);
  const int begin = static_cast<int>(blockIdx.y) * kGatherTile;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kLanes;
  const int lane = thread % kLanes;

  Range mine[kColumnsPerThread];
  int indices[kColumnsPerThread];
  Number firsts[kColumnsPerThread];
#pragma unroll
  for (int step = 0; step < kColumnsPerThread; ++step) {
    mine[step] = gatherer.range(begin + step * int{kGatherThreads} + thread);
    indices[step] = mine[step].begin < mine[step].end ? mine[step].begin : -1;
  }
  gatherer.read(indices, firsts);
#pragma unroll
  for (int step = 0; step < kColumnsPerThread; ++step) {
    const int column = begin + step * int{kGatherThreads} + thread;
    const bool by_warp = gatherer.is_long(mine[step]);
    const unsigned ballot = __ballot_sync(kAllLanes, by_warp);
    if (lane == 0) long_columns[step * kGatherWarps + warp] = ballot;
    if (!by_warp && column < columns) write(column, gatherer.sum(mine[step], firsts[step]));
  }
  __syncthreads();
  int turn = 0;
  for (int word = 0; word < kColumnsPerThread * kGatherWarps; ++word) {
    for (unsigned left = long_columns[word]; left != 0; left &= left - 1) {
      if (turn++ % kGatherWarps != warp) continue;
      const int column = begin + word * kLanes + __ffs(left) - 1;
      const Number sum = gatherer.sum_by_warp(gatherer.range(column));
      if (lane == 0) write(column, sum);
    }
  }
  return gatherer.flags();
}

// ---- restrict ----

template <class Number>
struct RestrictArguments {
  Rows<const Number> draft_probs;
  DeviceOrigins origins;
  Rows<Number> probs;
  double* masses;  // of each row; NaN if it has no distribution
};

inline constexpr unsigned kMassThreads = 1024;

// A block a row: its mass on shared tokens.
template <class Number>
__global__ void __launch_bounds__(kMassThreads)
    shared_mass(const __grid_constant__ RestrictArguments<Number> a) {
  Gatherer<Number> gatherer(a.origins, a.draft_probs[blockIdx.x]);
  double mass = gatherer.thread_sum(kMassThreads);
  if (gatherer.flags() & kInvalid) mass = NAN;
  mass = block_reduce(mass, shared_memory<WarpPartials<double>>(),
                      [](double x, double y) { return x + y; });
  if (threadIdx.x == 0) a.masses[blockIdx.x] = mass > 0.0 ? mass : NAN;
}

// As on the CPU: by the inverse, but for masses so small that it is infinite.
template <class Number>
__device__ inline Number normalised(Number x, double mass) {
  const double factor = 1.0 / mass;
  const auto x_double = static_cast<double>(x);
  return static_cast<Number>(factor < INFINITY ? x_double * factor : x_double / mass);
}

template <class Number>
__global__ void __launch_bounds__(kGatherThreads, kMinBlocksPerMultiprocessor<Number>)
    gather_shared(const __grid_constant__ RestrictArguments<Number> a) {
  const double mass = a.masses[blockIdx.x];
  Number* out = a.probs[blockIdx.x];
  gather_columns(a.origins, a.draft_probs[blockIdx.x], static_cast<int>(a.probs.columns),
                 shared_memory<LongColumns>(), [&](int column, Number sum) {
                   out[column] = normalised(sum, mass);  // NaN if the mass is
                 });
}

}  // namespace tokentiming::cuda
