// Transfer of distributions by a map between vocabularies. Each target token gathers the
// probabilities of its draft tokens by the inverse map, and sums them in ascending order.
//
// A block takes a tile of columns for several rows, so that it reads the map once for all of them.
// The gathered entries are apart from each other: what is in flight is one entry for each row and
// each of a thread's columns.
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
inline constexpr int kColumnsPerThread = 4;
inline constexpr int kGatherTile = kGatherThreads * kColumnsPerThread;
inline constexpr int kGatherWarps = kGatherThreads / kWarp;
inline constexpr int kLanes = kWarp;
// Rows of a block. A thread has one sum for each of them.
template <class Number>
inline constexpr int kRowsPerGroup = sizeof(Number) == 4 ? 8 : 4;
// The largest number of blocks that leaves each thread the registers it needs.
inline constexpr unsigned kMinBlocksPerMultiprocessor = 2;

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

// The range of a target token, empty for tokens past the last. It has the end -1 if the map is
// malformed.
__device__ inline Range range_of(const DeviceInverseMap& inverse, int target) {
  const auto offset = [&](int t) {
    return inverse.offsets[t < inverse.targets ? t : inverse.targets];
  };
  const Range found{offset(target), offset(target + 1)};
  const bool valid = 0 <= found.begin && found.begin <= found.end && found.end <= inverse.count;
  return valid ? found : Range{0, -1};
}

// What was found in a row, as bits.
enum RowFlags : unsigned { kNoFlags = 0, kHasMass = 1, kInvalid = 2 };
struct BitOr {
  __device__ unsigned operator()(unsigned a, unsigned b) const { return a | b; }
};

__device__ inline bool is_probability(float x) { return x >= 0 && x < INFINITY; }
__device__ inline bool is_probability(double x) { return x >= 0 && x < INFINITY; }

// A row of probabilities in memory.
template <class Number_>
struct ProbabilityRow {
  using Number = Number_;
  const Number* entries;

  __device__ Number operator()(std::int32_t d) const { return entries[d]; }
};

// Writes zeros to a row's columns of this block.
template <class Number>
__device__ inline void clear_columns(Number* out, int columns) {
  const int begin = static_cast<int>(blockIdx.y) * kGatherTile;
#pragma unroll
  for (int step = 0; step < kColumnsPerThread; ++step) {
    const int column = begin + step * int{kGatherThreads} + static_cast<int>(threadIdx.x);
    if (column < columns) out[column] = 0;
  }
}

// Reads rows through an inverse map, for one thread. Row(d) is the probability of draft token d.
template <class Row, int kRows>
class Gatherer {
 public:
  using Number = typename Row::Number;
  using Numbers = Number[kRows];

  __device__ Gatherer(const DeviceInverseMap& inverse, const Row (&rows)[kRows])
      : inverse_(inverse), rows_(rows) {}

  // Whether a warp sums the draft tokens of a target token, because there are many of them, as for
  // a common first letter.
  __device__ static bool is_long(const Range& all) { return all.end - all.begin > kMaxPerLane; }

  __device__ Range range(int target) {
    const Range found = range_of(inverse_, target);
    if (found.end >= 0) return found;
    flags_ |= kAllInvalid;
    return {0, 0};
  }

  // The draft token at an index of the inverse map; -1 at index -1.
  __device__ std::int32_t draft_id(int index) {
    if (index < 0) return -1;
    const std::int32_t d = inverse_.draft_ids[index];
    if (0 <= d && d < inverse_.draft_tokens) return d;
    flags_ |= kAllInvalid;
    return -1;
  }

  // The probabilities of a draft token in all rows; 0 for token -1.
  __device__ void read(std::int32_t d, Numbers& out) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) out[r] = d < 0 ? Number{0} : rows_[r](d);
  }
  __device__ void add_flags(const Numbers& probabilities) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!is_probability(probabilities[r])) flags_ |= unsigned{kInvalid} << 2 * r;
      if (probabilities[r] > 0) flags_ |= unsigned{kHasMass} << 2 * r;
    }
  }

  // Adds the rest of a range in ascending order to the sums, which have its first probabilities.
  __device__ void add_rest(const Range& all, Numbers& sums) {
    for (std::int32_t k = all.begin + 1; k < all.end; ++k) {
      Numbers mine;
      read(draft_id(k), mine);
      add_flags(mine);
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[r] += mine[r];
    }
  }

  // The same sums in the same order, by all lanes of a warp: the lanes load in parallel and add
  // serially.
  __device__ void sum_by_warp(const Range& all, Numbers& sums) {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r] = 0;
    for (int begin = all.begin; begin < all.end; begin += kLanes) {
      Numbers mine;
      read(draft_id(begin + lane < all.end ? begin + lane : -1), mine);
      add_flags(mine);
#pragma unroll
      for (unsigned other = 0; other < kWarp; ++other) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r] += __shfl_sync(kAllLanes, mine[r], other);
      }
    }
  }

  // Two bits for each row.
  __device__ unsigned flags() const { return flags_; }

 private:
  // Maximum number of tokens that a lane sums. The other lanes of its warp may have fewer and wait.
  static constexpr std::int32_t kMaxPerLane = 64;
  static constexpr unsigned kAllInvalid = 0xAAAA & ((1u << 2 * kRows) - 1);

  const DeviceInverseMap& inverse_;
  const Row (&rows_)[kRows];
  unsigned flags_ = kNoFlags;
};

// Which of a block's columns have a long range, one bit each.
using LongColumns = unsigned[kColumnsPerThread * kGatherWarps];

// Calls write(r, column, sum) for each row and each of this block's columns; returns this thread's
// RowFlags, two bits for each row. Each thread sums its own columns, except those with a long
// range, which are often adjacent: the block's warps take them in turn. All threads must call it.
template <class Row, int kRows, class Write>
__device__ inline unsigned gather_columns(const DeviceInverseMap& inverse, const Row (&rows)[kRows],
                                          int columns, LongColumns& long_columns,
                                          const Write& write) {
  using Number = typename Row::Number;
  Gatherer<Row, kRows> gatherer(inverse, rows);
  const int begin = static_cast<int>(blockIdx.y) * kGatherTile;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kLanes;
  const int lane = thread % kLanes;

  Range mine[kColumnsPerThread];
  std::int32_t ids[kColumnsPerThread];
  Number sums[kColumnsPerThread][kRows];
#pragma unroll
  for (int step = 0; step < kColumnsPerThread; ++step) {
    mine[step] = gatherer.range(begin + step * int{kGatherThreads} + thread);
  }
#pragma unroll
  for (int step = 0; step < kColumnsPerThread; ++step) {
    ids[step] = gatherer.draft_id(mine[step].begin < mine[step].end ? mine[step].begin : -1);
  }
#pragma unroll
  for (int step = 0; step < kColumnsPerThread; ++step) gatherer.read(ids[step], sums[step]);
#pragma unroll
  for (int step = 0; step < kColumnsPerThread; ++step) {
    const int column = begin + step * int{kGatherThreads} + thread;
    const bool by_warp = gatherer.is_long(mine[step]);
    const unsigned ballot = __ballot_sync(kAllLanes, by_warp);
    if (lane == 0) long_columns[step * kGatherWarps + warp] = ballot;
    if (by_warp || column >= columns) continue;
    gatherer.add_flags(sums[step]);
    gatherer.add_rest(mine[step], sums[step]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) write(r, column, Number{0} + sums[step][r]);  // no -0
  }
  __syncthreads();
  int turn = 0;
  for (int word = 0; word < kColumnsPerThread * kGatherWarps; ++word) {
    for (unsigned left = long_columns[word]; left != 0; left &= left - 1) {
      if (turn++ % kGatherWarps != warp) continue;
      const int column = begin + word * kLanes + __ffs(left) - 1;
      Number of_column[kRows];
      gatherer.sum_by_warp(gatherer.range(column), of_column);
      if (lane != 0) continue;
#pragma unroll
      for (int r = 0; r < kRows; ++r) write(r, column, of_column[r]);
    }
  }
  return gatherer.flags();
}

// The same for `count` rows, at most kRowsPerGroup, given by row(r). Beyond the count rows are
// repeated, and not written, so that all loads of a column are in flight at once.
template <class Number, class RowOf, class Write>
__device__ inline unsigned gather_group(const DeviceInverseMap& inverse, int count,
                                        const RowOf& row, int columns, LongColumns& long_columns,
                                        const Write& write) {
  using Row = decltype(row(0));
  const auto gather = [&]<int kRows>(std::integral_constant<int, kRows>) {
    Row rows[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) rows[r] = row(r < count ? r : count - 1);
    return gather_columns(inverse, rows, columns, long_columns, [&](int r, int column, Number sum) {
      if (r < count) write(r, column, sum);
    });
  };
  if (count == 1) return gather(std::integral_constant<int, 1>{});
  if (count <= 4) return gather(std::integral_constant<int, 4>{});
  return gather(std::integral_constant<int, kRowsPerGroup<Number>>{});
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

// Groups of rows go along x, which may have more blocks than y. All rows' first blocks then start
// first; their columns are mostly single letters, with the longest ranges.
inline Grid gather_grid(std::size_t groups, std::size_t columns, std::size_t shared_bytes,
                        const char* operation) {
  constexpr std::size_t kEach = kGatherTile;
  constexpr std::size_t kMaxBlocks = 65535;
  if (columns > kMaxBlocks * kEach) {
    refuse(operation, "out has " + std::to_string(columns) +
                          " columns; on a GPU it takes at most " +
                          std::to_string(kMaxBlocks * kEach));
  }
  const std::size_t blocks = std::max<std::size_t>(1, (columns + kEach - 1) / kEach);
  return {static_cast<unsigned>(groups), static_cast<unsigned>(blocks), kGatherThreads,
          shared_bytes};
}

}  // namespace tokentiming::cuda
