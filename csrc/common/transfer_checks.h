// What the host can check of the arguments of `transfer` and `restrict`, for CPU and CUDA.
#pragma once

#include <cstddef>
#include <string>

#include "refuse.h"
#include "tokentiming/transfer.h"

namespace tokentiming {

// `drafts`, `targets`: sequences on either side.
template <class Number>
void check_transfer_sizes(const Rows<const Number>& draft_probs, std::size_t draft_ids,
                          std::size_t target_ids, std::size_t target_spans,
                          const VocabularyMap& map, const Rows<Number>& probs, std::size_t cases,
                          std::size_t drafts, std::size_t targets) {
  constexpr const char* kTransfer = "transfer";
  const auto number = [](std::size_t n) { return std::to_string(n); };
  if (targets != drafts) {
    refuse(kTransfer, "target_offsets has " + number(targets) + " sequences, draft_offsets has " +
                          number(drafts));
  }
  if (target_spans != 2 * target_ids) {
    refuse(kTransfer, "target_spans must have 2 entries for each of the " + number(target_ids) +
                          " target_ids");
  }
  if (draft_probs.rows != draft_ids) {
    refuse(kTransfer, "draft_probs has " + number(draft_probs.rows) + " rows, draft_ids " +
                          number(draft_ids) + " entries");
  }
  const std::size_t size = map.first.size();
  if (draft_probs.columns < size) {
    refuse(kTransfer, "first has " + number(size) + " entries, draft_probs only " +
                          number(draft_probs.columns) + " columns");
  }
  if (map.expansion_offsets.size() != size + 1) {
    refuse(kTransfer, "expansion_offsets must have " + number(size + 1) +
                          " entries, one more than first, got " +
                          number(map.expansion_offsets.size()));
  }
  if (probs.rows != target_ids) {
    refuse(kTransfer, "out.probs has " + number(probs.rows) + " rows, target_ids " +
                          number(target_ids) + " entries");
  }
  if (cases != target_ids) {
    refuse(kTransfer, "out.cases must have " + number(target_ids) + " entries, one a proxy token");
  }
}

template <class Number>
void check_restrict_sizes(const Rows<const Number>& draft_probs, std::size_t exact,
                          const Rows<Number>& probs) {
  constexpr const char* kRestrict = "restrict";
  if (probs.rows != draft_probs.rows) {
    refuse(kRestrict, "out has " + std::to_string(probs.rows) + " rows, draft_probs has " +
                          std::to_string(draft_probs.rows));
  }
  if (exact > draft_probs.columns) {
    refuse(kRestrict, "exact has " + std::to_string(exact) + " entries, draft_probs only " +
                          std::to_string(draft_probs.columns) + " columns");
  }
}

}  // namespace tokentiming
