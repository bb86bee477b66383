// Dynamic time warping between two tokenizations of (nearly) the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokentiming/cuda.h"

namespace tokentiming {

// The bytes of one token.
using Token = std::span<const std::uint8_t>;

// A vocabulary as a table id -> bytes: token `id` is bytes[offsets[id] .. offsets[id + 1]).
struct ByteTable {
  std::span<const std::uint8_t> bytes;
  std::span<const std::int64_t> offsets;  // size + 1 entries, non-decreasing

  std::int64_t size() const {
    return offsets.empty() ? 0 : static_cast<std::int64_t>(offsets.size()) - 1;
  }
};

// B concatenated sequences: sequence b is ids[offsets[b] .. offsets[b + 1]).
template <class Id>
struct Ragged {
  std::span<const Id> ids;
  std::span<const std::int64_t> offsets;  // B + 1 entries, from 0 to ids.size(), non-decreasing
};

// Aligns each draft sequence with its target sequence by banded dynamic time warping.
//
// With `i` over the K draft tokens and `j` over the M target tokens of a pair,
//
//   C[i, j] = levenshtein(draft[i], target[j]) + min(C[i-1, j-1], C[i-1, j], C[i, j-1])
//
// for the cells with |i - j| <= max(band, |K - M|); the path does not visit other cells. Of equal
// minima the first in the order above is taken. The path runs from (0, 0) to (K - 1, M - 1).
//
//   target_spans  2 entries for each target token of the batch: the half-open range of draft tokens
//                 that the path aligns with it, counted from the first draft token of its own
//                 sequence. Spans are never empty; the first starts at 0, the last ends at K, and
//                 each starts where the previous one ended or one token earlier.
//   costs         B entries: C[K - 1, M - 1], a number of byte edits; 0 when both sides are empty.
//
// Only cells inside the band are computed: time is O(K * band * bytes of a token), memory
// O(K * band). Pairs are shared among OpenMP threads; the result does not depend on their number.
//
// Throws std::invalid_argument, before anything is written, if the band is negative, offsets are
// malformed, an id is outside its table, a table's entry is outside its bytes, the outputs have
// other sizes, or one side of a pair is empty and the other is not.
//
// Defined for Id = std::int32_t and std::int64_t.
//
// Band: Sakoe and Chiba, "Dynamic programming algorithm optimization for spoken word recognition",
// 1978. Use on tokens: "TokenTiming", arXiv 2510.15545.
template <class Id>
void align(const Ragged<Id>& draft, const Ragged<Id>& target, const ByteTable& draft_table,
           const ByteTable& target_table, std::int64_t band, std::span<std::int32_t> target_spans,
           std::span<std::int64_t> costs);

namespace cuda {

// The limits of the kernels: tokens of one side of a pair, and bytes of a token.
inline constexpr std::int64_t kMaxTokens = 128;
inline constexpr std::int64_t kMaxTokenBytes = 2048;

// As tokentiming::align, with the same spans and costs. Offsets may be empty, on both sides or on
// neither: then all sequences of a side have equally many tokens.
//
// The cost of a pair and its spans are -1 if an id or a table's entry is out of range, its offsets
// are not a range of the ids, one side is empty and the other is not, or it exceeds a limit above.
// If the shapes show that a limit is exceeded, the host throws.
template <class Id>
void align(const Ragged<Id>& draft, const Ragged<Id>& target, const ByteTable& draft_table,
           const ByteTable& target_table, std::int64_t band, std::span<std::int32_t> target_spans,
           std::span<std::int64_t> costs, Stream stream);

}  // namespace cuda

}  // namespace tokentiming
