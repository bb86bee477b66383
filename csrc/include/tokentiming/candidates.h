// The best tokens of an exponential race on shared noise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokentiming/cuda.h"
#include "tokentiming/rows.h"
#include "tokentiming/sample.h"

namespace tokentiming {

inline constexpr std::size_t kMaxCandidates = 16;  // of a row

// The results of `candidates`: contiguous rows of 1 to kMaxCandidates columns.
struct Candidates {
  Rows<std::int64_t> ids;
  Rows<float> shares;
};

// The tokens that lead the race of `sample`: those with the greatest scores
// z_v = logits[r, v] - log E(states[r], keys[v]), in descending order.
//
//   out.ids     the tokens; of equal scores the lower id comes first. The first is the token that
//               `sample` draws from the same arguments.
//   out.shares  softmax(z)[v] of those tokens, over all tokens of the row, to a relative error of
//               1e-4. It estimates the probability that a similar distribution draws the token at
//               this state.
//
// A row with fewer finite logits than columns in `out` is filled up with id -1 and share 0.
// Scores are compared in double precision, and the ids depend only on the arguments. The shares do
// not depend on the number of threads or the instruction set; their last bit may depend on the C
// library.
//
// Throws std::invalid_argument where `sample` does, and if `out` has another shape.
//
// Defined for Logit = Half, BFloat16, float and double.
template <class Logit>
void candidates(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
                std::uint64_t seed, std::span<const State> states, const Candidates& out);

namespace cuda {

// As tokentiming::candidates, with the same ids. Shares agree to a relative error of 1e-4. The ids
// of a row are -1 and its shares 0 if its state is out of range, it holds NaN or +inf, or it has no
// finite logit.
template <class Logit>
void candidates(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
                std::uint64_t seed, std::span<const State> states, const Candidates& out,
                std::span<std::byte> workspace, Stream stream);

std::size_t candidates_workspace(std::size_t rows, std::size_t keys, std::size_t count);

}  // namespace cuda

}  // namespace tokentiming
