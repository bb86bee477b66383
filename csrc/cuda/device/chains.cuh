// Shared by the kernels of verify: their arguments, the division of work among blocks, and how a
// chain's outcome is written.
//
// A position of a chain is decided from its own rows alone. A block reduces one part of the rows of
// one position, and the last block of a position to finish decides on its token. If the token is
// not accepted, that stops the chain: the parts of its later positions see the stop and return.
// Positions are in position-major order, so that few blocks run ahead of a stop. No block waits for
// another.
#pragma once

#include "columns.cuh"
#include "distributions.cuh"
#include "expansions.cuh"
#include "reduce.cuh"

namespace tokentiming::cuda {

inline constexpr unsigned kVerifyThreads = kColumnsThreads;
inline constexpr int kMaxColumns = 1 << 30;
inline constexpr std::int64_t kMissingMass = -1;  // the id of a draft token drawn in missing mass

// A position of a chain. The chain is -1 if there is none.
struct Position {
  int chain;
  int index;
};

// A row of proposals over the draft's vocabulary.
struct DraftRow {
  using Number = float;
  const DeviceDistributions* distributions;
  std::int64_t row;
  Normaliser norm;
  float scale;

  __device__ float operator()(std::int32_t d) const {
    return probability(*distributions, distributions->entry(row, d), norm, scale);
  }
};

// The decision on a position's token, and what the draw needs if the chain stops there.
enum class Action { kAccept, kDraw, kEmit, kInvalid };
struct Decision {
  Action action;
  Normaliser p;
  Normaliser q;
  int token;  // kDraw: the token to exclude, or -1. kEmit: the token after the accepted ones
};

// The first position at which a chain stops, so that a greater number is an earlier position. The
// lower half says which item it is; 0 means that the chain has not stopped.
using Stop = unsigned long long;
__device__ inline Stop stop_at(int position, std::int64_t item) {
  return static_cast<Stop>(~static_cast<unsigned>(position)) << 32 | static_cast<unsigned>(item);
}
__device__ inline int stop_position(Stop stop) {
  return static_cast<int>(~static_cast<unsigned>(stop >> 32));
}
__device__ inline std::int64_t stop_item(Stop stop) { return static_cast<unsigned>(stop); }

struct VerifyArguments {
  AnyIds ids;
  Sequences chains;
  int batch;
  std::int64_t items;  // positions of all chains
  DeviceDistributions proposals;
  DeviceDistributions targets;
  int columns;
  bool greedy;                // all chains, without temperatures
  float scale;                // exp(x / temperature) = 2^(x * scale)
  const float* temperatures;  // [chains], or null
  const void* uniforms;
  bool uniforms_are_double;
  std::int32_t* tokens;
  std::int64_t tokens_stride;
  std::int64_t tokens_columns;
  std::int32_t* accepted;

  AnyIds draft_rows;  // the proposals' row of each token; of null, its own
  std::int64_t proposal_rows;
  int proposal_columns;
  bool has_map;  // proposals are over the draft's vocabulary
  DeviceInverseMap inverse;
  DeviceExpansions expansions;
  float* dense_rows;  // [chains, columns]: with a map, the row of proposals at a chain's stop
  DeviceDistributions drawn_proposals;  // these rows, one a chain; without a map, the proposals
  std::int64_t dense_stride;

  int target_parts;  // of a row of logits; of probabilities 0
  int proposal_parts;
  int columns_per_part;
  int tiles;  // of the draw from a row

  // Initially zero.
  Stop* stops;         // [chains]
  unsigned* order;     // [items, 2]: chain + 1 and position of each item; null for even chains
  unsigned* finished;  // [items]: parts that have finished
  unsigned* finished_draws;  // [chains]: tiles that have finished
  unsigned* row_flags;       // [chains]: RowFlags of the dense rows

  double* partials;     // [items, parts, 2]: the targets' parts, then the proposals'
  Decision* decisions;  // [items]
  double* tile_sums;    // [chains, tiles, 2]

  __device__ Position position(std::int64_t item) const {
    if (order == nullptr) return {static_cast<int>(item % batch), static_cast<int>(item / batch)};
    const unsigned* const found = order + 2 * item;
    return {static_cast<int>(found[0]) - 1, static_cast<int>(found[1])};
  }

  __device__ bool is_greedy(int chain) const {
    return temperatures ? temperatures[chain] == 0.0f : greedy;
  }
  // Negative if the chain's temperature is not a positive number.
  __device__ float scale_of(int chain) const {
    if (temperatures == nullptr) return scale;
    const float temperature = temperatures[chain];
    const bool is_positive = temperature > 0.0f && temperature < kInfinity;
    return is_positive ? scale_at(static_cast<double>(temperature)) : -1.0f;
  }
};

// A chain, and a position of it.
class Chain {
 public:
  __device__ Chain(const VerifyArguments& a, const Position& position)
      : a_(a), b_(position.chain), position_(position.index) {}

  // Whether the chain's offsets are a range of the ids that fits in a row of tokens.
  __device__ bool is_valid() const {
    return a_.chains.is_valid(b_) && length() < a_.tokens_columns;
  }
  __device__ std::int64_t length() const { return a_.chains.end(b_) - a_.chains.begin(b_); }

 protected:
  __device__ bool at_end() const { return position_ == length(); }
  // The index of the position's token, and the rows of the position in the targets and in the
  // proposals. The last may be out of range.
  __device__ std::int64_t token_index() const { return a_.chains.begin(b_) + position_; }
  __device__ std::int64_t target_row() const { return token_index() + b_; }
  __device__ std::int64_t proposal_row() const { return proposal_row(token_index()); }
  __device__ std::int64_t proposal_row(std::int64_t token) const {
    return a_.draft_rows.data ? a_.draft_rows[token] : token;
  }
  __device__ bool is_proposal_row(std::int64_t row) const {
    return 0 <= row && row < a_.proposal_rows;
  }
  // The tokens before this position that were taken from the same row.
  __device__ TakenTokens taken() const {
    const std::int64_t token = token_index();
    std::int64_t first = token;
    if (a_.draft_rows.data) {
      const std::int64_t begin = a_.chains.begin(b_);
      while (first > begin && proposal_row(first - 1) == proposal_row(token)) --first;
    }
    return {a_.ids, first, token - first};
  }

  __device__ bool is_token(std::int64_t id) const { return id >= 0 && id < a_.columns; }
  __device__ double uniform(std::int64_t k) const {
    return a_.uniforms_are_double ? static_cast<const double*>(a_.uniforms)[k]
                                  : static_cast<double>(static_cast<const float*>(a_.uniforms)[k]);
  }
  __device__ static bool is_uniform(double u) { return u >= 0.0 && u < 1.0; }

  // Writes the outcome of the chain, the token being the one after the accepted ones.
  __device__ void write(int token) const {
    std::int32_t* row = a_.tokens + b_ * a_.tokens_stride;
    for (std::int64_t k = threadIdx.x; k < a_.tokens_columns; k += blockDim.x) {
      row[k] = k == position_ ? token : -1;
      if (k < position_) row[k] = static_cast<std::int32_t>(a_.ids[a_.chains.begin(b_) + k]);
    }
    if (threadIdx.x == 0) a_.accepted[b_] = position_;
  }
  __device__ void write_invalid() const {
    std::int32_t* row = a_.tokens + b_ * a_.tokens_stride;
    for (std::int64_t k = threadIdx.x; k < a_.tokens_columns; k += blockDim.x) row[k] = -1;
    if (threadIdx.x == 0) a_.accepted[b_] = -1;
  }

  const VerifyArguments& a_;
  int b_;
  int position_;
};

struct PartShared {
  bool needed;
  bool last;
};

// A position as seen by one of its blocks.
class Part : public Chain {
 public:
  // `parts`: of all rows of the position.
  __device__ Part(const VerifyArguments& a, int parts, PartShared& shared)
      : Chain(a, a.position(blockIdx.x / static_cast<unsigned>(parts))),
        item_(blockIdx.x / static_cast<unsigned>(parts)),
        part_(static_cast<int>(blockIdx.x % static_cast<unsigned>(parts))),
        parts_(parts),
        part_shared_(shared) {}

 protected:
  // False if the chain is known to stop before this position, or is verified in the other way.
  __device__ bool is_needed(bool greedy) const {
    if (b_ < 0 || a_.is_greedy(b_) != greedy) return false;
    if (position_ == 0) return true;
    return block_broadcast(part_shared_.needed, [&] {
      const Stop stop = __ldcg(a_.stops + b_);
      return stop == 0 || stop_position(stop) > position_;
    });
  }

  // Publishes the block's two partial results. True in the last block of the position, which may
  // then read those of all. Thread 0 has the results.
  __device__ bool is_last(double first, double second) const {
    return block_broadcast(part_shared_.last, [&] {
      double* mine = a_.partials + 2 * (item_ * parts_ + part_);
      mine[0] = first;
      mine[1] = second;
      __threadfence();
      const bool last = atomicAdd(a_.finished + item_, 1u) == static_cast<unsigned>(parts_) - 1;
      __threadfence();
      return last;
    });
  }
  // The partial results of a part of this position.
  __device__ double partial(int part, int which) const {
    return __ldcg(a_.partials + 2 * (item_ * parts_ + part) + which);
  }

  // Called by one thread of the last block.
  __device__ void decide(const Decision& decision) const {
    if (decision.action == Action::kAccept) return;
    a_.decisions[item_] = decision;
    atomicMax(a_.stops + b_, stop_at(position_, item_));
  }

  std::int64_t item_;
  int part_;
  int parts_;
  PartShared& part_shared_;
};

// Lists the positions of ragged chains in position-major order. A block has one chain.
inline constexpr unsigned kOrderThreads = 128;
__global__ void __launch_bounds__(kOrderThreads)
    order_positions(const __grid_constant__ VerifyArguments a) {
  const int b = static_cast<int>(blockIdx.x);
  const auto positions = [&](int chain) -> std::int64_t {
    const Chain found(a, {chain, 0});
    return found.is_valid() ? found.length() + 1 : 0;
  };
  const std::int64_t count = positions(b);
  for (std::int64_t index = threadIdx.x; index < count; index += kOrderThreads) {
    std::int64_t item = 0;
    for (int other = 0; other < a.batch; ++other) {
      const std::int64_t others = positions(other);
      item += others < index ? others : index;
      item += other < b && others > index;
    }
    if (item >= a.items) return;  // offsets that overlap
    a.order[2 * item] = static_cast<unsigned>(b) + 1;
    a.order[2 * item + 1] = static_cast<unsigned>(index);
  }
}

}  // namespace tokentiming::cuda
