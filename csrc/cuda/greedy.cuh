// Verification at temperature 0: a token is accepted where it is the lowest id of greatest logit.
#pragma once

#include "chains.cuh"

namespace tokentiming::cuda {

// The greatest logit and the lowest id that has it; +inf stands for NaN too.
struct Best {
  float logit = -kInfinity;
  int id = -1;
};

__device__ inline Best exchanged(const Best& mine, unsigned other) {
  return {__shfl_xor_sync(kAllLanes, mine.logit, other), exchanged(mine.id, other)};
}

struct JoinBests {
  __device__ Best operator()(const Best& a, const Best& b) const {
    if (a.logit != b.logit) return a.logit > b.logit ? a : b;
    return a.id < b.id ? a : b;
  }
};

struct GreedyShared {
  OfWarps<Best> bests;
};

class GreedyChain : public Chain {
 public:
  __device__ GreedyChain(const VerifyArguments& a, GreedyShared& shared)
      : Chain(a), shared_(shared) {}

  __device__ void run() {
    if (!is_sound()) return write_invalid();
    for (;; ++position_) {
      const int best = best_of_row();
      if (best < 0) return write_invalid();
      if (!at_end()) {
        const std::int64_t id = a_.ids[proposal_row()];
        if (id == best) continue;
        if (id < 0 || id >= a_.columns) {
          const bool missing = id == kMissing && a_.proposals.given && !a_.proposals.logits;
          if (!missing) return write_invalid();
        }
      }
      if (slice_ == 0) write(best);
      return;
    }
  }

 private:
  // -1 if it has none.
  __device__ int best_of_row() {
    const Best mine = join_block(part_of_row(), shared_.bests, JoinBests{});
    if (threadIdx.x == 0) {
      findings(slice_)[0] = static_cast<double>(mine.logit);
      findings(slice_)[1] = static_cast<double>(mine.id);
    }
    meet();
    Best best;
    for (int s = static_cast<int>(threadIdx.x % kWarp); s < a_.slices;
         s += static_cast<int>(kWarp)) {
      const double* found = findings(s);
      best = JoinBests{}(best,
                         {static_cast<float>(__ldcg(found)), static_cast<int>(__ldcg(found + 1))});
    }
    best = join_warp(best, JoinBests{});
    const bool finite = best.logit > -kInfinity && best.logit < kInfinity;
    return finite ? best.id : -1;
  }

  __device__ Best part_of_row() const {
    return a_.targets.with_row(target_row(), [&](const auto* row) -> Best {
      Best best;
      for_each_eight(row, begin_, end_, [&](const auto& eight, int at) {
#pragma unroll
        for (int k = 0; k < kEntries; ++k) {
          const float x = widen(eight[k]);
          if (x <= best.logit) continue;  // ids come in order: of equal logits the lowest stays
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
