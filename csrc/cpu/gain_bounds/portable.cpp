#include <bit>

#include "lanes.h"

namespace tokentiming {
namespace {

struct Lanes {
  static constexpr std::size_t kCount = 1;
  std::uint64_t bits;

  static Lanes broadcast(std::uint32_t word) { return {word}; }
  static Lanes load(const std::uint64_t* keys) { return {*keys}; }
};

Lanes operator*(Lanes a, Lanes b) { return {(a.bits & 0xFFFFFFFF) * (b.bits & 0xFFFFFFFF)}; }
Lanes operator^(Lanes a, Lanes b) { return {a.bits ^ b.bits}; }
Lanes high(Lanes a) { return {a.bits >> 32}; }

void store_bounds(Lanes word, float* bound) {
  const auto w = static_cast<float>(static_cast<std::uint32_t>(word.bits) >> 8);
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
