// Random inputs.
#pragma once

#include <cstddef>
#include <random>
#include <vector>

#include "native/bfloat16.h"

namespace tokentiming::native {

// Normally distributed bfloat16 numbers.
inline std::vector<BFloat16> random_bfloat16(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> numbers(count);
  for (BFloat16& x : numbers) x = to_bfloat16(normal(random));
  return numbers;
}

}  // namespace tokentiming::native
