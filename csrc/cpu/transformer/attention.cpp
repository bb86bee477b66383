#include "attention.h"

#include <algorithm>
#include <cmath>

namespace tokentiming {
namespace {

constexpr std::size_t kLanes = 8;
using Lanes [[gnu::vector_size(sizeof(float) * kLanes)]] = float;

void load(const float* from, Lanes& to) { __builtin_memcpy(&to, from, sizeof(to)); }

float dot(const float* a, const float* b, std::size_t count) {
  Lanes sums = {};
  for (std::size_t k = 0; k < count; k += kLanes) {
    Lanes x, y;
    load(a + k, x);
    load(b + k, y);
    sums += x * y;
  }
  float sum = 0.0f;
  for (std::size_t l = 0; l < kLanes; ++l) sum += sums[l];
  return sum;
}

}  // namespace

void attend(const float* query, const float* keys, const float* values, std::size_t length,
            std::size_t head_size, float* out) {
  std::vector<float> weights(length);
  for (std::size_t t = 0; t < length; ++t) weights[t] = dot(query, keys + t * head_size, head_size);
  const float greatest = *std::max_element(weights.begin(), weights.end());
  float total = 0.0f;
  for (float& weight : weights) {
    weight = std::exp(weight - greatest);
    total += weight;
  }
  for (std::size_t k = 0; k < head_size; k += kLanes) {
    Lanes sums = {};
    for (std::size_t t = 0; t < length; ++t) {
      Lanes value;
      load(values + t * head_size + k, value);
      sums += weights[t] * value;
    }
    sums /= total;
    __builtin_memcpy(out + k, &sums, sizeof(sums));
  }
}

}  // namespace tokentiming
