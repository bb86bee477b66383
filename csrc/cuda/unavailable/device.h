// CUDA's names in a build without CUDA. The kernels compile, so that the build needs no list of
// operations, but they never run: launch.h in this folder throws before.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#define __global__ inline
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
inline constexpr Index3 threadIdx, blockIdx, blockDim, gridDim;

struct uint4 {
  std::uint32_t x, y, z, w;
};

inline void __syncthreads() {}
inline void __syncwarp() {}
inline void __threadfence() {}
template <class T>
T __shfl_sync(unsigned, T value, unsigned) {
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned) {
  return value;
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned) {
  return value;
}
inline unsigned __ballot_sync(unsigned, bool vote) { return vote; }
inline bool __any_sync(unsigned, bool vote) { return vote; }
inline unsigned atomicAdd(unsigned* counter, unsigned) { return *counter; }
template <class T>
T atomicMax(T* address, std::type_identity_t<T>) {
  return *address;
}
inline unsigned atomicOr(unsigned* address, unsigned) { return *address; }
template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline float __double2float_rd(double x) { return static_cast<float>(x); }
inline float __double2float_ru(double x) { return static_cast<float>(x); }
inline float __fadd_ru(float a, float b) { return a + b; }

namespace tokentiming::cuda {

template <class T>
T& shared_memory() {
  alignas(16) static unsigned char bytes[sizeof(T)];
  return *reinterpret_cast<T*>(bytes);
}
inline float max_or_nan(float a, float b) { return std::fmax(a, b); }
inline float exp2_approx(float x) { return std::exp2(x); }

}  // namespace tokentiming::cuda
