// Distributions moved by a map between vocabularies, each target token adding up what comes to it.
#pragma once

#include "reduce.cuh"
#include "tokentiming/rows.h"

namespace tokentiming::cuda {

inline constexpr unsigned kGatherThreads = 256;
inline constexpr int kUnderWay = 4;             // loads of a thread
inline constexpr int kGatherSteps = kUnderWay;  // columns a thread
inline constexpr int kGatherColumns = kGatherThreads * kGatherSteps;
inline constexpr int kGatherWarps = kGatherThreads / kWarp;
inline constexpr int kLanes = kWarp;
// On a processor at once: as many as leave each its registers.
template <class Number>
inline constexpr unsigned kGatherBlocks = sizeof(Number) == 4 ? 5 : 4;

struct DeviceOrigins {
  const std::int32_t* offsets;
  int targets;
  const std::int32_t* draft_ids;
  int count;
  int draft_tokens;  // columns of a row that may be read
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

  // Whether so many come to a target token, as to a common first letter, that a warp adds them up.
  __device__ static bool is_crowded(const Stretch& all) { return all.end - all.begin > kFew; }

  // The probabilities of some of the origins' draft tokens, 0 for a place that is none, -1. All are
  // under way before one is looked at.
  __device__ void read(const int (&places)[kUnderWay], Number (&out)[kUnderWay]) {
    std::int32_t ids[kUnderWay];
#pragma unroll
    for (int u = 0; u < kUnderWay; ++u) {
      ids[u] = places[u] < 0 ? -1 : origins_.draft_ids[places[u]];
      out[u] = places[u] < 0 ? 0 : -1;
    }
#pragma unroll
    for (int u = 0; u < kUnderWay; ++u) out[u] = probability(ids[u], out[u]);
#pragma unroll
    for (int u = 0; u < kUnderWay; ++u) look_at(out[u]);
  }

  // What comes to a target token, added up in ascending order of the draft tokens, the first of
  // which has been read.
  __device__ Number sum(const Stretch& all, Number first) {
    Number sum = Number{0} + first;  // no -0
    for (std::int32_t k = all.begin + 1; k < all.end; ++k) sum += entry(k);
    return sum;
  }

  // The same, by all lanes of a warp: they read at once what is added up one by one.
  __device__ Number sum_by_warp(const Stretch& all) {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    Number sum = 0;
    for (int begin = all.begin; begin < all.end; begin += kUnderWay * kLanes) {
      Number mine[kUnderWay];
      read_apart(begin + lane, all.end, kLanes, mine);
#pragma unroll
      for (int u = 0; u < kUnderWay; ++u) {
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
  __device__ Stretch stretch(int target) {
    const Stretch found{offset(target), offset(target + 1)};
    if (0 <= found.begin && found.begin <= found.end && found.end <= origins_.count) return found;
    seen_ |= kUnsound;
    return {0, 0};
  }

  // The sum of the origins' entries that this thread of so many has, in any order.
  __device__ double share(int threads) {
    double sum = 0.0;
    for (int k = static_cast<int>(threadIdx.x); k < origins_.count; k += kUnderWay * threads) {
      Number mine[kUnderWay];
      read_apart(k, origins_.count, threads, mine);
#pragma unroll
      for (int u = 0; u < kUnderWay; ++u) sum += static_cast<double>(mine[u]);
    }
    return sum;
  }

  __device__ int seen() const { return seen_; }

 private:
  // As many as a lane adds up, while the others of its warp may have less to do.
  static constexpr std::int32_t kFew = 64;

  __device__ std::int32_t offset(int target) const {
    return origins_.offsets[target < origins_.targets ? target : origins_.targets];
  }

  // The probability of the k-th draft token of the origins.
  __device__ Number entry(std::int32_t k) {
    const Number p = probability(origins_.draft_ids[k], -1);
    look_at(p);
    return p;
  }

  // Several of them, `step` apart, and 0 from `end` on.
  __device__ void read_apart(int first, int end, int step, Number (&out)[kUnderWay]) {
    int places[kUnderWay];
#pragma unroll
    for (int u = 0; u < kUnderWay; ++u) {
      places[u] = first + u * step < end ? first + u * step : -1;
    }
    read(places, out);
  }

  __device__ Number probability(std::int32_t d, Number of_none) const {
    return 0 <= d && d < origins_.draft_tokens ? row_[d] : of_none;
  }
  __device__ void look_at(Number p) {
    if (!is_probability(p)) seen_ |= kUnsound;
    if (p > 0) seen_ |= kMass;
  }

  const DeviceOrigins& origins_;
  const Number* row_;
  int seen_ = kNothing;
};

// Which of a block's columns are crowded, a bit each.
using Crowded = unsigned[kGatherSteps * kGatherWarps];

// Calls write(column, sum) for this block's part of a row; returns what this thread has seen. A
// thread adds up what comes to its columns, but for the crowded ones: those lie side by side, and
// the block's warps take them in turn. All threads have to call it.
template <class Number, class Write>
__device__ inline int gather_columns(const DeviceOrigins& origins, const Number* row, int columns,
                                     Crowded& crowded, const Write& write) {
  Gatherer<Number> gatherer(origins, row);
  const int begin = static_cast<int>(blockIdx.y) * kGatherColumns;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kLanes;
  const int lane = thread % kLanes;

  Stretch mine[kGatherSteps];
  int places[kGatherSteps];
  Number firsts[kGatherSteps];
#pragma unroll
  for (int step = 0; step < kGatherSteps; ++step) {
    mine[step] = gatherer.stretch(begin + step * int{kGatherThreads} + thread);
    places[step] = mine[step].begin < mine[step].end ? mine[step].begin : -1;
  }
  gatherer.read(places, firsts);
#pragma unroll
  for (int step = 0; step < kGatherSteps; ++step) {
    const int column = begin + step * int{kGatherThreads} + thread;
    const bool together = gatherer.is_crowded(mine[step]);
    const unsigned votes = __ballot_sync(kAllLanes, together);
    if (lane == 0) crowded[step * kGatherWarps + warp] = votes;
    if (!together && column < columns) write(column, gatherer.sum(mine[step], firsts[step]));
  }
  __syncthreads();
  int turn = 0;
  for (int word = 0; word < kGatherSteps * kGatherWarps; ++word) {
    for (unsigned left = crowded[word]; left != 0; left &= left - 1) {
      if (turn++ % kGatherWarps != warp) continue;
      const int column = begin + word * kLanes + __ffs(left) - 1;
      const Number sum = gatherer.sum_by_warp(gatherer.stretch(column));
      if (lane == 0) write(column, sum);
    }
  }
  return gatherer.seen();
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
  double mass = gatherer.share(kMassThreads);
  if (gatherer.seen() & kUnsound) mass = NAN;
  mass =
      join_block(mass, shared_memory<OfWarps<double>>(), [](double x, double y) { return x + y; });
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
__global__ void __launch_bounds__(kGatherThreads, kGatherBlocks<Number>)
    gather_shared(const __grid_constant__ RestrictArguments<Number> a) {
  const double mass = a.masses[blockIdx.x];
  Number* out = a.probs[blockIdx.x];
  gather_columns(a.origins, a.draft_probs[blockIdx.x], static_cast<int>(a.probs.columns),
                 shared_memory<Crowded>(), [&](int column, Number sum) {
                   out[column] = normalised(sum, mass);  // NaN if the mass is
                 });
}

}  // namespace tokentiming::cuda
