#include <bit>

#include "block_kernels.h"
#include "race_kernel.h"
#include "race_sum.h"

namespace tokentiming::simd {
namespace {

struct Words {
  static constexpr std::size_t kCount = 1;
  static constexpr std::size_t kVectors = 1;
  std::uint32_t word;

  static Words broadcast(std::uint32_t word) { return {word}; }
  static void split(const std::uint64_t* keys, Words& low, Words& high) {
    low = {static_cast<std::uint32_t>(*keys)};
    high = {static_cast<std::uint32_t>(*keys >> 32)};
  }
  Words ordered() const { return *this; }
  static Words load(const std::uint32_t* from) { return {*from}; }
  void store(std::uint32_t* to) const { *to = word; }
  // NaN compares false, and is a candidate.
  std::uint32_t candidates(const float* logit, float threshold) const {
    const auto w = static_cast<float>(word >> 8);
    const auto bits = static_cast<float>(std::bit_cast<std::int32_t>(w));
    const float gain = kBoundOffset - kBoundSlope * bits;
    return *logit + gain < threshold ? 0 : 1;
  }
};

Product<Words> operator*(Words a, Words b) {
  const std::uint64_t product = std::uint64_t{a.word} * b.word;
  return {{static_cast<std::uint32_t>(product >> 32)}, {static_cast<std::uint32_t>(product)}};
}
Words operator^(Words a, Words b) { return {a.word ^ b.word}; }

}  // namespace

std::size_t first_candidate_portable(const NoiseWords& noise, const std::uint64_t* keys,
                                     const float* logits, std::size_t count, float threshold) {
  return first_candidate<Words>(noise, keys, logits, count, threshold);
}

void upper_words_portable(const NoiseWords& noise, const std::uint64_t* keys, std::size_t count,
                          std::uint32_t* words) {
  upper_words<Words>(noise, keys, count, words);
}

std::size_t first_reaching_portable(const std::uint32_t* words, const float* logits,
                                    std::size_t count, float threshold) {
  return first_reaching<Words>(words, logits, count, threshold);
}

const Kernels& portable_kernels() {
  static constexpr Kernels kKernels{"portable",
                                    block_kernels<float>(),
                                    block_kernels<double>(),
                                    first_candidate_portable,
                                    upper_words_portable,
                                    first_reaching_portable,
                                    race_sum};
  return kKernels;
}

}  // namespace tokentiming::simd
