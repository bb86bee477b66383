// The CUDA features that kernels use. The same sources compile in three ways:
//
//   with nvcc                   CUDA C++
//   with TOKENTIMING_EMULATED   ../emulation: CUDA's execution model on the host, for tests
//   otherwise                   ../unavailable: a build without CUDA, where every launch throws
//
// Kernels use shared memory only through shared_memory(), so that each emulated block has its own.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>

namespace tokentiming::cuda {

// The block's dynamic shared memory. The launch sets its size.
template <class T>
__device__ inline T& shared_memory() {
  extern __shared__ __align__(16) unsigned char tokentiming_shared_memory[];
  return *reinterpret_cast<T*>(tokentiming_shared_memory);
}

// The maximum; NaN if either is NaN.
__device__ inline float max_or_nan(float a, float b) {
  float maximum;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(maximum) : "f"(a), "f"(b));
  return maximum;
}

// 2^x in one instruction; a result below the normal numbers is 0.
__device__ inline float exp2_approx(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

}  // namespace tokentiming::cuda
#elif defined(TOKENTIMING_EMULATED)
#include "../emulation/device.h"
#else
#include "../unavailable/device.h"
#endif

namespace tokentiming::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFF;

// Ids of 32 or 64 bits. The width is a run-time value, not a template parameter of the kernels.
struct AnyIds {
  const void* data;
  bool is_int64;

  __device__ std::int64_t operator[](std::int64_t k) const {
    return is_int64 ? static_cast<const std::int64_t*>(data)[k]
                    : static_cast<const std::int32_t*>(data)[k];
  }
};

// Where each sequence of a batch begins. Without offsets all sequences have `length` tokens.
struct Sequences {
  const std::int64_t* offsets;
  std::int64_t length;
  std::int64_t total;

  __device__ std::int64_t begin(std::int64_t b) const { return offsets ? offsets[b] : b * length; }
  __device__ std::int64_t end(std::int64_t b) const { return begin(b + 1); }
  // Whether the offsets of sequence b are a range of the ids.
  __device__ bool is_valid(std::int64_t b) const {
    return 0 <= begin(b) && begin(b) <= end(b) && end(b) <= total;
  }
};

// A load of sixteen bytes from an aligned address. No kernel may write that memory meanwhile.
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
