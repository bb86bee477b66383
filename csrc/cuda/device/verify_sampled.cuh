// Verification by sampling: the softmax of the rows of each position that the rule needs, and the
// decision on its token. The draw of the last token is a launch of its own, in verify_draw.cuh.
#pragma once

#include "chains.cuh"
#include "softmax.cuh"

namespace tokentiming::cuda {

// The proposed token of a position, its uniform, and the entries of both rows at its id. The
// entries are 0 if the id is not a token; with a map q_entry is.
struct ProposedToken {
  std::int64_t id;
  double u;
  bool has_row;  // false: the proposals' row is out of range
  float p_entry;
  float q_entry;
};

struct SampledShared {
  PartShared part;
  WarpPartials<SoftmaxState> states;
  SoftmaxState whole[2];  // of the position's two rows
  ProposedToken proposed;
};

class SampledPart : public Part {
 public:
  __device__ SampledPart(const VerifyArguments& a, SampledShared& shared)
      : Part(a, sampled_parts(a.target_parts, a.proposal_parts), shared.part),
        shared_(shared),
        scale_(b_ < 0 ? 0.0f : a.scale_of(b_)) {}

  // Of all rows of a position: those of the targets' row, then those of the proposals' row. A
  // position without logits has one part, which reads no row.
  static constexpr int sampled_parts(int target_parts, int proposal_parts) {
    const int parts = target_parts + proposal_parts;
    return parts == 0 ? 1 : parts;
  }

  __device__ void run() const {
    if (!is_needed(/*greedy=*/false)) return;
    const SoftmaxState mine = block_reduce(thread_softmax(), shared_.states, MergeSoftmax{scale_});
    if (!is_last(static_cast<double>(mine.maximum), mine.sum)) return;
    const unsigned warp = threadIdx.x / kWarp;
    if (warp < 2) {
      const SoftmaxState state = warp == 0 ? p_state() : q_state();
      if (threadIdx.x % kWarp == 0) shared_.whole[warp] = state;
    }
    if (threadIdx.x == 2 * kWarp) shared_.proposed = load_proposed();
    __syncthreads();
    if (threadIdx.x >= kWarp) return;
    const Decision decision = rule();
    if (threadIdx.x == 0) decide(decision);
  }

 private:
  __device__ bool of_p() const { return a_.target_parts > 0; }
  __device__ bool of_q() const { return a_.proposal_parts > 0 && !at_end(); }

  // The online softmax of this thread's entries of the part. At the end of a chain the proposals
  // have no row.
  __device__ SoftmaxState thread_softmax() const {
    const bool is_p = part_ < a_.target_parts;
    if (!is_p && !of_q()) return {};
    const DeviceDistributions& distributions = is_p ? a_.targets : a_.proposals;
    const std::int64_t at_row = is_p ? target_row() : proposal_row();
    if (!is_p && !is_proposal_row(at_row)) return {};
    const int part = is_p ? part_ : part_ - a_.target_parts;
    const int parts = is_p ? a_.target_parts : a_.proposal_parts;
    const int columns = is_p ? a_.columns : a_.proposal_columns;
    return distributions.visit_row(at_row, [&](const auto* row) -> SoftmaxState {
      ThreadSoftmax reduce{scale_};
      for_each_vector(row, Columns::of_part(row, columns, part, parts, a_.columns_per_part),
                      reduce);
      return {reduce.maximum, static_cast<double>(reduce.sum)};
    });
  }

  __device__ SoftmaxState p_state() const {
    return of_p() ? reduce_partials(0, a_.target_parts) : SoftmaxState{};
  }
  __device__ SoftmaxState q_state() const {
    return of_q() ? reduce_partials(a_.target_parts, a_.proposal_parts) : SoftmaxState{};
  }
  // Reduces the partial results of a row. Called by one warp; its first lane has the result.
  __device__ SoftmaxState reduce_partials(int first, int count) const {
    const MergeSoftmax op{scale_};
    SoftmaxState state;
    for (int part = static_cast<int>(threadIdx.x % kWarp); part < count;
         part += static_cast<int>(kWarp)) {
      state = op(state, {static_cast<float>(partial(first + part, 0)), partial(first + part, 1)});
    }
    return warp_reduce(state, op);
  }

  __device__ ProposedToken load_proposed() const {
    if (at_end()) return {};
    const std::int64_t row = proposal_row();
    ProposedToken proposed{a_.ids[token_index()], uniform(target_row()),
                           !a_.proposals.given || is_proposal_row(row), 0.0f, 0.0f};
    if (!is_token(proposed.id) || !proposed.has_row) return proposed;
    const int token = static_cast<int>(proposed.id);
    proposed.p_entry = a_.targets.entry(target_row(), token);
    if (a_.proposals.given && !a_.has_map) proposed.q_entry = a_.proposals.entry(row, token);
    return proposed;
  }

  // Called by one warp; its first lane has the decision.
  __device__ Decision rule() const {
    Decision decision{Action::kInvalid, {}, {}, -1};
    if (scale_ < 0.0f) return decision;
    if (of_p() && !shared_.whole[0].normalise(decision.p)) return decision;
    if (of_q() && !shared_.whole[1].normalise(decision.q)) return decision;
    decision.action = action(decision);
    const bool excludes = decision.action == Action::kDraw && !a_.proposals.given && !at_end();
    if (excludes) decision.token = static_cast<int>(shared_.proposed.id);
    return decision;
  }

  __device__ Action action(const Decision& decision) const {
    const ProposedToken& proposed = shared_.proposed;
    if (at_end()) return Action::kDraw;
    if (!is_uniform(proposed.u) || !proposed.has_row) return Action::kInvalid;
    const bool may_miss = a_.proposals.given && (!a_.proposals.is_logits || a_.has_map);
    if (proposed.id == kMissingMass && may_miss) return Action::kDraw;
    if (!is_token(proposed.id)) return Action::kInvalid;

    const float p = probability(a_.targets, proposed.p_entry, decision.p, scale_);
    const float q = proposal_probability(decision.q);
    if (!is_probability(p) || !is_probability(q)) return Action::kInvalid;
    // u < p / q, without dividing by zero.
    const bool accepted = proposed.u * static_cast<double>(q) < static_cast<double>(p);
    return accepted ? Action::kAccept : Action::kDraw;
  }

  __device__ float proposal_probability(const Normaliser& norm) const {
    if (!a_.proposals.given) return 1.0f;
    if (!a_.has_map) return probability(a_.proposals, shared_.proposed.q_entry, norm, scale_);
    const DraftRow row{&a_.proposals, proposal_row(), norm, scale_};
    float q = 0.0f;
    const unsigned flags = ConditionedRow(a_.inverse, a_.expansions, a_.columns, taken(), row)
                               .read(shared_.proposed.id, q);
    return flags & kInvalid ? NAN : q;
  }

  SampledShared& shared_;
  float scale_;
};

__global__ void __launch_bounds__(kVerifyThreads, 3)
    verify_sampled(const __grid_constant__ VerifyArguments arguments) {
  SampledPart(arguments, shared_memory<SampledShared>()).run();
}

}  // namespace tokentiming::cuda
