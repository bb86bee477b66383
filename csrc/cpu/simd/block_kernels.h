// BlockKernels of kernels.h, written once for registers of any width.
//
// Every file that includes this is compiled for its own instruction set; the unnamed namespace
// keeps its functions from being shared with another file. All files return the same bits: IEEE 754
// fixes the result of every operation used here, and sums always run in sixteen lanes.
#pragma once

#include <bit>
#include <cstdint>
#include <iterator>
#include <limits>

#include "kernels.h"
#include "widen.h"

namespace tokentiming::simd {
namespace {

constexpr std::size_t kLanes = 16;

// The widest register of the instruction set. Sixteen lanes take one or more of them.
#if defined(__AVX512F__)
constexpr std::size_t kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr std::size_t kRegisterBytes = 32;
#else
constexpr std::size_t kRegisterBytes = 16;
#endif
template <class T>
using Register [[gnu::vector_size(kRegisterBytes)]] = T;
template <class T>
constexpr std::size_t kWidth = kRegisterBytes / sizeof(T);
template <class T>
constexpr std::size_t kRegisters = kLanes / kWidth<T>;

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

template <class T>
inline Register<T> broadcast(T x) {
  return Register<T>{} + x;
}

// The maximum. NaN in `x` returns `otherwise`, NaN in `otherwise` returns NaN, as the processor's
// one instruction for it does.
template <class T>
inline Register<T> max_or(Register<T> x, Register<T> otherwise) {
  return x > otherwise ? x : otherwise;
}

// Hides a constant from the compiler, which compiles max_or to two instructions if it sees one.
template <class T>
inline Register<T> hide_constant(Register<T> x) {
#ifdef __SSE2__
  asm("" : "+x"(x));
#endif
  return x;
}

// The coefficients of c_0 + c_1 f + ... + c_n f^n, the polynomial with the least maximum relative
// error from 2^f on [-1/2, 1/2]: 9e-8 for float, below rounding for double.
template <class T>
struct Format;
template <>
struct Format<float> {
  using Bits = std::int32_t;
  static constexpr int kFraction = 23;
  static constexpr float kLowest = -126.0f;  // the least exponent of a normal number
  static constexpr float kRounder = 0x1.8p23f + 127;
  static constexpr float kCoefficients[] = {1.0f,           0x1.62e42ap-1f, 0x1.ebf9bcp-3f,
                                            0x1.c6b752p-5f, 0x1.3cea88p-7f, 0x1.5bba14p-10f};
};
template <>
struct Format<double> {
  using Bits = std::int64_t;
  static constexpr int kFraction = 52;
  static constexpr double kLowest = -1022.0;
  static constexpr double kRounder = 0x1.8p52 + 1023;
  static constexpr double kCoefficients[] = {1.0,
                                             0x1.62e42fefa39efp-1,
                                             0x1.ebfbdff82c5a4p-3,
                                             0x1.c6b08d7049fe8p-5,
                                             0x1.3b2ab6fba011ap-7,
                                             0x1.5d87fe78cd6cfp-10,
                                             0x1.4309130ed8cd5p-13,
                                             0x1.ffcbfba980f96p-17,
                                             0x1.62bfc79d4b59fp-20,
                                             0x1.b5267cdfd91eep-24,
                                             0x1.e61b4f9a207f5p-28,
                                             0x1.e79bb6fc55606p-32};
};

// c_first + c_(first + 1) x + ... Adds terms in pairs, which shortens the chain of dependent
// multiplications.
template <const auto& c, class T, std::size_t kFirst, std::size_t kEnd>
inline Register<T> polynomial(Register<T> x, Register<T> square) {
  if constexpr (kFirst + 1 == kEnd) {
    return broadcast(c[kFirst]);
  } else if constexpr (kFirst + 2 == kEnd) {
    return x * c[kFirst + 1] + c[kFirst];
  } else {
    return polynomial<c, T, kFirst + 2, kEnd>(x, square) * square + (x * c[kFirst + 1] + c[kFirst]);
  }
}

// 2^z for z <= 0. Entries below `lowest`, which is kLowest in every lane, count as kLowest. NaN
// stays NaN.
template <class T>
inline Register<T> exp2_approx(Register<T> z, Register<T> lowest) {
  using F = Format<T>;
  using Bits = typename F::Bits;
  const Register<T> bounded = max_or<T>(lowest, z);
  // Adding 1.5 * 2^fraction leaves the nearest integer in the lowest bits; kRounder also adds the
  // bias of an exponent to it.
  const Register<T> shifted = bounded + F::kRounder;
  const Register<T> rest = bounded - (shifted - F::kRounder);
  const Register<T> series =
      polynomial<F::kCoefficients, T, 0, std::size(F::kCoefficients)>(rest, rest * rest);
  const auto exponent = std::bit_cast<Register<Bits>>(shifted) << F::kFraction;
  return series * std::bit_cast<Register<T>>(exponent);
}

// Calls f(r, entries) for each register of entries, `r` being its index within sixteen lanes. Lanes
// past the last entry hold `padding`.
template <class T, class F>
inline void for_each_register(const T* x, std::size_t count, T padding, const F& f) {
  std::size_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < kRegisters<T>; ++r) {
      Register<T> entries;
      __builtin_memcpy(&entries, x + k + r * kWidth<T>, sizeof(entries));
      f(r, entries);
    }
  }
  if (k == count) return;
  Register<T> rest[kRegisters<T>];
  for (auto& entries : rest) entries = broadcast(padding);
  __builtin_memcpy(rest, x + k, (count - k) * sizeof(T));
  for (std::size_t r = 0; r < kRegisters<T>; ++r) f(r, rest[r]);
}

// One value for each of the sixteen lanes.
template <class T>
struct Accumulators {
  Register<T> at[kRegisters<T>];

  explicit Accumulators(T x) {
    for (auto& lane : at) lane = broadcast(x);
  }
  T reduce_max() const {
    T lanes[kLanes];
    __builtin_memcpy(lanes, at, sizeof(at));
#pragma GCC unroll 8
    for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (std::size_t l = 0; l < half; ++l) {
        lanes[l] = lanes[l + half] > lanes[l] ? lanes[l + half] : lanes[l];
      }
    }
    return lanes[0];
  }
  // A pairwise sum in double.
  double sum() const {
    T lanes[kLanes];
    __builtin_memcpy(lanes, at, sizeof(at));
    double sums[kLanes];
    for (std::size_t l = 0; l < kLanes; ++l) sums[l] = static_cast<double>(lanes[l]);
#pragma GCC unroll 8
    for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (std::size_t l = 0; l < half; ++l) sums[l] += sums[l + half];
    }
    return sums[0];
  }
};

template <class T>
inline bool finite(T x) {
  return x > -kInfinity<T> && x < kInfinity<T>;
}

template <class T>
T reduce_max(const T* x, std::size_t count) {
  Accumulators<T> lanes(-kInfinity<T>);
  for_each_register(x, count, -kInfinity<T>, [&](std::size_t r, Register<T> entries) {
    lanes.at[r] = max_or<T>(entries, lanes.at[r]);
  });
  return lanes.reduce_max();
}

template <class T, class Narrow>
void widen_all(const Narrow* x, std::size_t count, T* out) {
  for (std::size_t k = 0; k < count; ++k) out[k] = static_cast<T>(widen(x[k]));
}

template <class T>
T maximum(const T* x, std::size_t count) {
  Accumulators<T> sums(T{0});  // 0, or NaN once an entry was NaN or infinite
  Accumulators<T> lanes(-kInfinity<T>);
  for_each_register(x, count, -kInfinity<T>, [&](std::size_t r, Register<T> entries) {
    // -inf is a valid logit: it is replaced before it could make the sum NaN.
    const Register<T> lifted = max_or<T>(broadcast(std::numeric_limits<T>::lowest()), entries);
    sums.at[r] += lifted - lifted;
    lanes.at[r] = max_or<T>(entries, lanes.at[r]);
  });
  return sums.sum() == 0.0 ? lanes.reduce_max() : kInfinity<T>;
}

template <class T>
SoftmaxState<T> softmax_state(const T* x, std::size_t count, T scale) {
  const T maximum = reduce_max(x, count);
  const Register<T> shift = broadcast(finite(maximum) ? maximum : T{0});
  const Register<T> lowest = hide_constant<T>(broadcast(Format<T>::kLowest));
  Accumulators<T> sums(T{0});
  // The next block is prefetched while this one is computed. A prefetch past the end does no harm.
  auto next = reinterpret_cast<std::uintptr_t>(x + count);
  for_each_register(x, count, -kInfinity<T>, [&](std::size_t r, Register<T> entries) {
    __builtin_prefetch(reinterpret_cast<const void*>(next));
    next += kRegisterBytes;
    sums.at[r] += exp2_approx<T>((entries - shift) * scale, lowest);
  });
  const double sum = sums.sum();
  const bool empty = maximum == -kInfinity<T> && sum == sum;
  return {maximum, empty ? 0.0 : sum};
}

template <class T>
void exponentials(const T* x, std::size_t count, T shift, T scale, T factor, T* out) {
  std::size_t k = 0;
  const Register<T> lowest = hide_constant<T>(broadcast(Format<T>::kLowest));
  for_each_register(x, count, -kInfinity<T>, [&](std::size_t, Register<T> entries) {
    const Register<T> z = (entries - shift) * scale;
    const Register<T> power = exp2_approx<T>(z, lowest) * factor;
    const Register<T> result = z < broadcast(Format<T>::kLowest) ? broadcast(T{0}) : power;
    const std::size_t left = count - k;
    if (left >= kWidth<T>) {
      __builtin_memcpy(out + k, &result, sizeof(result));
      k += kWidth<T>;
    } else {
      __builtin_memcpy(out + k, &result, left * sizeof(T));
      k += left;
    }
  });
}

template <class T>
double nan_if_invalid(double total, const Accumulators<T>& lowest) {
  T lanes[kLanes];
  __builtin_memcpy(lanes, lowest.at, sizeof(lowest.at));
  bool valid = total < std::numeric_limits<double>::infinity();
  for (T lane : lanes) valid &= lane >= T{0};
  return valid ? total : std::numeric_limits<double>::quiet_NaN();
}

template <class T>
double sum(const T* x, std::size_t count) {
  Accumulators<T> sums(T{0});
  Accumulators<T> lowest(T{0});
  for_each_register(x, count, T{0}, [&](std::size_t r, Register<T> entries) {
    sums.at[r] += entries;
    lowest.at[r] = entries < lowest.at[r] ? entries : lowest.at[r];
  });
  return nan_if_invalid(sums.sum(), lowest);
}

template <class T>
double subtract(const T* p, const T* q, std::size_t count, T* out) {
  Accumulators<T> sums(T{0});
  Accumulators<T> lowest(T{0});
  std::size_t k = 0;
  const auto step = [&](std::size_t r, Register<T> from, Register<T> take) {
    const Register<T> difference = from - take;
    // 0, or NaN where either is NaN or infinite.
    const Register<T> nan_mark = difference - difference;
    const Register<T> smaller = from < take ? from : take;
    lowest.at[r] = smaller < lowest.at[r] ? smaller : lowest.at[r];
    const Register<T> excess = max_or<T>(difference, broadcast(T{0}));
    sums.at[r] += excess + nan_mark;
    return excess;
  };
  for (; k + kLanes <= count; k += kLanes) {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < kRegisters<T>; ++r) {
      const std::size_t at = k + r * kWidth<T>;
      Register<T> from, take;
      __builtin_memcpy(&from, p + at, sizeof(from));
      __builtin_memcpy(&take, q + at, sizeof(take));
      const Register<T> excess = step(r, from, take);
      __builtin_memcpy(out + at, &excess, sizeof(excess));
    }
  }
  if (k < count) {
    const std::size_t bytes = (count - k) * sizeof(T);
    Register<T> from[kRegisters<T>] = {};
    Register<T> take[kRegisters<T>] = {};
    __builtin_memcpy(from, p + k, bytes);
    __builtin_memcpy(take, q + k, bytes);
    for (std::size_t r = 0; r < kRegisters<T>; ++r) from[r] = step(r, from[r], take[r]);
    __builtin_memcpy(out + k, from, bytes);
  }
  return nan_if_invalid(sums.sum(), lowest);
}

template <class T>
constexpr BlockKernels<T> block_kernels() {
  return {widen_all<T, Half>, widen_all<T, BFloat16>, maximum<T>,
          softmax_state<T>,   exponentials<T>,        sum<T>,
          subtract<T>};
}

}  // namespace
}  // namespace tokentiming::simd
