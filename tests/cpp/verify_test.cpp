#include "tokentiming/verify.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "simd/dispatch.h"

using tokentiming::Chains;
using tokentiming::Distributions;
using tokentiming::Rows;
namespace simd = tokentiming::simd;

namespace {

template <class T>
Distributions distributions(const std::vector<T>& values, std::size_t columns,
                            bool is_logits = false) {
  return {Rows<const T>{values.data(), values.size() / columns, columns,
                        static_cast<std::ptrdiff_t>(columns)},
          is_logits};
}

// Compares every variant with the portable one, bit for bit, and the portable one with the C
// library.
template <class T>
void check_kernels(double tolerance) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr T kScale = static_cast<T>(0.7);
  const auto& reference = simd::blocks_of<T>(simd::portable_kernels());
  std::mt19937 random(1);
  std::normal_distribution<double> normal(0.0, 8.0);
  for (std::size_t count : {1, 15, 16, 17, 255, 256, 300, 1024}) {
    std::vector<T> x(count);
    for (T& entry : x) entry = static_cast<T>(normal(random));
    const T maximum = *std::max_element(x.begin(), x.end());
    std::vector<T> powers(count);
    reference.exponentials(x.data(), count, maximum, kScale, T{3}, powers.data());
    double exact_sum = 0.0;
    for (std::size_t k = 0; k < count; ++k) {
      const double exact = 3.0 * std::exp2((double{x[k]} - double{maximum}) * double{kScale});
      REQUIRE(std::abs(powers[k] - exact) <= exact * tolerance * 32);
      exact_sum += exact;
    }
    const double sum = reference.sum(powers.data(), count);
    const auto softmax_state = reference.softmax_state(x.data(), count, kScale);
    CHECK(sum == doctest::Approx(exact_sum).epsilon(tolerance * 16));
    CHECK(softmax_state.sum == doctest::Approx(exact_sum / 3.0).epsilon(tolerance * 16));
    CHECK(softmax_state.maximum == maximum);
    const std::vector<T> halves(count, T{0.5});
    std::vector<T> differences(count);
    const double excess =
        reference.subtract(powers.data(), halves.data(), count, differences.data());
    CHECK(excess == reference.sum(differences.data(), count));
    for (std::size_t k = 0; k < count; ++k) {
      REQUIRE(differences[k] == std::max(powers[k] - T{0.5}, T{0}));
    }

    for (const simd::Kernels* variant : simd::supported_kernels()) {
      CAPTURE(variant->name);
      const auto& kernels = simd::blocks_of<T>(*variant);
      std::vector<T> here(count);
      CHECK(kernels.maximum(x.data(), count) == maximum);
      CHECK(kernels.softmax_state(x.data(), count, kScale).maximum == maximum);
      CHECK(kernels.softmax_state(x.data(), count, kScale).sum == softmax_state.sum);
      kernels.exponentials(x.data(), count, maximum, kScale, T{3}, here.data());
      CHECK(here == powers);
      CHECK(kernels.sum(here.data(), count) == sum);
      CHECK(kernels.subtract(here.data(), halves.data(), count, here.data()) == excess);
      CHECK(here == differences);
      // NaN with several payloads: the arithmetic on exponent bits must not lose it.
      for (T bad :
           {std::numeric_limits<T>::quiet_NaN(), std::nextafter(kInfinity, T{0}) * 2 - kInfinity,
            std::numeric_limits<T>::signaling_NaN(), kInfinity}) {
        std::vector<T> broken(powers);
        broken[count / 2] = bad;
        CHECK(kernels.maximum(broken.data(), count) == kInfinity);
        const auto peak_of_broken = kernels.softmax_state(broken.data(), count, kScale);
        CHECK((peak_of_broken.maximum == kInfinity || std::isnan(peak_of_broken.sum)));
        CHECK(std::isnan(kernels.sum(broken.data(), count)));
        CHECK(std::isnan(kernels.subtract(broken.data(), halves.data(), count, here.data())));
        CHECK(std::isnan(kernels.subtract(halves.data(), broken.data(), count, here.data())));
        broken[count / 2] = T{-1};
        CHECK(std::isnan(kernels.sum(broken.data(), count)));
        CHECK(std::isnan(kernels.subtract(broken.data(), halves.data(), count, here.data())));
        CHECK(std::isnan(kernels.subtract(halves.data(), broken.data(), count, here.data())));
      }
      std::vector<T> nothing(count, -kInfinity);
      CHECK(kernels.maximum(nothing.data(), count) == -kInfinity);
      CHECK(kernels.softmax_state(nothing.data(), count, kScale).maximum == -kInfinity);
      CHECK(kernels.softmax_state(nothing.data(), count, kScale).sum == 0.0);
      nothing[count / 2] = std::numeric_limits<T>::quiet_NaN();
      CHECK(kernels.maximum(nothing.data(), count) == kInfinity);
      CHECK(std::isnan(kernels.softmax_state(nothing.data(), count, kScale).sum));
    }
  }
}

template <class T>
void check_widening() {
  std::vector<std::uint16_t> bits(1 << 16);
  for (std::size_t k = 0; k < bits.size(); ++k) bits[k] = static_cast<std::uint16_t>(k);
  std::vector<tokentiming::Half> halves;
  std::vector<tokentiming::BFloat16> bfloats;
  for (std::uint16_t each : bits) halves.push_back({each}), bfloats.push_back({each});
  for (const simd::Kernels* variant : simd::supported_kernels()) {
    CAPTURE(variant->name);
    const auto& kernels = simd::blocks_of<T>(*variant);
    std::vector<T> out(bits.size());
    kernels.widen_half(halves.data(), halves.size(), out.data());
    for (std::size_t k = 0; k < bits.size(); ++k) {
      const int exponent = (bits[k] >> 10) & 31;
      const int fraction = bits[k] & 1023;
      if (exponent == 31) {
        REQUIRE((fraction ? std::isnan(out[k]) : std::isinf(out[k])));
        continue;
      }
      const double magnitude =
          exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
      REQUIRE(double{out[k]} == (bits[k] >> 15 ? -magnitude : magnitude));
    }
    kernels.widen_bfloat16(bfloats.data(), bfloats.size(), out.data());
    for (std::size_t k = 0; k < bits.size(); ++k) {
      const float exact = std::bit_cast<float>(static_cast<std::uint32_t>(bits[k]) << 16);
      if (!std::isnan(exact)) REQUIRE(out[k] == static_cast<T>(exact));
    }
  }
}

}  // namespace

TEST_CASE("every variant of a kernel returns the same bits, and the right result") {
  check_kernels<float>(0x1p-24);
  check_kernels<double>(0x1p-53);
}

TEST_CASE("float16 and bfloat16 are widened exactly") {
  check_widening<float>();
  check_widening<double>();
}

TEST_CASE("exponentials underflow to zero") {
  const std::vector<float> x{0.0f, -80.0f, -200.0f, -std::numeric_limits<float>::infinity()};
  std::vector<float> out(4);
  for (const simd::Kernels* variant : simd::supported_kernels()) {
    const auto& kernels = simd::blocks_of<float>(*variant);
    kernels.exponentials(x.data(), 4, 0.0f, 1.0f, 1.0f, out.data());
    CHECK(out[0] == 1.0f);
    CHECK(out[1] == doctest::Approx(std::exp2(-80.0)).epsilon(1e-5));
    CHECK(out[2] == 0.0f);
    CHECK(out[3] == 0.0f);
  }
}

TEST_CASE("a ragged batch: accepted, rejected and empty chains") {
  const std::vector<std::int64_t> ids{1, 0, 1};
  const std::vector<std::int64_t> offsets{0, 2, 2, 3};
  const std::vector<double> q{0.5, 0.5, 0.5, 0.5, 0.25, 0.75};
  const std::vector<double> p{0.25, 0.75, 0.5, 0.5, 1.0, 0.0,  // chain 0: rows 0, 1 and the bonus
                              0.0,  1.0,                       // chain 1: the bonus
                              0.75, 0.25, 0.5, 0.5};           // chain 2
  const std::vector<double> uniforms{0.9, 0.9, 0.5, 0.5, 0.4, 0.9};
  std::vector<std::int32_t> tokens(9);
  std::vector<std::int32_t> accepted(3);
  const Chains<std::int64_t> chains{{ids, offsets},
                                    distributions(q, 2),
                                    distributions(p, 2),
                                    1.0,
                                    std::span<const double>(uniforms)};
  tokentiming::verify(chains, Rows<std::int32_t>{tokens.data(), 3, 3, 3}, accepted);
  CHECK(accepted == std::vector<std::int32_t>{2, 0, 0});
  CHECK(tokens == std::vector<std::int32_t>{1, 0, 0, 1, -1, -1, 0, -1, -1});
}

TEST_CASE("a map: the row of the rejected token alone is pushed forward") {
  // Draft tokens 0, 1 and 2 are spelled 0, 1, and 1 0; token 3 cannot be spelled.
  const std::vector<std::int32_t> first{0, 1, 1, -1};
  const std::vector<std::int64_t> starts{0, 1, 2, 4, 4};
  const std::vector<std::int32_t> expansions{0, 1, 1, 0};
  const tokentiming::VocabularyMap map{{}, first, starts, expansions};
  // Draft token 2 was drawn: its target tokens 1 and 0 are both of row 1 of the pool.
  const std::vector<std::int64_t> ids{1, 0};
  const std::vector<std::int64_t> rows{1, 1};
  const std::vector<std::int64_t> offsets{0, 2};
  const std::vector<double> pool{1.0, 0.0, 0.0, 0.0, 0.125, 0.25, 0.25, 0.375};
  std::vector<std::int32_t> tokens(3);
  std::vector<std::int32_t> accepted(1);
  const auto run = [&](const std::vector<double>& p, const std::vector<double>& uniforms) {
    Chains<std::int64_t> chains{{ids, offsets},
                                distributions(pool, 4),
                                distributions(p, 2),
                                1.0,
                                std::span<const double>(uniforms)};
    chains.draft_rows = rows;
    chains.draft_map = &map;
    tokentiming::verify(chains, Rows<std::int32_t>{tokens.data(), 1, 3, 3}, accepted);
    return tokens;
  };
  // q(1) = 1/4 + 1/4, then inside the expansion q(0) = 1: p is 1/4 and 3/4 there.
  const std::vector<double> p{0.75, 0.25, 0.75, 0.25, 0.5, 0.5};
  CHECK(run(p, {0.4, 0.7, 0.6}) == std::vector<std::int32_t>{1, 0, 1});
  CHECK(run(p, {0.4, 0.8, 0.6}) == std::vector<std::int32_t>{1, 1, -1});
  // At the rejection of the first, p - q is 3/4 - 1/8 at token 0 and less than 0 at token 1.
  CHECK(run(p, {0.6, 0.0, 0.9}) == std::vector<std::int32_t>{0, -1, -1});
}

TEST_CASE("a temperature for each chain") {
  const std::vector<std::int32_t> ids{1, 1};
  const std::vector<std::int64_t> offsets{0, 1, 2};
  const std::vector<float> logits{0.0f, 1.0f, 2.0f, 0.0f, 0.0f, 1.0f, 2.0f, 0.0f};
  const std::vector<float> temperatures{0.0f, 1.0f};
  const std::vector<float> uniforms{2.0f, 2.0f, 0.9f,
                                    0.5f};  // those of a greedy chain are not read
  std::vector<std::int32_t> tokens(4);
  std::vector<std::int32_t> accepted(2);
  Chains<std::int32_t> chains{{ids, offsets},
                              std::nullopt,
                              distributions(logits, 2, /*is_logits=*/true),
                              1.0,
                              std::span<const float>(uniforms)};
  chains.temperatures = temperatures;
  tokentiming::verify(chains, Rows<std::int32_t>{tokens.data(), 2, 2, 2}, accepted);
  // The second chain rejects its token, which has probability 0.73, and draws the other.
  CHECK(tokens == std::vector<std::int32_t>{1, 0, 0, -1});
}

TEST_CASE("errors write no output") {
  const std::vector<std::int32_t> ids{1};
  const std::vector<std::int64_t> offsets{0, 1};
  const std::vector<float> logits{0, 0, 0, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<float> uniforms{0.0f, 0.5f};
  std::vector<std::int32_t> tokens(2, -7);
  std::vector<std::int32_t> accepted(1, -7);
  Chains<std::int32_t> chains{{ids, offsets},
                              std::nullopt,
                              distributions(logits, 2, /*is_logits=*/true),
                              1.0,
                              std::span<const float>(uniforms)};
  const Rows<std::int32_t> out{tokens.data(), 1, 2, 2};
  CHECK_THROWS_WITH(tokentiming::verify(chains, out, accepted),
                    "verify: target_logits[1] holds NaN or +inf");
  chains.temperature = -1.0;
  CHECK_THROWS_AS(tokentiming::verify(chains, out, accepted), std::invalid_argument);
  CHECK(tokens == std::vector<std::int32_t>{-7, -7});
  CHECK(accepted == std::vector<std::int32_t>{-7});
}
