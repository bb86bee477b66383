// Transfer of distributions by a map between vocabularies. Each target token gathers the
// probabilities of its draft tokens by the inverse map, and sums them in ascending order.
#pragma once

#include <algorithm>
#include <limits>
#include <string>

#include "launch.h"
#include "reduce.cuh"
#include "refuse.h"
#include "tokentiming/transfer.h"

namespace tokentiming::cuda {

inline constexpr unsigned kGatherThreads = 256;
inline constexpr int kLoadsInFlight = 4;  // of a thread
inline constexpr int kColumnsPerThread = kLoadsInFlight;
inline constexpr int kGatherTile = kGatherThreads * kColumnsPerThread;
inline constexpr int kGatherWarps = kGatherThreads / kWarp;
inline constexpr int kLanes = kWarp;
// The largest number of blocks that leaves each thread the registers it needs.
template <class Number>
inline constexpr unsigned kMinBlocksPerMultiprocessor = sizeof(Number) == 4 ? 5 : 4;

struct DeviceInverseMap {
  const std::int32_t* offsets;
  int targets;
  const std::int32_t* draft_ids;
  int count;
  int draft_tokens;  // columns of a row that may be read
};

// A range of the inverse map's draft tokens.
struct Range {
  std::int32_t begin;
  std::int32_t end;
};

// What was found in a row, as bits.
enum RowFlags : int { kNoFlags = 0, kHasMass = 1, kInvalid = 2 };
struct BitOr {
  __device__ int operator()(int a, int b) const { return a | b; }
};

__device__ inline bool is_probability(float x) { return x >= 0 && x < INFINITY; }
__device__ inline bool is_probability(double x) { return x >= 0 && x < INFINITY; }

// Reads a row through an inverse map, for one thread.
template <class Number>
class Gatherer {
 public:
  __device__ Gatherer(const DeviceInverseMap& inverse, const Number* row)
      : inverse_(inverse), row_(row) {}

  // Whether a warp sums the draft tokens of a target token, because there are many of them, as for
  // a common first letter.
  __device__ static bool is_long(const Range& all) { return all.end - all.begin > kMaxPerLane; }

  // Reads the probabilities of the draft tokens at some indices of the inverse map; 0 at index -1.
  // All loads are in flight before the first result is used.
  __device__ void read(const int (&indices)[kLoadsInFlight], Number (&out)[kLoadsInFlight]) {
    std::int32_t ids[kLoadsInFlight];
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) {
      ids[u] = indices[u] < 0 ? -1 : inverse_.draft_ids[indices[u]];
      out[u] = indices[u] < 0 ? 0 : -1;
    }
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) out[u] = probability(ids[u], out[u]);
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) add_flags(out[u]);
  }

  // The sum over a range in ascending order. `first` is its first probability.
  __device__ Number sum(const Range& all, Number first) {
    Number sum = Number{0} + first;  // no -0
    for (std::int32_t k = all.begin + 1; k < all.end; ++k) sum += entry(k);
    return sum;
  }

  // The same sum in the same order, by all lanes of a warp: the lanes load in parallel and add
  // serially.
  __device__ Number sum_by_warp(const Range& all) {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    Number sum = 0;
    for (int begin = all.begin; begin < all.end; begin += kLoadsInFlight * kLanes) {
      Number mine[kLoadsInFlight];
      read_strided(begin + lane, all.end, kLanes, mine);
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

  // The range of a target token; empty for tokens past the last.
  __device__ Range range(int target) {
    const Range found{offset(target), offset(target + 1)};
    if (0 <= found.begin && found.begin <= found.end && found.end <= inverse_.count) return found;
    flags_ |= kInvalid;
    return {0, 0};
  }

  // This thread's part of the sum over the whole inverse map, in no fixed order.
  __device__ double thread_sum(int threads) {
    double sum = 0.0;
    for (int k = static_cast<int>(threadIdx.x); k < inverse_.count; k += kLoadsInFlight * threads) {
      Number mine[kLoadsInFlight];
      read_strided(k, inverse_.count, threads, mine);
#pragma unroll
      for (int u = 0; u < kLoadsInFlight; ++u) sum += static_cast<double>(mine[u]);
    }
    return sum;
  }

  __device__ int flags() const { return flags_; }

 private:
  // Maximum number of tokens that a lane sums. The other lanes of its warp may have fewer and wait.
  static constexpr std::int32_t kMaxPerLane = 64;

  __device__ std::int32_t offset(int target) const {
    return inverse_.offsets[target < inverse_.targets ? target : inverse_.targets];
  }

  // The probability of the draft token at index k of the inverse map.
  __device__ Number entry(std::int32_t k) {
    const Number p = probability(inverse_.draft_ids[k], -1);
    add_flags(p);
    return p;
  }

  // Reads several, `step` indices apart; 0 from `end` on.
  __device__ void read_strided(int first, int end, int step, Number (&out)[kLoadsInFlight]) {
    int indices[kLoadsInFlight];
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) {
      indices[u] = first + u * step < end ? first + u * step : -1;
    }
    read(indices, out);
  }

  __device__ Number probability(std::int32_t d, Number if_missing) const {
    return 0 <= d && d < inverse_.draft_tokens ? row_[d] : if_missing;
  }
  __device__ void add_flags(Number p) {
    if (!is_probability(p)) flags_ |= kInvalid;
    if (p > 0) flags_ |= kHasMass;
  }

  const DeviceInverseMap& inverse_;
  const Number* row_;
  int flags_ = kNoFlags;
};

// Which of a block's columns have a long range, one bit each.
using LongColumns = unsigned[kColumnsPerThread * kGatherWarps];

// Calls write(column, sum) for each of this block's columns of a row; returns this thread's
// RowFlags. Each thread sums its own columns, except those with a long range, which are often
// adjacent: the block's warps take them in turn. All threads must call it.
template <class Number, class Write>
__device__ inline int gather_columns(const DeviceInverseMap& inverse, const Number* row,
                                     int columns, LongColumns& long_columns, const Write& write) {
  Gatherer<Number> gatherer(inverse, row);
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

// As on the CPU: multiplies by 1 / mass, or divides if 1 / mass is infinite.
template <class Number>
__device__ inline Number normalised(Number x, double mass) {
  const double factor = 1.0 / mass;
  const auto x_double = static_cast<double>(x);
  return static_cast<Number>(factor < INFINITY ? x_double * factor : x_double / mass);
}

// ---- host ----

inline DeviceInverseMap device_inverse(const InverseMap& inverse, const char* name,
                                       std::size_t columns, std::size_t draft_tokens,
                                       const char* operation) {
  if (inverse.offsets.empty()) {
    refuse(operation, std::string(name) + " has no offsets; a GPU needs the inverse of the map");
  }
  const std::size_t targets = inverse.offsets.size() - 1;
  if (targets > columns) {
    refuse(operation, std::string(name) + " has " + std::to_string(targets) +
                          " target tokens, more than the " + std::to_string(columns) +
                          " columns of out");
  }
  // The kernels count in int. Half of its range leaves space to step past the end.
  const auto to_int = [](std::size_t size) {
    return static_cast<int>(std::min<std::size_t>(size, std::numeric_limits<int>::max() / 2));
  };
  return {inverse.offsets.data(), to_int(targets), inverse.draft_ids.data(),
          to_int(inverse.draft_ids.size()), to_int(draft_tokens)};
}

// Rows go along x, which may have more blocks than y. All rows' first blocks then start first;
// their columns are mostly single letters, with the longest ranges.
template <class Number>
Grid gather_grid(const Rows<Number>& probs, std::size_t shared_bytes, const char* operation) {
  constexpr std::size_t kEach = kGatherTile;
  constexpr std::size_t kMaxBlocks = 65535;
  if (probs.columns > kMaxBlocks * kEach) {
    refuse(operation, "out has " + std::to_string(probs.columns) +
                          " columns; on a GPU it takes at most " +
                          std::to_string(kMaxBlocks * kEach));
  }
  const std::size_t blocks = std::max<std::size_t>(1, (probs.columns + kEach - 1) / kEach);
  return {static_cast<unsigned>(probs.rows), static_cast<unsigned>(blocks), kGatherThreads,
          shared_bytes};
}

}  // namespace tokentiming::cuda
