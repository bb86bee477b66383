// Shared by both kernels of verify: how a thread reads distributions, and how the blocks of a chain
// work together.
//
// The columns of a row are divided among the blocks of its chain. At each position, a block writes
// the partial results of its columns, waits for the other blocks, and reduces the partial results
// of all. Every block reaches the same decision, so that all stop at the chain's first rejection
// and read no row after it.
#pragma once

#include "reduce.cuh"
#include "rows.cuh"

namespace tokentiming::cuda {

inline constexpr unsigned kVerifyThreads = 256;
inline constexpr int kVerifyTile = kVerifyThreads * kVectorSize;  // columns per iteration
inline constexpr int kMaxColumns = 1 << 30;
inline constexpr std::size_t kMaxBlocksPerChain = kVerifyThreads;
inline constexpr std::int64_t kMissingMass = -1;  // the id of a draft token drawn in missing mass
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// In the order of the types in AnyRows.
enum class NumberType { kHalf, kBFloat16, kFloat };

// One distribution a row. The type is a run-time value, tested once for several entries: a kernel
// for each pair of types would multiply the kernels by nine.
struct DeviceDistributions {
  const void* data;
  std::int64_t stride;
  NumberType type;
  bool given;  // false: a chain without proposals
  bool is_logits;

  // Calls f with a pointer to the row, of its own type.
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
  // Reads eight entries from `at` on. Entries from `end` on have probability 0.
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
  float scale;  // exp(x / temperature) = 2^(x * scale)
  const void* uniforms;
  bool uniforms_are_double;
  std::int32_t* tokens;
  std::int64_t tokens_stride;
  std::int64_t tokens_columns;
  std::int32_t* accepted;
  int blocks_per_chain;
  std::int64_t columns_per_block;
  unsigned* barrier_counts;  // [chains]
  double* partials;          // [blocks, 2, kPartials]: partial results at even and odd positions
  double* block_sums;        // [chains, 2, blocks_per_chain]: sums of weights, for two attempts
};
inline constexpr int kPartials = 4;  // partial results of a block at a position

// A chain as seen by one of its blocks.
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
  // The rows of position_ in the proposals and in the targets.
  __device__ std::int64_t proposal_row() const { return a_.chains.begin(b_) + position_; }
  __device__ std::int64_t target_row() const { return proposal_row() + b_; }

  // This thread's first column within a tile.
  __device__ static int thread_offset() { return static_cast<int>(threadIdx.x) * kVectorSize; }

  // A barrier of all blocks of the chain. Writes of each block's thread 0 before it are visible to
  // all threads after it.
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

  // The partial results of one of the chain's blocks at this position. Even and odd positions
  // alternate, because one block may write the next while another still reads.
  __device__ double* partials(int rank) const {
    const std::int64_t block = static_cast<std::int64_t>(b_) * a_.blocks_per_chain + rank;
    return a_.partials + (2 * block + position_ % 2) * kPartials;
  }

  // Writes the outcome of the chain. One block of the chain calls it.
  __device__ void write(int token) const {
    std::int32_t* row = a_.tokens + b_ * a_.tokens_stride;
    for (std::int64_t k = threadIdx.x; k < a_.tokens_columns; k += kVerifyThreads) {
      row[k] = k == position_ ? token : -1;
      if (k < position_) row[k] = static_cast<std::int32_t>(a_.ids[a_.chains.begin(b_) + k]);
    }
    if (threadIdx.x == 0) a_.accepted[b_] = position_;
  }
  // All blocks of the chain call it; one of them writes.
  __device__ void write_invalid() const {
    if (rank_ != 0) return;
    std::int32_t* row = a_.tokens + b_ * a_.tokens_stride;
    for (std::int64_t k = threadIdx.x; k < a_.tokens_columns; k += kVerifyThreads) row[k] = -1;
    if (threadIdx.x == 0) a_.accepted[b_] = -1;
  }

  const VerifyArguments& a_;
  int b_;
  int rank_;
  int begin_;  // this block's columns
  int end_;
  int position_ = 0;

 private:
  unsigned expected_ = 0;
};

// Calls f(vector, column) for each vector of eight entries that this thread has in columns begin to
// end of a row. Several loads are in flight: each vector's successor is loaded before f is called.
// The last columns, and all of an unaligned row, are read without.
template <class Number, class F>
__device__ inline void for_each_vector(const Number* row, int begin, int end, const F& f) {
  constexpr int kLoadsInFlight = 64 / sizeof(Vector<Number>);
  // The last column at which a whole vector starts.
  const int last_full = is_aligned(row + begin) ? end - kVectorSize : begin - 1;
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
