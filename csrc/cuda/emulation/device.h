// CUDA's execution model on the host, to run the kernels' own sources without a GPU.
//
// Each CUDA thread of the resident blocks is a fibre. A fibre runs until it reaches a barrier, a
// shuffle or a vote; the schedule decides which fibre runs next. A kernel whose barriers are
// complete gives one result under every schedule. The launch throws faults: a barrier that not all
// threads reach, lanes of a warp at different operations, an unaligned address.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <type_traits>

#if defined(__SANITIZE_ADDRESS__)
#define TOKENTIMING_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TOKENTIMING_ASAN 1
#endif
#endif

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__

namespace tokentiming::emulation {

// The source line of a barrier or a warp operation.
struct Site {
  const char* file;
  int line;

  bool operator==(const Site& other) const {
    return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
  }
};

// Forward and reverse: a warp runs as far as it can, then the next warp does. Random: single
// threads in random order, some of which run only when no other can.
enum class Order { kForward, kReverse, kRandom };

struct Schedule {
  Order order = Order::kForward;
  unsigned seed = 0;
  std::size_t resident_blocks = 8;  // of any kernel
  int multiprocessors = 2;
  std::byte fill{0xCD};       // the initial bytes of shared memory
  std::string dropped;        // a barrier to ignore, as `barriers` names it
  bool inexact_exp2 = false;  // exp2_approx rounds differently in different threads
};

Schedule& schedule();

// The barriers reached since the set was last cleared, as "file:line".
std::set<std::string>& barriers();

struct Index {
  unsigned x, y;
};

// The indices and sizes of the running fibre.
const Index& thread_index();
const Index& block_index();
const Index& block_size();
const Index& grid_size();
void* shared_bytes(std::size_t needed);

void block_barrier(const Site& site);
// Waits for all lanes of the warp; returns the bits of each.
const std::uint64_t* warp_exchange(std::uint64_t bits, const Site& site);
// Lets other fibres run.
void yield_fibre();
[[noreturn]] void fail(const std::string& what);

// Runs a kernel to its end.
void run(Index grid, unsigned threads, std::size_t shared, const std::function<void()>& kernel);

template <class T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned lane() { return thread_index().x % 32; }

inline void require_all(unsigned mask) {
  if (mask != 0xFFFFFFFF) fail("a warp operation does not name all lanes");
}

}  // namespace tokentiming::emulation

// ---- what CUDA declares ----

#define threadIdx (::tokentiming::emulation::thread_index())
#define blockIdx (::tokentiming::emulation::block_index())
#define blockDim (::tokentiming::emulation::block_size())
#define gridDim (::tokentiming::emulation::grid_size())

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  tokentiming::emulation::block_barrier({file, line});
}
inline void __syncwarp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  tokentiming::emulation::warp_exchange(0, {file, line});
}
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned mask, T value, unsigned from, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  namespace e = tokentiming::emulation;
  e::require_all(mask);
  return e::from_bits<T>(e::warp_exchange(e::to_bits(value), {file, line})[from % 32]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned other, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  return __shfl_sync(mask, value, tokentiming::emulation::lane() ^ other, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE()) {
  const unsigned lane = tokentiming::emulation::lane();
  return __shfl_sync(mask, value, lane < distance ? lane : lane - distance, file, line);
}
inline unsigned __ballot_sync(unsigned mask, bool vote, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  namespace e = tokentiming::emulation;
  e::require_all(mask);
  const std::uint64_t* votes = e::warp_exchange(vote, {file, line});
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) result |= static_cast<unsigned>(votes[lane]) << lane;
  return result;
}
inline bool __any_sync(unsigned mask, bool vote, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  return __ballot_sync(mask, vote, file, line) != 0;
}

inline unsigned atomicAdd(unsigned* counter, unsigned value) {
  tokentiming::emulation::yield_fibre();
  const unsigned before = *counter;
  *counter += value;
  return before;
}
template <class T>
T atomicMax(T* place, std::type_identity_t<T> value) {
  tokentiming::emulation::yield_fibre();
  const T before = *place;
  if (value > before) *place = value;
  return before;
}
inline unsigned atomicOr(unsigned* place, unsigned value) {
  tokentiming::emulation::yield_fibre();
  const unsigned before = *place;
  *place |= value;
  return before;
}

struct uint4 {
  std::uint32_t x, y, z, w;
};
inline uint4 __ldg(const uint4* from) {
  if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
    tokentiming::emulation::fail("a load of 16 bytes is not aligned");
  }
  uint4 value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
inline std::uint8_t __ldg(const std::uint8_t* from) { return *from; }
template <class T>
T __ldcg(const T* from) {
  return *from;
}

inline int __ffs(unsigned bits) { return bits == 0 ? 0 : std::countr_zero(bits) + 1; }
inline int __clz(unsigned bits) { return std::countl_zero(bits); }
inline float __double2float_rd(double x) {
  const auto nearest = static_cast<float>(x);
  return static_cast<double>(nearest) > x ? std::nextafter(nearest, -INFINITY) : nearest;
}
inline float __double2float_ru(double x) { return -__double2float_rd(-x); }
inline float __fadd_ru(float a, float b) {
  const float nearest = a + b;
  const float of_b = nearest - a;
  const float error = (a - (nearest - of_b)) + (b - of_b);  // exact, or NaN
  return error > 0.0f ? std::nextafter(nearest, INFINITY) : nearest;
}

// ---- what device.h declares with nvcc ----

namespace tokentiming::cuda {

template <class T>
T& shared_memory() {
  return *static_cast<T*>(emulation::shared_bytes(sizeof(T)));
}
inline float max_or_nan(float a, float b) {
  return std::isnan(a) || std::isnan(b) ? NAN : std::fmax(a, b);
}
inline float exp2_approx(float x) {
  float power = std::exp2(x);
  if (emulation::schedule().inexact_exp2)
    power *= 1.0f + static_cast<float>(threadIdx.x % 8) * 0x1p-12f;
  return power < std::numeric_limits<float>::min() ? 0.0f : power;
}

}  // namespace tokentiming::cuda
