// What the host can check of the arguments of `verify`, for CPU and CUDA.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <variant>

#include "refuse.h"
#include "tokentiming/verify.h"

namespace tokentiming {

inline const char* target_name(const Distributions& distributions) {
  return distributions.is_logits ? "target_logits" : "target_probs";
}
inline const char* draft_name(const Distributions& distributions) {
  return distributions.is_logits ? "draft_logits" : "draft_probs";
}
inline std::size_t rows_of(const Distributions& distributions) {
  return std::visit([](const auto& rows) { return rows.rows; }, distributions.rows);
}
inline std::size_t columns_of(const Distributions& distributions) {
  return std::visit([](const auto& rows) { return rows.columns; }, distributions.rows);
}

// The chains with proposals over the tokens of their map: further columns pad the draft's head.
template <class Id>
Chains<Id> without_padding(Chains<Id> chains) {
  if (chains.draft_map == nullptr) return chains;
  const std::size_t size = chains.draft_map->first.size();
  std::visit([size](auto& rows) { rows.columns = size; }, chains.proposals->rows);
  return chains;
}
// Whether a token of a chain may be kMissingMass.
template <class Id>
bool may_miss(const Chains<Id>& chains) {
  return chains.proposals && (!chains.proposals->is_logits || chains.draft_map != nullptr);
}

// `longest` is the length of the longest chain.
[[noreturn]] inline void refuse_tokens(std::size_t batch, std::int64_t longest,
                                       const Rows<std::int32_t>& tokens) {
  refuse("verify", "out.tokens must be [" + std::to_string(batch) + ", " +
                       std::to_string(longest + 1) + "], got [" + std::to_string(tokens.rows) +
                       ", " + std::to_string(tokens.columns) + "]");
}

// Of the proposals of V tokens, their rows and their map.
template <class Id>
void check_proposal_sizes(const Chains<Id>& chains, std::size_t columns) {
  constexpr const char* kVerify = "verify";
  const std::size_t drafted = chains.draft.ids.size();
  if (!chains.proposals) {
    if (!chains.draft_rows && chains.draft_map == nullptr) return;
    refuse(kVerify, std::string(chains.draft_map ? "draft_map" : "draft_rows") +
                        " belongs to draft_probs or draft_logits; give one of them");
  }
  const std::string draft = draft_name(*chains.proposals);
  const std::size_t width = columns_of(*chains.proposals);
  if (!chains.draft_rows) {
    if (rows_of(*chains.proposals) != drafted) {
      refuse(kVerify, draft + " has " + std::to_string(rows_of(*chains.proposals)) +
                          " rows, draft_ids " + std::to_string(drafted) + " entries");
    }
  } else if (chains.draft_rows->size() != drafted) {
    refuse(kVerify, "draft_rows has " + std::to_string(chains.draft_rows->size()) +
                        " entries, draft_ids " + std::to_string(drafted));
  }
  if (chains.draft_map == nullptr) {
    if (width == columns) return;
    refuse(kVerify, draft + " has " + std::to_string(width) + " columns, " +
                        target_name(chains.targets) + " has " + std::to_string(columns));
  }
  const VocabularyMap& map = *chains.draft_map;
  if (width < map.first.size()) {
    refuse(kVerify, "draft_map has " + std::to_string(map.first.size()) + " draft tokens, " +
                        draft + " only " + std::to_string(width) + " columns");
  }
  if (map.expansion_offsets.size() != map.first.size() + 1) {
    refuse(kVerify, "draft_map has " + std::to_string(map.expansion_offsets.size()) +
                        " expansion_offsets, needs one more than its " +
                        std::to_string(map.first.size()) + " draft tokens");
  }
}

template <class Id>
void check_verify_sizes(const Chains<Id>& chains, std::size_t batch, std::size_t accepted) {
  constexpr const char* kVerify = "verify";
  const std::size_t drafted = chains.draft.ids.size();
  const std::string target = target_name(chains.targets);
  const std::size_t columns = columns_of(chains.targets);
  if (rows_of(chains.targets) != drafted + batch) {
    refuse(kVerify, target + " has " + std::to_string(rows_of(chains.targets)) + " rows; " +
                        std::to_string(drafted) + " drafted tokens in " + std::to_string(batch) +
                        " chains need " + std::to_string(drafted + batch));
  }
  if (columns == 0 && batch > 0) refuse(kVerify, target + " has no columns");
  check_proposal_sizes(chains, columns);
  if (!(chains.temperature >= 0.0 && std::isfinite(chains.temperature))) {
    refuse(kVerify,
           "temperature is " + std::to_string(chains.temperature) + "; it must be 0 or more");
  }
  const bool has_temperature = chains.temperature != 1.0 || !chains.temperatures.empty();
  if (has_temperature && !chains.targets.is_logits) {
    refuse(kVerify,
           std::string(chains.temperatures.empty() ? "temperature applies" : "temperatures apply") +
               " to target_logits; target_probs are taken as they are");
  }
  if (!chains.temperatures.empty() && chains.temperatures.size() != batch) {
    refuse(kVerify, "temperatures has " + std::to_string(chains.temperatures.size()) +
                        " entries; one for each of the " + std::to_string(batch) +
                        " chains is needed");
  }
  const std::size_t uniforms =
      std::visit([](const auto& values) { return values.size(); }, chains.uniforms);
  const bool may_sample = chains.temperature > 0.0 || !chains.temperatures.empty();
  if (may_sample && uniforms != drafted + batch) {
    refuse(kVerify, "uniforms has " + std::to_string(uniforms) + " entries; one for each row of " +
                        target + " is needed, " + std::to_string(drafted + batch));
  }
  if (accepted != batch) {
    refuse(kVerify, "out.accepted must have " + std::to_string(batch) + " entries, one a chain");
  }
}

}  // namespace tokentiming
