// A row over the draft's vocabulary as a proposal over the target's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "distribution.h"
#include "refuse.h"
#include "tokentiming/transfer.h"

namespace tokentiming {

// q(x) is the sum of P(d) over the draft tokens d whose expansion has x as its first token; or, of
// a draft token that some target tokens have been taken from, P conditioned on the expansions that
// begin with these and have further ones, x being the next. As `transfer` defines both.
//
// The row is read as a distribution: if it has logits, they must have been normalised.
template <class T, class Id>
class MappedRow {
 public:
  MappedRow(const Distribution<T>& draft, const VocabularyMap& map, std::span<const Id> taken,
            std::size_t columns)
      : draft_(draft), map_(map), taken_(taken), columns_(columns) {}

  // The probability of one target token. Reads no other probabilities.
  T operator()(std::size_t token) const {
    T sum = 0;
    if (taken_.empty()) {
      for_each_with_first(static_cast<std::int32_t>(token),
                          [&](std::size_t d) { sum += draft_(d); });
      return sum;
    }
    double mass = 0.0;
    for_each_inside([&](std::size_t next, T probability) {
      if (next == token) sum += probability;
      mass += static_cast<double>(probability);
    });
    return mass > 0.0 ? normalised(sum, mass) : T{0};
  }

  // Writes the probabilities of all target tokens. `out` is zero.
  void write(std::span<T> out) const {
    if (taken_.empty()) return push_forward(out);
    double mass = 0.0;
    for_each_inside([&](std::size_t next, T probability) {
      out[next] += probability;
      mass += static_cast<double>(probability);
    });
    if (!(mass > 0.0)) return;
    for (T& q : out) q = normalised(q, mass);
  }

 private:
  // Entries of the map that are compared before one of them is looked at.
  static constexpr std::size_t kCompared = 256;

  // Calls f(d) for each draft token with this first target token, in ascending order.
  template <class F>
  void for_each_with_first(std::int32_t token, const F& f) const {
    const std::int32_t* first = map_.first.data();
    const std::size_t size = map_.first.size();
    for (std::size_t begin = 0; begin < size; begin += kCompared) {
      const std::size_t end = std::min(begin + kCompared, size);
      std::int32_t any = 0;
      for (std::size_t d = begin; d < end; ++d) any |= first[d] == token;
      if (any == 0) continue;
      for (std::size_t d = begin; d < end; ++d) {
        if (first[d] == token) f(d);
      }
    }
  }

  // Calls f(next, P(d)) for each draft token whose expansion begins with the tokens taken and goes
  // on with `next`.
  template <class F>
  void for_each_inside(const F& f) const {
    for_each_with_first(static_cast<std::int32_t>(taken_[0]), [&](std::size_t d) {
      const std::span<const std::int32_t> expansion = expansion_of(d);
      if (expansion.size() <= taken_.size()) return;
      if (!std::ranges::equal(taken_, expansion.first(taken_.size()))) return;
      f(checked(expansion[taken_.size()], "expansion_ids"), draft_(d));
    });
  }

  void push_forward(std::span<T> out) const {
    Block<T> buffer;
    for (std::size_t block = 0; block * kBlock < map_.first.size(); ++block) {
      const std::size_t begin = block * kBlock;
      const std::size_t count = std::min(kBlock, map_.first.size() - begin);
      const T* probabilities = draft_.probabilities(block, buffer.data());
      T sum = 0;  // NaN or infinite if an entry is
      bool negative = false;
      for (std::size_t k = 0; k < count; ++k) {
        sum += probabilities[k];
        negative |= probabilities[k] < 0;
        const std::int32_t t = map_.first[begin + k];
        if (t != kNoToken) out[checked(t, "first")] += probabilities[k];
      }
      if (negative || !std::isfinite(sum)) draft_.refuse_probabilities();
    }
  }

  std::span<const std::int32_t> expansion_of(std::size_t d) const {
    const std::int64_t begin = map_.expansion_offsets[d];
    const std::int64_t end = map_.expansion_offsets[d + 1];
    if (begin < 0 || begin > end || end > std::ssize(map_.expansion_ids)) {
      refuse("verify",
             "draft_map has malformed expansion_offsets at draft token " + std::to_string(d));
    }
    return map_.expansion_ids.subspan(static_cast<std::size_t>(begin),
                                      static_cast<std::size_t>(end - begin));
  }

  std::size_t checked(std::int32_t target, const char* name) const {
    if (static_cast<std::uint32_t>(target) >= columns_) {
      refuse("verify", std::string("draft_map has ") + std::to_string(target) + " in " + name +
                           ", outside a vocabulary of " + std::to_string(columns_) + " tokens");
    }
    return static_cast<std::size_t>(target);
  }

  // Multiplies by 1 / mass, or divides if that is infinite.
  static T normalised(T x, double mass) {
    const double factor = 1.0 / mass;
    const auto wide = static_cast<double>(x);
    return static_cast<T>(std::isfinite(factor) ? wide * factor : wide / mass);
  }

  static constexpr std::int32_t kNoToken = -1;

  const Distribution<T>& draft_;
  const VocabularyMap& map_;
  std::span<const Id> taken_;
  std::size_t columns_;
};

}  // namespace tokentiming
