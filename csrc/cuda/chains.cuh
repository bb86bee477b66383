// What both kernels of verify share: the distributions as a thread reads them, and the blocks of a
// chain.
//
// The row of a position is divided among the blocks of its chain, which go from one position to the
// next together: each writes what it found in its part, waits for the others, and draws the same
// conclusion from what all have written. So the chain ends for all of them at its first rejection,
// and no row behind that is read.
#pragma once

#include "reduce.cuh"
#include "rows.cuh"

namespace tokentiming::cuda {

inline constexpr unsigned kVerifyThreads = 256;
inline constexpr int kVerifyTile = kVerifyThreads * kVectorSize;  // entries read at once
inline constexpr int kMaxColumns = 1 << 30;
inline constexpr std::size_t kMaxBlocksPerChain = kVerifyThreads;  // blocks a chain
inline constexpr std::int64_t kMissingMass = -1;  // the id of a draw that hit missing mass
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// In the order of the variant that the host has.
enum class NumberType { kHalf, kBFloat16, kFloat };

// One distribution a row; its type is asked for once for several entries, which spares a kernel for
// each pair of types.
struct DeviceDistributions {
  const void* data;
  std::int64_t stride;
  NumberType type;
  bool given;
  bool is_logits;

  // Calls f with the beginning of a row.
  template <class F>
  __device__ auto visit_row(std::int64_t row, const F& f) const {
    switch (type) {
      case NumberType::kHalf:
        return f(static_cast<const Half*>(data) + row * stride);
      case NumberType::kBFloat16:
        return f(static_cast<const BFloat16*>(data) + row * stride);
      default:
        return f(static_cast<const float*>(data) + row * stride);
    }
  }
  __device__ float entry(std::int64_t row, int token) const {
    return visit_row(row, [&](const auto* numbers) { return widen(numbers[token]); });
  }
  // Eight entries from `at` on; those from `end` on have no probability.
  __device__ void read(std::int64_t row, int at, int end, float (&out)[kVectorSize]) const {
    visit_row(row, [&]<class Number>(const Number* numbers) {
      const Number padding = is_logits ? lowest_logit<Number>() : Number{};
      const auto vector = Vector<Number>::load(numbers, at, end, padding);
#pragma unroll
      for (int k = 0; k < kVectorSize; ++k) out[k] = widen(vector[k]);
    });
  }
};

struct VerifyArguments {
  AnyIds ids;
  Sequences chains;
  DeviceDistributions proposals;
  DeviceDistributions targets;
  int columns;
  float scale;  // logits to powers of two
  const void* uniforms;
  bool uniforms_are_double;
  std::int32_t* tokens;
  std::int64_t tokens_stride;
  std::int64_t tokens_columns;
  std::int32_t* accepted;
  int blocks_per_chain;            // blocks a chain
  std::int64_t columns_per_block;  // entries of a row a block
  unsigned* barrier_counts;        // of each chain
  double* partials;                // of each block, kPartials for even and odd positions each
  double* block_sums;              // of each block, two
};
inline constexpr int kPartials = 4;

// One block's view of its chain.
class Chain {
 public:
  __device__ explicit Chain(const VerifyArguments& a)
      : a_(a),
        b_(static_cast<int>(blockIdx.x / static_cast<unsigned>(a.blocks_per_chain))),
        rank_(static_cast<int>(blockIdx.x % static_cast<unsigned>(a.blocks_per_chain))),
        begin_(rank_ * a.columns_per_block < a.columns ? rank_ * a.columns_per_block : a.columns),
        end_(begin_ + a.columns_per_block < a.columns ? begin_ + a.columns_per_block : a.columns) {}

 protected:
  __device__ bool is_valid() const {
    return a_.chains.is_valid(b_) && length() < a_.tokens_columns;
  }
  __device__ std::int64_t length() const { return a_.chains.end(b_) - a_.chains.begin(b_); }
  __device__ bool at_end() const { return position_ == length(); }
  // Of the position, in drafted tokens and in targets.
  __device__ std::int64_t proposal_row() const { return a_.chains.begin(b_) + position_; }
  __device__ std::int64_t target_row() const { return proposal_row() + b_; }

  // The first entry that this thread has of a step.
  __device__ static int thread_offset() { return static_cast<int>(threadIdx.x) * kVectorSize; }

  // Waits for the chain's other blocks. What thread 0 of each has written before, all read after.
  __device__ void synchronize_blocks() {
    if (a_.blocks_per_chain > 1 && threadIdx.x == 0) {
      expected_ += static_cast<unsigned>(a_.blocks_per_chain);
      __threadfence();
      atomicAdd(a_.barrier_counts + b_, 1u);
      while (load_acquire(a_.barrier_counts + b_) < expected_) spin_wait();
      __threadfence();
    }
    __syncthreads();
  }

  // What a block of this chain has found, or will find, at this position. Two positions take turns,
  // since one block may be writing while another still reads.
  __device__ double* partials(int rank) const {
    const std::int64_t block = static_cast<std::int64_t>(b_) * a_.blocks_per_chain + rank;
    return a_.partials + (2 * block + position_ % 2) * kPartials;
  }

  // The chain's outcome, by one block.
  __device__ void write(int token) const {
    std::int32_t* row = a_.tokens + b_ * a_.tokens_stride;
    for (std::int64_t k = threadIdx.x; k < a_.tokens_columns; k += kVerifyThreads) {
      row[k] = k == position_ ? token : -1;
      if (k < position_) row[k] = static_cast<std::int32_t>(a_.ids[a_.chains.begin(b_) + k]);
    }
    if (threadIdx.x == 0) a_.accepted[b_] = position_;
  }
  // All blocks of a chain find it invalid alike.
  __device__ void write_invalid() const {
    if (rank_ != 0) return;
    std::int32_t* row = a_.tokens + b_ * a_.tokens_stride;
    for (std::int64_t k = threadIdx.x; k < a_.tokens_columns; k += kVerifyThreads) row[k] = -1;
    if (threadIdx.x == 0) a_.accepted[b_] = -1;
  }

  const VerifyArguments& a_;
  int b_;
  int rank_;
  int begin_;  // the block's part of a row
  int end_;
  int position_ = 0;

 private:
  unsigned expected_ = 0;
};

// Calls f with eight entries of a row at a time that this thread has in the block's part of it.
// Several loads are always under way, each replaced by a further one before f looks at it; only the
// part's end, or a part that is not aligned, is read without.
template <class Number, class F>
__device__ inline void for_each_vector(const Number* row, int begin, int end, const F& f) {
  constexpr int kLoadsInFlight = 64 / sizeof(Vector<Number>);
  const int last_full =
      is_aligned(row + begin) ? end - kVectorSize : begin - 1;  // the last of whole eights
  int at = begin + static_cast<int>(threadIdx.x) * kVectorSize;
  Vector<Number> vectors[kLoadsInFlight] = {};
#pragma unroll
  for (int u = 0; u < kLoadsInFlight; ++u) {
    const int first = at + u * kVerifyTile;
    if (first <= last_full) vectors[u] = Vector<Number>::load(row + first);
  }
  while (at <= last_full) {
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) {
      if (at > last_full) break;
      const Vector<Number> vector = vectors[u];
      const int next = at + kLoadsInFlight * kVerifyTile;
      if (next <= last_full) vectors[u] = Vector<Number>::load(row + next);
      f(vector, at);
      at += kVerifyTile;
    }
  }
  for (; at < end; at += kVerifyTile) {
    f(Vector<Number>::load(row, at, end, lowest_logit<Number>()), at);
  }
}

}  // namespace tokentiming::cuda
