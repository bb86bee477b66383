// Distributions inside an expansion: a row conditioned on the expansions that begin with some
// target tokens and have further ones.
#pragma once

#include "gather.cuh"

namespace tokentiming::cuda {

struct DeviceExpansions {
  const std::int32_t* first;
  std::int64_t size;
  const std::int64_t* offsets;
  const std::int32_t* ids;
  std::int64_t ids_count;
};

// Target tokens taken from one draft token, `count` of them from `first` on.
struct TakenTokens {
  AnyIds ids;
  std::int64_t first;
  std::int64_t count;
};

// A row as seen from a position inside an expansion, or with no token taken, from its start. Row(d)
// is the probability of draft token d. Used by one warp, all of whose lanes call each function.
template <class Row>
class ConditionedRow {
 public:
  using Number = typename Row::Number;

  __device__ ConditionedRow(const DeviceInverseMap& inverse, const DeviceExpansions& expansions,
                            std::int64_t columns, const TakenTokens& taken, const Row& row)
      : inverse_(inverse), expansions_(expansions), columns_(columns), taken_(taken), row_(row) {}

  // Sets the probability of one token. Returns RowFlags.
  __device__ unsigned read(std::int64_t token, Number& out) const {
    const bool inside = taken_.count > 0;
    unsigned flags = kNoFlags;
    double mass = 0.0;
    Number sum = 0;
    for_each_in_order(inside ? taken_.ids[taken_.first] : token, flags,
                      [&](std::int64_t next, Number p) {
                        if (!inside || next == token) sum += p;
                        mass += static_cast<double>(p);
                      });
    if (__any_sync(kAllLanes, (flags & kInvalid) != 0)) return kInvalid;
    out = inside && mass > 0.0 ? normalised(sum, mass) : sum;
    return kHasMass;
  }

  // Writes the probabilities of all tokens after at least one taken, where `out` is zero before.
  // Returns RowFlags.
  __device__ unsigned write(Number* out) const {
    const std::int64_t opening = taken_.ids[taken_.first];
    unsigned flags = kNoFlags;
    double mass = 0.0;
    for_each_in_order(opening, flags, [&](std::int64_t next, Number p) {
      if (lane() == 0) out[next] += p;
      mass += static_cast<double>(p);
    });
    if (__any_sync(kAllLanes, (flags & kInvalid) != 0)) return kInvalid;
    mass = __shfl_sync(kAllLanes, mass, 0);  // the first lane's, so that no lane diverges
    if (!(mass > 0.0)) return kNoFlags;
    // Candidates may share a next token. Its entry is divided once: meanwhile its sign marks it.
    for_each_32(opening, flags, [&](const Candidate& mine) {
      replace(mine, out, [&](Number x) { return is_marked(x) ? x : -normalised(x, mass); });
    });
    for_each_32(opening, flags, [&](const Candidate& mine) {
      replace(mine, out, [&](Number x) { return is_marked(x) ? -x : x; });
    });
    return kHasMass;
  }

 private:
  // A draft token that has the first token.
  struct Candidate {
    bool continues;  // its expansion starts with all tokens taken, and has a next token
    std::int64_t next;
    Number probability;
  };

  __device__ static unsigned lane() { return threadIdx.x % kWarp; }

  // Uses the sign bit, so that it also works for 0.
  __device__ static bool is_marked(Number x) { return copysign(1.0, static_cast<double>(x)) < 0; }

  // All lanes read before any writes. Lanes with the same next token write the same number.
  template <class F>
  __device__ static void replace(const Candidate& mine, Number* out, const F& f) {
    __syncwarp();
    const Number x = mine.continues ? f(out[mine.next]) : Number{0};
    __syncwarp();
    if (mine.continues) out[mine.next] = x;
  }

  // Calls f(next, probability) in every lane, for one draft token at a time in ascending order.
  template <class F>
  __device__ void for_each_in_order(std::int64_t opening, unsigned& flags, const F& f) const {
    for_each_32(opening, flags, [&](const Candidate& mine) {
      unsigned left = __ballot_sync(kAllLanes, mine.continues);
      while (left != 0) {
        const auto from = static_cast<unsigned>(__ffs(left) - 1);
        left &= left - 1;
        const std::int64_t next = __shfl_sync(kAllLanes, mine.next, from);
        f(next, __shfl_sync(kAllLanes, mine.probability, from));
      }
    });
  }

  // Calls f in every lane with the lane's one of 32 draft tokens that have the first token.
  template <class F>
  __device__ void for_each_32(std::int64_t opening, unsigned& flags, const F& f) const {
    // The first of the tokens taken may be missing mass, or invalid: it is its own position that
    // decides on it, and this one may be read before.
    const bool is_token = 0 <= opening && opening < columns_;
    const Range all = is_token ? range_of(inverse_, static_cast<int>(opening)) : Range{0, -1};
    if (all.end < 0) flags |= kInvalid;
    for (std::int32_t k = all.begin; k < all.end; k += static_cast<std::int32_t>(kWarp)) {
      const std::int32_t mine = k + static_cast<std::int32_t>(lane());
      f(mine < all.end ? candidate(inverse_.draft_ids[mine], opening, flags) : Candidate{});
    }
    __syncwarp();
  }

  __device__ Candidate candidate(std::int64_t d, std::int64_t opening, unsigned& flags) const {
    if (d < 0 || d >= inverse_.draft_tokens) return invalid(flags);
    std::int64_t next = opening;
    if (taken_.count > 0) {
      const std::int64_t begin = expansions_.offsets[d];
      const std::int64_t end = expansions_.offsets[d + 1];
      if (begin < 0 || begin > end || end > expansions_.ids_count) return invalid(flags);
      if (end - begin <= taken_.count) return {};
      for (std::int64_t k = 0; k < taken_.count; ++k) {
        if (expansions_.ids[begin + k] != taken_.ids[taken_.first + k]) return {};
      }
      next = expansions_.ids[begin + taken_.count];
    }
    const Number p = row_(static_cast<std::int32_t>(d));
    const bool placed = 0 <= next && next < columns_;
    if (!placed || !is_probability(p)) return invalid(flags);
    return {true, next, p};
  }
  __device__ static Candidate invalid(unsigned& flags) {
    flags |= kInvalid;
    return {};
  }

  const DeviceInverseMap& inverse_;
  const DeviceExpansions& expansions_;
  std::int64_t columns_;
  TakenTokens taken_;
  Row row_;
};

inline DeviceExpansions device_expansions(const VocabularyMap& map) {
  return {map.first.data(), static_cast<std::int64_t>(map.first.size()),
          map.expansion_offsets.data(), map.expansion_ids.data(),
          static_cast<std::int64_t>(map.expansion_ids.size())};
}

}  // namespace tokentiming::cuda
