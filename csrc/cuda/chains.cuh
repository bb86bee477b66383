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
inline constexpr int kVerifyStep = kVerifyThreads * kEntries;  // entries read at once
inline constexpr int kMostColumns = 1 << 30;
inline constexpr std::size_t kMostSlices = kVerifyThreads;  // blocks a chain
inline constexpr std::int64_t kMissing = -1;  // the id of a draw that hit missing mass
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// In the order of the variant that the host has.
enum class Form { kHalf, kBFloat16, kFloat };

// One distribution a row; its type is asked for once for several entries, which spares a kernel for
// each pair of types.
struct DeviceDistributions {
  const void* data;
  std::int64_t stride;
  Form form;
  bool given;
  bool logits;

  // Calls f with the beginning of a row.
  template <class F>
  __device__ auto with_row(std::int64_t row, const F& f) const {
    switch (form) {
      case Form::kHalf:
        return f(static_cast<const Half*>(data) + row * stride);
      case Form::kBFloat16:
        return f(static_cast<const BFloat16*>(data) + row * stride);
      default:
        return f(static_cast<const float*>(data) + row * stride);
    }
  }
  __device__ float entry(std::int64_t row, int token) const {
    return with_row(row, [&](const auto* numbers) { return widen(numbers[token]); });
  }
  // Eight entries from `at` on; those from `end` on have no probability.
  __device__ void read(std::int64_t row, int at, int end, float (&out)[kEntries]) const {
    with_row(row, [&]<class Number>(const Number* numbers) {
      const Number padding = logits ? lowest_logit<Number>() : Number{};
      const auto eight = Eight<Number>::load(numbers, at, end, padding);
#pragma unroll
      for (int k = 0; k < kEntries; ++k) out[k] = widen(eight[k]);
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
  bool wide_uniforms;
  std::int32_t* tokens;
  std::int64_t tokens_stride;
  std::int64_t tokens_columns;
  std::int32_t* accepted;
  int slices;          // blocks a chain
  std::int64_t slice;  // entries of a row a block
  unsigned* arrivals;  // of each chain
  double* findings;    // of each block, kFindings for even and odd positions each
  double* masses;      // of each block, two
};
inline constexpr int kFindings = 4;

// One block's view of its chain.
class Chain {
 public:
  __device__ explicit Chain(const VerifyArguments& a)
      : a_(a),
        b_(static_cast<int>(blockIdx.x / static_cast<unsigned>(a.slices))),
        slice_(static_cast<int>(blockIdx.x % static_cast<unsigned>(a.slices))),
        begin_(slice_ * a.slice < a.columns ? slice_ * a.slice : a.columns),
        end_(begin_ + a.slice < a.columns ? begin_ + a.slice : a.columns) {}

 protected:
  __device__ bool is_sound() const { return a_.chains.holds(b_) && length() < a_.tokens_columns; }
  __device__ std::int64_t length() const { return a_.chains.end(b_) - a_.chains.begin(b_); }
  __device__ bool at_end() const { return position_ == length(); }
  // Of the position, in drafted tokens and in targets.
  __device__ std::int64_t proposal_row() const { return a_.chains.begin(b_) + position_; }
  __device__ std::int64_t target_row() const { return proposal_row() + b_; }

  // The first entry that this thread has of a step.
  __device__ static int first_of_thread() { return static_cast<int>(threadIdx.x) * kEntries; }

  // Waits for the chain's other blocks. What thread 0 of each has written before, all read after.
  __device__ void meet() {
    if (a_.slices > 1 && threadIdx.x == 0) {
      awaited_ += static_cast<unsigned>(a_.slices);
      __threadfence();
      atomicAdd(a_.arrivals + b_, 1u);
      while (load_acquire(a_.arrivals + b_) < awaited_) pause();
      __threadfence();
    }
    __syncthreads();
  }

  // What a block of this chain has found, or will find, at this position. Two positions take turns,
  // since one block may be writing while another still reads.
  __device__ double* findings(int slice) const {
    const std::int64_t block = static_cast<std::int64_t>(b_) * a_.slices + slice;
    return a_.findings + (2 * block + position_ % 2) * kFindings;
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
    if (slice_ != 0) return;
    std::int32_t* row = a_.tokens + b_ * a_.tokens_stride;
    for (std::int64_t k = threadIdx.x; k < a_.tokens_columns; k += kVerifyThreads) row[k] = -1;
    if (threadIdx.x == 0) a_.accepted[b_] = -1;
  }

  const VerifyArguments& a_;
  int b_;
  int slice_;
  int begin_;  // the block's part of a row
  int end_;
  int position_ = 0;

 private:
  unsigned awaited_ = 0;
};

// Calls f with eight entries of a row at a time that this thread has in the block's part of it.
// Several loads are always under way, each replaced by a further one before f looks at it; only the
// part's end, or a part that is not aligned, is read without.
template <class Number, class F>
__device__ inline void for_each_eight(const Number* row, int begin, int end, const F& f) {
  constexpr int kUnderWay = 64 / sizeof(Eight<Number>);
  const int whole =
      is_aligned(row + begin) ? end - kEntries : begin - 1;  // the last of whole eights
  int at = begin + static_cast<int>(threadIdx.x) * kEntries;
  Eight<Number> eights[kUnderWay] = {};
#pragma unroll
  for (int u = 0; u < kUnderWay; ++u) {
    const int first = at + u * kVerifyStep;
    if (first <= whole) eights[u] = Eight<Number>::load(row + first);
  }
  while (at <= whole) {
#pragma unroll
    for (int u = 0; u < kUnderWay; ++u) {
      if (at > whole) break;
      const Eight<Number> eight = eights[u];
      const int next = at + kUnderWay * kVerifyStep;
      if (next <= whole) eights[u] = Eight<Number>::load(row + next);
      f(eight, at);
      at += kVerifyStep;
    }
  }
  for (; at < end; at += kVerifyStep) {
    f(Eight<Number>::load(row, at, end, lowest_logit<Number>()), at);
  }
}

}  // namespace tokentiming::cuda
