// Accepting a prefix of a draft chain and drawing the token after it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>

#include "tokentiming/align.h"
#include "tokentiming/cuda.h"
#include "tokentiming/rows.h"
#include "tokentiming/transfer.h"

namespace tokentiming {

// B chains of draft tokens, K_b tokens in chain b, T tokens in all.
template <class Id>
struct Chains {
  Ragged<Id> draft;
  std::optional<Distributions> proposals;  // [T, V] or a pool, q; without them every q(x) is 1
  Distributions targets;                   // [T + B, V], p: K_b + 1 rows for chain b
  double temperature =
      1.0;  // logits are divided by it; 0: p is 1 at the lowest id of greatest logit
  std::variant<std::span<const float>, std::span<const double>> uniforms;  // [T + B], in [0, 1)
  std::span<const float> temperatures = {};  // [B], in place of `temperature`, unless empty
  std::optional<std::span<const Id>> draft_rows = {};  // [T], the row of `proposals` of each token
  const VocabularyMap* draft_map = nullptr;            // of the proposals' vocabulary, or null
};

// Verifies each chain so that the emitted tokens have the distributions of the targets.
//
// Token x at position i is accepted if u_i < p(x) / q(x). At the first rejection a token is drawn
// from max(p - q, 0), normalised; after a chain without rejection, a bonus token is drawn from p.
// The last uniform of a chain is used for that draw and the others for its acceptances, so that
// each is used once.
//
// Rows of probabilities need not be normalised. Those of a proposal may sum to less than 1: the
// rest is missing mass. The id -1 means that the draft drew the missing mass, which is a rejection;
// it is refused beside logits of the proposals.
// Without proposals q(x) = 1: x is accepted with probability p(x), and excluded from p when it is
// rejected. If rounding leaves no mass in max(p - q, 0), then p <= q everywhere and the rejection
// was due to rounding: the token is drawn from p.
//
// With `draft_rows` the proposals are a pool of any number of rows, [R, V].
//
// With `draft_map` the rows of proposals have the draft's vocabulary, [T, V_d] or [R, V_d], and q
// is what `transfer` makes of them: q(x) is the sum of P(d) over the draft tokens d with first(d) =
// x. Where a token of a chain has the same entry of `draft_rows` as the one before it, it continues
// inside an expansion: q is P conditioned on the expansions that begin with the tokens of this run
// and have further ones. Nothing of width V is written but the row of the rejected token. Draft
// tokens without an expansion are missing mass; a draw of one is kMissingMass, from logits too. A row
// without mass stays 0. `exact` of the map is not read, nor are columns from its size on: they pad
// the draft's head.
//
// At temperature 0 a token is accepted if it is the lowest id of the greatest logit; that id is
// emitted otherwise. Neither proposals nor uniforms are read. `temperatures` gives each chain its
// own; some of them may be 0.
//
//   tokens    B rows of at least max(K_b) + 1: the accepted tokens, an additional one, then -1
//   accepted  B entries: the number of a chain's tokens that were accepted
//
// At a position accepted by probabilities one entry is read. A row of logits is read once for its
// softmax, and again only to draw from max(p - q, 0). No row after a rejection is read. All chains
// advance position by position, and OpenMP threads share the rows of a position.
//
// Arithmetic is in float, or in double if a row is double. Sums run over fixed blocks of 1024
// entries: within a block in 16 lanes, across lanes and blocks in double. The inverse-CDF search
// runs over the blocks' sums, then over one block, in double. The result depends neither on the
// number of threads nor on the processor.
//
// Throws std::invalid_argument, before anything is written, if sizes disagree, an id is out of
// range, a uniform is not in [0, 1), a temperature is negative or not finite or is set for
// probabilities, what is read of the map is malformed, a row that is read holds NaN, +inf or a
// negative probability, or a row of targets has no mass.
//
// Defined for Id = std::int32_t and std::int64_t. Source: Leviathan, Kalman, Matias, "Fast
// inference from transformers via speculative decoding", arXiv 2211.17192; Chen et al., arXiv
// 2302.01318.
template <class Id>
void verify(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted);

namespace cuda {

// As tokentiming::verify. Offsets may be empty: then all chains have equally many tokens.
//
// All positions are reduced at once as far as the GPU has space, so that rows after a rejection may
// be read; what they hold does not matter. Rows are of Half, BFloat16 or float. Sums run in float
// within a thread and in double from there on, in another order than on the CPU: if a uniform is
// within about 1e-6 of a decision, the two may decide differently.
//
// A map needs `first_inverse`. Its sums run in ascending order, as on the CPU; draft tokens without
// an expansion are not read.
//
// A chain gets `accepted` -1 and tokens -1 if what is read of it is invalid: an id, a uniform, a
// temperature, an entry of `draft_rows` or of the map out of range, a row with NaN, +inf or a
// negative probability or without mass, offsets that are not a range of the ids or that give more
// tokens than a row of `tokens` has columns.
template <class Id>
void verify(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted, std::span<std::byte> workspace, Stream stream);

// For as many chains. Reads sizes only.
template <class Id>
std::size_t verify_workspace(const Chains<Id>& chains, std::size_t batch);

}  // namespace cuda

}  // namespace tokentiming
