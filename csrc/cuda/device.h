// What the kernels are written in: CUDA C++, or its emulation on the host (tests/cuda/emulation.h),
// which compiles the same sources with an ordinary compiler. Kernels reach shared memory through
// shared_memory() alone, so that emulated blocks have their own.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>

namespace tokentiming::cuda {

// The block's shared memory; the launch gives its size.
template <class T>
__device__ inline T& shared_memory() {
  extern __shared__ __align__(16) unsigned char tokentiming_shared_memory[];
  return *reinterpret_cast<T*>(tokentiming_shared_memory);
}

// While waiting for another block.
__device__ inline void spin_wait() { __nanosleep(20); }

// Sees what was written before another block's addition to the counter.
__device__ inline unsigned load_acquire(const unsigned* counter) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// 2^x in one instruction, which takes what is below the normal numbers for 0.
__device__ inline float exp2_approx(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

}  // namespace tokentiming::cuda
#else
#include "emulation.h"
#endif

namespace tokentiming::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFF;

// Ids of either width, which is not worth a kernel of its own.
struct AnyIds {
  const void* data;
  bool is_int64;

  __device__ std::int64_t operator[](std::int64_t k) const {
    return is_int64 ? static_cast<const std::int64_t*>(data)[k]
                    : static_cast<const std::int32_t*>(data)[k];
  }
};

// Where each sequence of a side begins. Without offsets all are equally long.
struct Sequences {
  const std::int64_t* offsets;
  std::int64_t length;
  std::int64_t total;

  __device__ std::int64_t begin(std::int64_t b) const { return offsets ? offsets[b] : b * length; }
  __device__ std::int64_t end(std::int64_t b) const { return begin(b + 1); }
  // Offsets that rise from 0 to the number of ids are ranges one after another.
  __device__ bool is_valid(std::int64_t b) const {
    return 0 <= begin(b) && begin(b) <= end(b) && end(b) <= total;
  }
};

// Sixteen bytes from an aligned address, of memory that no kernel writes meanwhile.
struct alignas(16) Bytes16 {
  std::uint32_t words[4];
};
__device__ inline Bytes16 load_bytes16(const void* from) {
  const uint4 v = __ldg(static_cast<const uint4*>(from));
  return {{v.x, v.y, v.z, v.w}};
}
__device__ inline bool is_aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
}

}  // namespace tokentiming::cuda
