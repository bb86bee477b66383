// Sums and the like over the threads of a warp and of a block, in an order that is always the same.
#pragma once

#include "device.h"

namespace tokentiming::cuda {

// Another lane's value.
__device__ inline double exchanged(double mine, unsigned other) {
  return __shfl_xor_sync(kAllLanes, mine, other);
}
__device__ inline int exchanged(int mine, unsigned other) {
  return __shfl_xor_sync(kAllLanes, mine, other);
}

// What all lanes have, joined in pairs. Every lane gets the same if Join does not care which of its
// two arguments comes first; where it adds products it does, once a compiler fuses one of them with
// the addition, and only the first lane's result is to be used.
template <class T, class Join>
__device__ inline T join_warp(T mine, const Join& join) {
#pragma unroll
  for (unsigned other = kWarp / 2; other > 0; other /= 2) {
    mine = join(mine, exchanged(mine, other));
  }
  return mine;
}

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// A value of each warp of a block, which a block has in shared memory for joining them.
inline constexpr unsigned kMostWarps = 32;
template <class T>
using OfWarps = T[kMostWarps];

// What a warp's threads have joined, where the block finds it behind the next barrier.
template <class T>
__device__ inline void leave_for_block(const T& joined, T (&of_warps)[kMostWarps]) {
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = joined;
}

// What all threads of the block have, joined; every thread gets the same. All threads have to call
// it, and a barrier has to lie between two calls on one `of_warps`.
template <class T, class Join>
__device__ inline T join_block(T mine, T (&of_warps)[kMostWarps], const Join& join) {
  leave_for_block(join_warp(mine, join), of_warps);
  __syncthreads();
  T all = of_warps[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) all = join(all, of_warps[warp]);
  return all;
}

// The sum of what the threads before this one have, likewise.
template <class T>
__device__ inline T sum_before(T mine, T (&of_warps)[kMostWarps]) {
  T until = mine;
#pragma unroll
  for (unsigned distance = 1; distance < kWarp; distance *= 2) {
    const T below = __shfl_up_sync(kAllLanes, until, distance);
    if (threadIdx.x % kWarp >= distance) until += below;
  }
  if (threadIdx.x % kWarp == kWarp - 1) of_warps[threadIdx.x / kWarp] = until;
  __syncthreads();
  T before{};
  for (unsigned warp = 0; warp < threadIdx.x / kWarp; ++warp) before += of_warps[warp];
  const T in_warp = __shfl_up_sync(kAllLanes, until, 1);
  return threadIdx.x % kWarp == 0 ? before : before + in_warp;
}

// What the first thread decides for the whole block. Threads that each decide for themselves may
// diverge at the next barrier, since no compiler has to round alike in all of them. All threads
// have to call it, and a barrier has to lie between two calls on one `place`.
template <class T, class Decide>
__device__ inline T decide_once(T& place, const Decide& decide) {
  if (threadIdx.x == 0) place = decide();
  __syncthreads();
  return place;
}

}  // namespace tokentiming::cuda
