// Conversion of distributions over the draft's vocabulary to the target's vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokentiming/align.h"
#include "tokentiming/cuda.h"
#include "tokentiming/rows.h"

namespace tokentiming {

// The source of a proxy token's distribution.
enum class TransferCase : std::int8_t {
  kPointMass = 0,  // all mass on the proxy token itself
  kWithin = 1,     // starts with a draft token and ends within or with it
  kMerge = 2,      // starts with a draft token and ends with a later one
  kInside = 3,     // continues inside a draft token
};

// The inverse of a map from draft tokens to target tokens: the draft tokens that map to target
// token t are draft_ids[offsets[t] .. offsets[t + 1]), in ascending order. Target tokens from
// offsets.size() - 1 on have none. With it each target token sums its draft tokens in a fixed
// order, unlike with atomic additions.
struct InverseMap {
  std::span<const std::int32_t> offsets;
  std::span<const std::int32_t> draft_ids;
};

// How the target's vocabulary spells the D tokens of the draft's. Draft token d becomes the target
// tokens expansion_ids[expansion_offsets[d] .. expansion_offsets[d + 1]), the first of which is
// first[d]. Where first[d] is -1 there are none, and the probability of d is missing mass. exact[d]
// is the one target token with the same bytes, or -1.
//
// The CUDA functions need the inverses; the CPU functions do not read them.
struct VocabularyMap {
  std::span<const std::int32_t> exact = {};              // D entries
  std::span<const std::int32_t> first = {};              // D entries
  std::span<const std::int64_t> expansion_offsets = {};  // D + 1 entries
  std::span<const std::int32_t> expansion_ids = {};
  InverseMap exact_inverse = {};
  InverseMap first_inverse = {};
};

// Moves the draft's probabilities along an alignment. `draft` holds K_b draft tokens for each of B
// sequences, `target` the M_b proxy tokens that spell them in the target's vocabulary, and
// `target_spans` 2 entries for each proxy token, as `align` returns them. For a proxy token t
// aligned with the draft tokens lo .. hi - 1, with d_k the draft's tokens and P_k their rows:
//
//   kWithin  t starts where d_lo starts, ends within or with it, and hi = lo + 1:
//            q(x) = sum of P_lo(d) over the d with first(d) = x.
//   kMerge   t starts where d_lo starts and ends where d_(hi-1) ends, hi > lo + 1:
//            q as above, with m = P_lo(d_lo) ... P_(hi-1)(d_(hi-1)) moved from first(d_lo), or from
//            the missing mass if there is none, to t.
//   kInside  t starts after the start of d_lo, ends within or with it, and hi = lo + 1, and the
//            n >= 1 proxy tokens before it start with d_lo: q(x) is P_lo conditioned on those d
//            whose expansions begin with these n tokens and have further ones; x is the next one.
//   kPointMass  anything else, or no mass in the case that applied: q(t) = 1.
//
// Starts and ends are byte offsets from the sequence's beginning. A span that disagrees with the
// byte offsets is of the last case. A zero-byte proxy token can only be aligned with a zero-byte
// draft token.
//
//   probs   one row per proxy token, V_t columns
//   cases   one entry per proxy token
//
// A draft row is read once for each proxy token that it serves; kInside reads only the entries
// whose expansion begins as required. Sums over a row run in ascending d, in the rows' type;
// conditioning and normalising multiply by the inverse of a sum in double. Proxy tokens are shared
// among OpenMP threads; the result does not depend on their number.
//
// Throws std::invalid_argument, before anything is written, if sizes disagree, offsets are
// malformed, or an id or a span is out of range; and, when parts of `probs` and `cases` may have
// been written, if what is read of the rows holds NaN, infinity or a negative probability, or what
// is read of the map is out of range. `map.exact` is not read.
//
// Defined for Number = float and double, Id = std::int32_t and std::int64_t. Source: "TokenTiming",
// arXiv 2510.15545; the push-forward by first tokens and the conditioning are exact.
template <class Number, class Id>
void transfer(const Rows<const Number>& draft_probs, const Ragged<Id>& draft,
              const Ragged<Id>& target, std::span<const std::int32_t> target_spans,
              const ByteTable& draft_table, const ByteTable& target_table, const VocabularyMap& map,
              const Rows<Number>& probs, std::span<std::int8_t> cases);

// Restricts distributions to the tokens that both vocabularies have and normalises what is left:
// probs[r, map.exact[d]] is proportional to draft_probs[r, d]. Both have R rows. Columns of
// draft_probs from map.exact.size() on are not read, nor are the other members of the map.
//
// Throws as `transfer` does; also if a row has no mass on shared tokens. Defined for Number = float
// and double.
//
// Source: token-level intersection, Timor et al., arXiv 2502.05202, Algorithm 4.
template <class Number>
void restrict_to_shared(const Rows<const Number>& draft_probs, const VocabularyMap& map,
                        const Rows<Number>& probs);

namespace cuda {

// As tokentiming::transfer, with the same distributions and cases, bit for bit. The map needs
// `first_inverse`. Offsets may be empty: then there is one sequence.
//
// A proxy token gets the case -1 and a row of zeros if its sequence has ids, spans or offsets out
// of range or more than kMaxTokens tokens on a side, or if what is read of its draft row holds NaN,
// infinity or a negative probability. Tokens without an expansion are not read.
template <class Number, class Id>
void transfer(const Rows<const Number>& draft_probs, const Ragged<Id>& draft,
              const Ragged<Id>& target, std::span<const std::int32_t> target_spans,
              const ByteTable& draft_table, const ByteTable& target_table, const VocabularyMap& map,
              const Rows<Number>& probs, std::span<std::int8_t> cases,
              std::span<std::byte> workspace, Stream stream);

std::size_t transfer_workspace(std::size_t proxies);

// As tokentiming::restrict_to_shared; the map needs `exact_inverse`. The sum of a row is computed
// in another order than on the CPU, so that an entry may differ in its last bits. A row without
// mass on shared tokens, or that holds NaN, infinity or a negative probability there, becomes NaN
// throughout.
template <class Number>
void restrict_to_shared(const Rows<const Number>& draft_probs, const VocabularyMap& map,
                        const Rows<Number>& probs, std::span<std::byte> workspace, Stream stream);

std::size_t restrict_workspace(std::size_t rows);

}  // namespace cuda

}  // namespace tokentiming
