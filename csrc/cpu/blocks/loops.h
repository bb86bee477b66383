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

// Sixteen numbers reckoned with at once, whatever the width of the processor's registers.
template <class T>
using Lanes [[gnu::vector_size(kLanes * sizeof(T))]] = T;

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

template <class T>
inline Lanes<T> load(const T* x) {
  Lanes<T> lanes;
  __builtin_memcpy(&lanes, x, sizeof(lanes));
  return lanes;
}

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
  T series = T{1};
#pragma GCC unroll 16
  for (int k = F::kDegree; k >= 1; --k) series = series * (rest * (T{1} / static_cast<T>(k))) + T{1};
  const auto exponent = std::bit_cast<typename F::Bits>(shifted) -
                        std::bit_cast<typename F::Bits>(F::kRounder) + F::kBias;
  const T power = std::bit_cast<T>(static_cast<typename F::Bits>(exponent << F::kFraction));
  return x < F::kLowest ? T{0} : series * power;
}

template <class T>
T maximum(const T* x, std::size_t count) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Lanes<T> lanes = Lanes<T>{} - kInfinity;
  int invalid = 0;
  for (std::size_t k = 0; k < count; ++k) invalid |= !(x[k] < kInfinity);
  std::size_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    const Lanes<T> entries = load(x + k);
    lanes = entries > lanes ? entries : lanes;
  }
  T result = lanes[0];
  for (std::size_t lane = 1; lane < kLanes; ++lane) {
    result = lanes[lane] > result ? lanes[lane] : result;
  }
  for (; k < count; ++k) result = x[k] > result ? x[k] : result;
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
  for (std::size_t run = 0; run < count; run += kRun) {
    const std::size_t end = run + kRun < count ? run + kRun : count;
    Lanes<T> lanes{};
    std::size_t k = run;
    for (; k + kLanes <= end; k += kLanes) lanes += load(x + k);
    for (; k < end; ++k) lanes[0] += x[k];
    for (std::size_t lane = 0; lane < kLanes; ++lane) total += static_cast<double>(lanes[lane]);
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
