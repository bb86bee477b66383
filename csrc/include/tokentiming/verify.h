// Accepting a prefix of a drafted chain and drawing the token after it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>

#include "tokentiming/align.h"
#include "tokentiming/rows.h"

namespace tokentiming {

struct Distributions {
  AnyRows rows;
  bool is_logits;  // otherwise probabilities
};

// B drafted chains, K_b tokens in chain b, T tokens in all.
template <class Id>
struct Chains {
  Ragged<Id> draft;
  std::optional<Distributions>
      proposals;             // [T, V], q; without, each token is proposed with certainty
  Distributions targets;     // [T + B, V], p: K_b + 1 rows for chain b
  double temperature = 1.0;  // logits are divided by it; 0: all of p is on the first maximum
  std::variant<std::span<const float>, std::span<const double>> uniforms;  // [T + B], in [0, 1)
};

// Verifies each chain so that the distribution of the emitted tokens is the targets' own.
//
// Token x at position i is accepted while u_i < p(x) / q(x). At the first rejection a token is
// drawn from max(p - q, 0), normalised; after a chain without one, a bonus token from p. The last
// uniform of a chain serves that draw, the others its acceptances, so that each is used once.
//
// Rows need not be normalised where that has a meaning. Probabilities of a proposal may sum to less
// than 1: the rest is missing mass, and the id -1 says that the draft drew it, which is a
// rejection. A proposal without rows has q(x) = 1: x is accepted with probability p(x), and taken
// from p when it is not. If rounding leaves nothing of max(p - q, 0), p <= q everywhere and a
// rejection could not have happened but by that rounding: the token is then drawn from p.
//
// At temperature 0 a token is accepted where it is the lowest id of greatest logit, and that id is
// emitted otherwise, whatever q is; neither proposals nor uniforms are read.
//
//   tokens    B rows of at least max(K_b) + 1: the accepted tokens, one more, then -1
//   accepted  B entries: how many of a chain's tokens were accepted
//
// Of positions accepted by probabilities one entry is read; a row of logits is read once for its
// normaliser, and again only to draw from max(p - q, 0). Nothing is read behind a rejection. All
// chains advance in step, and the rows of a position are shared among OpenMP threads.
//
// Arithmetic is in float, or in double where a row is double. Sums run over fixed
// blocks of 1024 entries, within a block in 16 lanes, from there on in double; a draw walks the
// blocks' sums and then one block, in double. So the result depends neither on the number of
// threads nor on the processor.
//
// Throws std::invalid_argument, before anything is written, if sizes disagree, an id is out of
// range, a uniform is not in [0, 1), the temperature is negative or not finite or is set for
// probabilities, a row that is read holds NaN, +inf or a negative probability, or a row of targets
// has no mass.
//
// Defined for Id = std::int32_t and std::int64_t. Source: Leviathan, Kalman, Matias, "Fast
// inference from transformers via speculative decoding", arXiv 2211.17192; Chen et al., arXiv
// 2302.01318.
template <class Id>
void verify(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted);

}  // namespace tokentiming
