// Sums and the like over the threads of a warp and of a block, in an order that is always the same.
#pragma once

#include "device.h"

namespace tokentiming::cuda {

// Another lane's value.
__device__ inline double shuffle_xor(double value, unsigned other) {
  return __shfl_xor_sync(kAllLanes, value, other);
}
__device__ inline int shuffle_xor(int value, unsigned other) {
  return __shfl_xor_sync(kAllLanes, value, other);
}

// What all lanes have, joined in pairs. Every lane gets the same if Join does not care which of its
// two arguments comes first; where it adds products it does, once a compiler fuses one of them with
// the addition, and only the first lane's result is to be used.
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

// A value of each warp of a block, which a block has in shared memory for joining them.
inline constexpr unsigned kMaxWarps = 32;
template <class T>
using WarpPartials = T[kMaxWarps];

// What a warp's threads have joined, where the block finds it behind the next barrier.
template <class T>
__device__ inline void store_warp_partial(const T& partial, T (&partials)[kMaxWarps]) {
  if (threadIdx.x % kWarp == 0) partials[threadIdx.x / kWarp] = partial;
}

// What all threads of the block have, joined; every thread gets the same. All threads have to call
// it, and a barrier has to lie between two calls on one `of_warps`.
template <class T, class Op>
__device__ inline T block_reduce(T value, T (&partials)[kMaxWarps], const Op& op) {
  store_warp_partial(warp_reduce(value, op), partials);
  __syncthreads();
  T result = partials[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) result = op(result, partials[warp]);
  return result;
}

// The sum of what the threads before this one have, likewise.
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

// What the first thread decides for the whole block. Threads that each decide for themselves may
// diverge at the next barrier, since no compiler has to round alike in all of them. All threads
// have to call it, and a barrier has to lie between two calls on one `place`.
template <class T, class Function>
__device__ inline T block_broadcast(T& slot, const Function& function) {
  if (threadIdx.x == 0) slot = function();
  __syncthreads();
  return slot;
}

}  // namespace tokentiming::cuda
