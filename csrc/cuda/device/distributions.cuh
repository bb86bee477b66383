// Rows of logits or probabilities of a type known at run time.
#pragma once

#include <limits>
#include <string>
#include <variant>

#include "refuse.h"
#include "rows.cuh"

namespace tokentiming::cuda {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// In the order of the types in AnyRows.
enum class NumberType { kHalf, kBFloat16, kFloat };

// Eight entries of any type as they are in memory.
struct RawEntries {
  std::uint32_t words[kVectorSize];

  template <class Number>
  __device__ static RawEntries of(const Vector<Number>& vector) {
    RawEntries raw{};
#pragma unroll
    for (int w = 0; w < Vector<Number>::kWords; ++w) raw.words[w] = vector.word(w);
    return raw;
  }
  template <class Number>
  __device__ void as(float (&out)[kVectorSize]) const {
    const auto vector = Vector<Number>::of_words(words);
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) out[k] = widen(vector[k]);
  }
};

// One distribution a row. The type is a run-time value, tested once for several entries: a kernel
// for each pair of types would multiply the kernels by nine.
struct DeviceDistributions {
  const void* data;
  std::int64_t stride;
  NumberType type;
  bool given;  // false: a chain without proposals
  bool is_logits;

  // Calls f with a pointer to the row, of its own type.
  template <class F>
  __device__ auto visit_row(std::int64_t row, const F& f) const {
    switch (type) {
      case NumberType::kHalf:
        return f(static_cast<const Half*>(data) + row * stride);
      case NumberType::kBFloat16:
        return f(static_cast<const BFloat16*>(data) + row * stride);
      default:
        return f(static_cast<const float*>(data) + row * stride);
    }
  }
  __device__ float entry(std::int64_t row, int token) const {
    return visit_row(row, [&](const auto* numbers) { return widen(numbers[token]); });
  }
  // Loads eight entries from `at` on, as they are in memory. Entries before 0 and from `end` on
  // have probability 0. Loading is separate from widening, so that two rows' loads can be in
  // flight.
  __device__ RawEntries load(std::int64_t row, int at, int end) const {
    const auto words = [&]<class Number>(const Number* numbers) {
      const Number padding = is_logits ? lowest_logit<Number>() : Number{};
      return RawEntries::of(Vector<Number>::load_shifted(numbers, at, end, padding));
    };
    return visit_row(row, words);
  }
  __device__ void widen_to(const RawEntries& raw, float (&out)[kVectorSize]) const {
    switch (type) {
      case NumberType::kHalf:
        return raw.as<Half>(out);
      case NumberType::kBFloat16:
        return raw.as<BFloat16>(out);
      default:
        return raw.as<float>(out);
    }
  }
};

// Normalises a row of logits: probability = 2^((x - shift) * scale) * factor.
struct Normaliser {
  float shift = 0.0f;
  float factor = 1.0f;
};

// The probability of an entry of a row.
__device__ inline float probability(const DeviceDistributions& distributions, float entry,
                                    const Normaliser& norm, float scale) {
  if (!distributions.is_logits) return entry;
  return exp2_approx((entry - norm.shift) * scale) * norm.factor;
}

// exp(x / temperature) = 2^(x * scale).
constexpr float scale_at(double temperature) {
  constexpr double kLog2E = 1.44269504088896340736;
  // Not 0, which makes NaN of -inf.
  constexpr auto kMinScale = static_cast<double>(std::numeric_limits<float>::min());
  constexpr auto kMaxScale = static_cast<double>(std::numeric_limits<float>::max());
  const double scale = kLog2E / temperature;
  if (scale < kMinScale) return std::numeric_limits<float>::min();
  return static_cast<float>(scale < kMaxScale ? scale : kMaxScale);
}

// ---- host ----

inline DeviceDistributions device_distributions(const Distributions& distributions,
                                                const char* operation, const char* name) {
  return std::visit(
      [&]<class Number>(const Rows<const Number>& rows) -> DeviceDistributions {
        if constexpr (std::is_same_v<Number, double>) {
          refuse(operation, std::string(name) +
                                " are float64; CUDA kernels take float16, bfloat16 or "
                                "float32: use .float()");
        } else {
          const NumberType type = std::is_same_v<Number, Half>       ? NumberType::kHalf
                                  : std::is_same_v<Number, BFloat16> ? NumberType::kBFloat16
                                                                     : NumberType::kFloat;
          return {rows.data, rows.stride, type, true, distributions.is_logits};
        }
      },
      distributions.rows);
}

}  // namespace tokentiming::cuda
