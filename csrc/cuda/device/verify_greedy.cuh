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

// The greatest of a thread's logits. Vectors come in ascending order. The entries of a vector are
// compared with their ids only if one of them exceeds the greatest so far, which is rare.
struct ThreadArgMax {
  ArgMax best;

  template <class Number>
  __device__ void operator()(const Vector<Number>& vector, int at) {
    float maximum = widen(vector[0]);
#pragma unroll
    for (int k = 1; k < kVectorSize; ++k) maximum = max_or_nan(maximum, widen(vector[k]));
    if (maximum <= best.logit) return;
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) {
      const float x = widen(vector[k]);
      if (x <= best.logit) continue;  // of equal logits the lowest id stays
      best = {x < kInfinity ? x : kInfinity, at + k};
    }
  }
  template <class Number>
  __device__ void operator()(Number entry, int at) {
    const float x = widen(entry);
    if (x == -kInfinity) return;
    best = ArgMaxOp{}(best, {x < kInfinity ? x : kInfinity, at});
  }
};

struct GreedyShared {
  PartShared part;
  WarpPartials<ArgMax> argmaxes;
};

class GreedyPart : public Part {
 public:
  __device__ GreedyPart(const VerifyArguments& a, GreedyShared& shared)
      : Part(a, a.target_parts, shared.part), shared_(shared) {}

  __device__ void run() const {
    if (!is_needed(/*greedy=*/true)) return;
    const ArgMax mine = block_reduce(thread_argmax(), shared_.argmaxes, ArgMaxOp{});
    if (!is_last(static_cast<double>(mine.logit), static_cast<double>(mine.id))) return;
    if (threadIdx.x >= kWarp) return;
    ArgMax best;
    for (int part = static_cast<int>(threadIdx.x); part < parts_; part += static_cast<int>(kWarp)) {
      best = ArgMaxOp{}(best,
                        {static_cast<float>(partial(part, 0)), static_cast<int>(partial(part, 1))});
    }
    best = warp_reduce(best, ArgMaxOp{});
    if (threadIdx.x == 0) decide(rule(best));
  }

 private:
  __device__ Decision rule(const ArgMax& best) const {
    const auto stop = [](Action action, int token) { return Decision{action, {}, {}, token}; };
    if (!(best.logit > -kInfinity && best.logit < kInfinity)) return stop(Action::kInvalid, -1);
    if (at_end()) return stop(Action::kEmit, best.id);
    const std::int64_t id = a_.ids[token_index()];
    if (id == best.id) return stop(Action::kAccept, best.id);
    const bool may_miss = a_.proposals.given && (!a_.proposals.is_logits || a_.has_map);
    const bool valid = is_token(id) || (id == kMissingMass && may_miss);
    return stop(valid ? Action::kEmit : Action::kInvalid, best.id);
  }

  __device__ ArgMax thread_argmax() const {
    return a_.targets.visit_row(target_row(), [&](const auto* row) -> ArgMax {
      ThreadArgMax reduce;
      for_each_vector(row, Columns::of_part(row, a_.columns, part_, parts_, a_.columns_per_part),
                      reduce);
      return reduce.best;
    });
  }

  GreedyShared& shared_;
};

__global__ void __launch_bounds__(kVerifyThreads)
    verify_greedy(const __grid_constant__ VerifyArguments arguments) {
  GreedyPart(arguments, shared_memory<GreedyShared>()).run();
}

}  // namespace tokentiming::cuda
