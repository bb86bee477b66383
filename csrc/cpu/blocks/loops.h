// The kernels of blocks.h as plain loops, which the compiler turns into vectors.
//
// Every file that includes this is compiled for its own processor; the unnamed namespace keeps its
// functions from being shared with another file. IEEE 754 fixes the result of every operation used
// here and the loops fix their order, so that all files give the same bits.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "blocks.h"

namespace tokentiming {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kRun = 256;  // entries summed in T before the sum goes on in double

// A register that every processor has; sixteen lanes are a few of them.
template <class T>
using Register [[gnu::vector_size(16)]] = T;
template <class T>
constexpr std::size_t kWidth = 16 / sizeof(T);
template <class T>
constexpr std::size_t kRegisters = kLanes / kWidth<T>;

template <class T>
struct Format;
template <>
struct Format<float> {
  using Bits = std::int32_t;
  static constexpr int kFraction = 23;
  static constexpr Bits kBias = 127;
  static constexpr int kDegree = 7;
  static constexpr float kLowest = -87.0f;  // exp of it is still a normal number
  static constexpr float kRounder = 0x1.8p23f;
  static constexpr float kLog2High = 0x1.62e4p-1f;  // few enough bits to be multiplied exactly
  static constexpr float kLog2Low = 0x1.7f7d1cp-20f;
};
template <>
struct Format<double> {
  using Bits = std::int64_t;
  static constexpr int kFraction = 52;
  static constexpr Bits kBias = 1023;
  static constexpr int kDegree = 13;
  static constexpr double kLowest = -708.0;
  static constexpr double kRounder = 0x1.8p52;
  static constexpr double kLog2High = 0x1.62e42fefa0000p-1;
  static constexpr double kLog2Low = 0x1.cf79abc9e3b3ap-40;
};

// 1 / k!
template <class T>
struct InverseFactorials {
  T at[Format<T>::kDegree + 1];
  constexpr InverseFactorials() : at{} {
    double factorial = 1.0;
    for (int k = 0; k <= Format<T>::kDegree; ++k) {
      if (k > 0) factorial *= k;
      at[k] = static_cast<T>(1.0 / factorial);
    }
  }
};
template <class T>
constexpr InverseFactorials<T> kInverseFactorials{};

// exp(x) for x <= 0, by Taylor's series around the nearest multiple of log 2.
template <class T>
inline T exponential(T x) {
  using F = Format<T>;
  constexpr T kLog2E = static_cast<T>(1.44269504088896340736);
  const T bounded = x < F::kLowest ? F::kLowest : x;
  // Adding 1.5 * 2^fraction leaves the nearest integer in the lowest bits.
  const T shifted = bounded * kLog2E + F::kRounder;
  const T multiple = shifted - F::kRounder;
  const T rest = (bounded - multiple * F::kLog2High) - multiple * F::kLog2Low;
  T series = kInverseFactorials<T>.at[F::kDegree];
#pragma GCC unroll 16
  for (int k = F::kDegree - 1; k >= 0; --k) series = series * rest + kInverseFactorials<T>.at[k];
  const auto exponent = std::bit_cast<typename F::Bits>(shifted) -
                        std::bit_cast<typename F::Bits>(F::kRounder) + F::kBias;
  const T power = std::bit_cast<T>(static_cast<typename F::Bits>(exponent << F::kFraction));
  return x < F::kLowest ? T{0} : series * power;
}

// Calls f(lanes, entries) for each register of entries, `lanes` being the one for their place among
// sixteen; returns how many entries filled whole lanes.
template <class T, class Lane, class F>
inline std::size_t over_lanes(const T* x, std::size_t count, Lane* lanes, const F& f) {
  std::size_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRegisters<T>; ++r) {
      Lane entries;
      __builtin_memcpy(&entries, x + k + r * kWidth<T>, sizeof(entries));
      f(lanes[r], entries);
    }
  }
  return k;
}

template <class T>
T maximum(const T* x, std::size_t count) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  int invalid = 0;
  for (std::size_t k = 0; k < count; ++k) invalid |= !(x[k] < kInfinity);
  Register<T> lanes[kRegisters<T>];
  for (auto& lane : lanes) lane = Register<T>{} - kInfinity;
  const auto raise = [](Register<T>& lane, const Register<T>& entries) {
    lane = entries > lane ? entries : lane;
  };
  T result = -kInfinity;
  for (std::size_t k = over_lanes(x, count, lanes, raise); k < count; ++k) {
    result = x[k] > result ? x[k] : result;
  }
  for (const auto& lane : lanes) {
    for (std::size_t l = 0; l < kWidth<T>; ++l) result = lane[l] > result ? lane[l] : result;
  }
  return invalid ? kInfinity : result;
}

template <class T>
void exponentials(const T* x, std::size_t count, T shift, T scale, T factor, T* out) {
  for (std::size_t k = 0; k < count; ++k) {
    out[k] = exponential((x[k] - shift) * scale) * factor;
  }
}

template <class T>
void subtract(T* p, const T* q, std::size_t count) {
  for (std::size_t k = 0; k < count; ++k) {
    const T excess = p[k] - q[k];
    p[k] = excess > T{0} ? excess : T{0};
  }
}

template <class T>
double sum(const T* x, std::size_t count) {
  int negative = 0;
  for (std::size_t k = 0; k < count; ++k) negative |= x[k] < T{0};
  double total = 0.0;
  const auto add = [](Register<T>& lane, const Register<T>& entries) { lane += entries; };
  for (std::size_t run = 0; run < count; run += kRun) {
    const std::size_t size = count - run < kRun ? count - run : kRun;
    Register<T> lanes[kRegisters<T>] = {};
    for (std::size_t k = over_lanes(x + run, size, lanes, add); k < size; ++k) {
      lanes[0][0] += x[run + k];
    }
    for (const auto& lane : lanes) {
      for (std::size_t l = 0; l < kWidth<T>; ++l) total += static_cast<double>(lane[l]);
    }
  }
  const bool fine = !negative && total < std::numeric_limits<double>::infinity();
  return fine ? total : std::numeric_limits<double>::quiet_NaN();
}

template <class T>
constexpr BlockKernels<T> kernels(const char* name) {
  return {name, maximum<T>, exponentials<T>, subtract<T>, sum<T>};
}

}  // namespace
}  // namespace tokentiming
