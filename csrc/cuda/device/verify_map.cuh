// With a map: the row of proposals at the token where a chain stops, over the target's vocabulary.
// It is the only row of that width that verify writes for a chain.
#pragma once

#include "chains.cuh"

namespace tokentiming::cuda {

struct MapShared {
  LongColumns long_columns;
  WarpPartials<unsigned> partials;
};

// The row of a chain that was stopped by a rejection.
class RejectedRow : public Chain {
 public:
  __device__ RejectedRow(const VerifyArguments& a, int b)
      : Chain(a, {b, stop_position(a.stops[b])}), stop_(a.stops[b]) {}

  // False if the chain is drawn from the targets alone, or not at all.
  __device__ bool is_needed() const {
    if (stop_ == 0 || at_end()) return false;
    return a_.decisions[stop_item(stop_)].action == Action::kDraw;
  }
  // Whether the row goes on inside an expansion.
  __device__ bool is_inside() const { return taken().count > 0; }

  // Writes this block's columns.
  __device__ void push_forward(MapShared& shared) const {
    const DraftRow rows[] = {row()};
    const unsigned mine = gather_columns(a_.inverse, rows, a_.columns, shared.long_columns,
                                         [&](int, int column, float sum) { out()[column] = sum; });
    add_flags(block_reduce(mine, shared.partials, BitOr{}));
  }
  __device__ void clear() const { clear_columns(out(), a_.columns); }

  // Writes the row, which is zero before. Called by one warp.
  __device__ void condition() const {
    const ConditionedRow conditioned(a_.inverse, a_.expansions, a_.columns, taken(), row());
    add_flags(conditioned.write(out()));
  }

 private:
  __device__ DraftRow row() const {
    return {&a_.proposals, proposal_row(), a_.decisions[stop_item(stop_)].q, a_.scale_of(b_)};
  }
  __device__ float* out() const { return a_.dense_rows + b_ * a_.dense_stride; }
  __device__ void add_flags(unsigned flags) const {
    if (threadIdx.x == 0 && (flags & kInvalid)) atomicOr(a_.row_flags + b_, unsigned{kInvalid});
  }

  Stop stop_;
};

__global__ void __launch_bounds__(kGatherThreads, kMinBlocksPerMultiprocessor)
    map_rejected_rows(const __grid_constant__ VerifyArguments a) {
  const RejectedRow row(a, static_cast<int>(blockIdx.x));
  if (!row.is_needed()) return;
  if (row.is_inside()) return row.clear();
  row.push_forward(shared_memory<MapShared>());
}

__global__ void __launch_bounds__(kWarp)
    condition_rejected_rows(const __grid_constant__ VerifyArguments a) {
  const RejectedRow row(a, static_cast<int>(blockIdx.x));
  if (row.is_needed() && row.is_inside()) row.condition();
}

}  // namespace tokentiming::cuda
