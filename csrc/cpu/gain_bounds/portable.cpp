#include <bit>

#include "lanes.h"

namespace tokentiming {
namespace {

struct Lanes {
  static constexpr std::size_t kCount = 1;
  static constexpr std::size_t kVectors = 1;
  std::uint32_t word;

  static Lanes broadcast(std::uint32_t word) { return {word}; }
  static void split(const std::uint64_t* keys, Lanes& low, Lanes& high) {
    low = {static_cast<std::uint32_t>(*keys)};
    high = {static_cast<std::uint32_t>(*keys >> 32)};
  }
};

Product<Lanes> operator*(Lanes a, Lanes b) {
  const std::uint64_t product = std::uint64_t{a.word} * b.word;
  return {{static_cast<std::uint32_t>(product >> 32)}, {static_cast<std::uint32_t>(product)}};
}
Lanes operator^(Lanes a, Lanes b) { return {a.word ^ b.word}; }

void store_bounds(Lanes lanes, float* bound) {
  const auto w = static_cast<float>(lanes.word >> 8);
  const auto bits = static_cast<float>(std::bit_cast<std::int32_t>(w));
  const float unlimited = kBoundOffset - kBoundSlope * bits;
  *bound = unlimited < kMaxGain ? unlimited : kMaxGain;
}

}  // namespace

void gain_bounds_portable(const Noise& noise, const std::uint64_t* keys, std::size_t count,
                          float* bounds) {
  gain_bounds_in_lanes<Lanes>(noise, keys, count, bounds);
}

}  // namespace tokentiming
