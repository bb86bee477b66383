// Reductions and scans over a warp and a block. The order of operations is fixed.
#pragma once

#include "device.h"

namespace tokentiming::cuda {

// The value of lane `lane ^ other`.
__device__ inline double shuffle_xor(double value, unsigned other) {
  return __shfl_xor_sync(kAllLanes, value, other);
}
__device__ inline float shuffle_xor(float value, unsigned other) {
  return __shfl_xor_sync(kAllLanes, value, other);
}
__device__ inline int shuffle_xor(int value, unsigned other) {
  return __shfl_xor_sync(kAllLanes, value, other);
}
__device__ inline unsigned shuffle_xor(unsigned value, unsigned other) {
  return __shfl_xor_sync(kAllLanes, value, other);
}

// A butterfly reduction. All lanes get the same result if op is exactly commutative. An op that
// adds products is not if the compiler fuses one of them with the addition; then use only the first
// lane's result.
template <class T, class Op>
__device__ inline T warp_reduce(T value, const Op& op) {
#pragma unroll
  for (unsigned other = kWarp / 2; other > 0; other /= 2) {
    value = op(value, shuffle_xor(value, other));
  }
  return value;
}

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// One value for each warp of a block, in shared memory.
inline constexpr unsigned kMaxWarps = 32;
template <class T>
using WarpPartials = T[kMaxWarps];

// Stores a warp's result. The block may read it after the next barrier.
template <class T>
__device__ inline void store_warp_partial(const T& partial, T (&partials)[kMaxWarps]) {
  if (threadIdx.x % kWarp == 0) partials[threadIdx.x / kWarp] = partial;
}

// A reduction over the block; every thread gets the result. All threads must call it, and there
// must be a barrier between two calls with the same `partials`.
template <class T, class Op>
__device__ inline T block_reduce(T value, T (&partials)[kMaxWarps], const Op& op) {
  store_warp_partial(warp_reduce(value, op), partials);
  __syncthreads();
  T result = partials[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) result = op(result, partials[warp]);
  return result;
}

// The exclusive prefix sum over the block's threads. The same conditions hold.
template <class T>
__device__ inline T block_exclusive_sum(T value, T (&partials)[kMaxWarps]) {
  T inclusive = value;
#pragma unroll
  for (unsigned distance = 1; distance < kWarp; distance *= 2) {
    const T neighbour = __shfl_up_sync(kAllLanes, inclusive, distance);
    if (threadIdx.x % kWarp >= distance) inclusive += neighbour;
  }
  if (threadIdx.x % kWarp == kWarp - 1) partials[threadIdx.x / kWarp] = inclusive;
  __syncthreads();
  T prefix{};
  for (unsigned warp = 0; warp < threadIdx.x / kWarp; ++warp) prefix += partials[warp];
  const T exclusive = __shfl_up_sync(kAllLanes, inclusive, 1);
  return threadIdx.x % kWarp == 0 ? prefix : prefix + exclusive;
}

// Evaluates the function in thread 0 and returns the result to all threads. If each thread
// evaluated it, the results could differ, because compiled code may round differently in different
// threads. All threads must call it, and there must be a barrier between two calls with the same
// `slot`.
template <class T, class Function>
__device__ inline T block_broadcast(T& slot, const Function& function) {
  if (threadIdx.x == 0) slot = function();
  __syncthreads();
  return slot;
}

}  // namespace tokentiming::cuda
