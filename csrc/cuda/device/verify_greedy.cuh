// Verification at temperature 0: a token is accepted if it is the lowest id of the greatest logit.
#pragma once

#include "chains.cuh"

namespace tokentiming::cuda {

// The greatest logit and the lowest id that has it. NaN counts as +inf.
struct ArgMax {
  float logit = -kInfinity;
  int id = -1;
};

__device__ inline ArgMax shuffle_xor(const ArgMax& mine, unsigned other) {
  return {__shfl_xor_sync(kAllLanes, mine.logit, other), shuffle_xor(mine.id, other)};
}

struct ArgMaxOp {
  __device__ ArgMax operator()(const ArgMax& a, const ArgMax& b) const {
    if (a.logit != b.logit) return a.logit > b.logit ? a : b;
    return a.id < b.id ? a : b;
  }
};

struct GreedyShared {
  WarpPartials<ArgMax> argmaxes;
};

class GreedyChain : public Chain {
 public:
  __device__ GreedyChain(const VerifyArguments& a, GreedyShared& shared)
      : Chain(a), shared_(shared) {}

  __device__ void run() {
    if (!is_valid()) return write_invalid();
    for (;; ++position_) {
      const int best = row_argmax();
      if (best < 0) return write_invalid();
      if (!at_end()) {
        const std::int64_t id = a_.ids[proposal_row()];
        if (id == best) continue;
        if (id < 0 || id >= a_.columns) {
          const bool missing = id == kMissingMass && a_.proposals.given && !a_.proposals.is_logits;
          if (!missing) return write_invalid();
        }
      }
      if (rank_ == 0) write(best);
      return;
    }
  }

 private:
  // The argmax of the row at position_; -1 if the row has no finite greatest logit.
  __device__ int row_argmax() {
    const ArgMax mine = block_reduce(thread_argmax(), shared_.argmaxes, ArgMaxOp{});
    if (threadIdx.x == 0) {
      partials(rank_)[0] = static_cast<double>(mine.logit);
      partials(rank_)[1] = static_cast<double>(mine.id);
    }
    synchronize_blocks();
    ArgMax best;
    for (int rank = static_cast<int>(threadIdx.x % kWarp); rank < a_.blocks_per_chain;
         rank += static_cast<int>(kWarp)) {
      const double* block = partials(rank);
      best = ArgMaxOp{}(best,
                        {static_cast<float>(__ldcg(block)), static_cast<int>(__ldcg(block + 1))});
    }
    best = warp_reduce(best, ArgMaxOp{});
    const bool finite = best.logit > -kInfinity && best.logit < kInfinity;
    return finite ? best.id : -1;
  }

  __device__ ArgMax thread_argmax() const {
    return a_.targets.visit_row(target_row(), [&](const auto* row) -> ArgMax {
      ArgMax best;
      for_each_vector(row, begin_, end_, [&](const auto& vector, int at) {
#pragma unroll
        for (int k = 0; k < kVectorSize; ++k) {
          const float x = widen(vector[k]);
          if (x <= best.logit) continue;  // ids are in order: of equal logits the lowest stays
          best = {x < kInfinity ? x : kInfinity, at + k};
        }
      });
      return best;
    });
  }

  GreedyShared& shared_;
};

__global__ void __launch_bounds__(kVerifyThreads)
    verify_greedy(const __grid_constant__ VerifyArguments arguments) {
  GreedyChain(arguments, shared_memory<GreedyShared>()).run();
}

}  // namespace tokentiming::cuda
