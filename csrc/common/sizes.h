// What can be checked of an operation's arguments without reading them, for every processor alike.
#pragma once

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <variant>

#include "tokentiming/transfer.h"
#include "tokentiming/verify.h"

namespace tokentiming {

// Refusals begin with the name of the function that was called.
[[noreturn]] inline void refuse(const char* function, const std::string& message) {
  throw std::invalid_argument(std::string(function) + ": " + message);
}

inline void check_sample_sizes(std::size_t rows, std::size_t columns, std::size_t keys,
                               std::size_t states, std::size_t ids) {
  constexpr const char* kSample = "sample";
  if (keys > columns) {
    refuse(kSample, "keys has " + std::to_string(keys) + " entries, logits only " +
                        std::to_string(columns) + " columns");
  }
  if (states != rows) {
    refuse(kSample,
           "states has " + std::to_string(states) + " rows, logits has " + std::to_string(rows));
  }
  if (ids != rows) {
    refuse(kSample, "out has " + std::to_string(ids) + " entries, logits has " +
                        std::to_string(rows) + " rows");
  }
}

inline void check_noise_size(std::size_t keys, std::size_t states, std::size_t out) {
  if (out != keys * states) refuse("log_noise", "out must have an entry for every state and key");
}

// Of one sequence, one side of which has no tokens.
[[noreturn]] inline void refuse_half_pair(bool no_draft, std::size_t b) {
  refuse("align", std::string(no_draft ? "draft_ids" : "target_ids") + " of sequence " +
                      std::to_string(b) +
                      " is empty and the other side is not; no path joins them");
}

inline void check_align_sizes(std::int64_t band, std::size_t drafts, std::size_t targets,
                              std::size_t target_ids, std::size_t target_spans, std::size_t costs) {
  constexpr const char* kAlign = "align";
  if (band < 0) refuse(kAlign, "band is " + std::to_string(band) + "; it must be 0 or more");
  if (targets != drafts) {
    refuse(kAlign, "target_offsets has " + std::to_string(targets) +
                       " sequences, draft_offsets has " + std::to_string(drafts));
  }
  if (target_spans != 2 * target_ids) {
    refuse(kAlign, "target_spans must have 2 entries for each of the " +
                       std::to_string(target_ids) + " target_ids");
  }
  if (costs != drafts) {
    refuse(kAlign, "cost must have " + std::to_string(drafts) + " entries, one a sequence");
  }
}

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

// `longest`: tokens of the longest chain.
[[noreturn]] inline void refuse_tokens(std::size_t batch, std::int64_t longest,
                                       const Rows<std::int32_t>& tokens) {
  refuse("verify", "out.tokens must be [" + std::to_string(batch) + ", " +
                       std::to_string(longest + 1) + "], got [" + std::to_string(tokens.rows) +
                       ", " + std::to_string(tokens.columns) + "]");
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
  if (chains.proposals) {
    const std::string draft = draft_name(*chains.proposals);
    if (rows_of(*chains.proposals) != drafted) {
      refuse(kVerify, draft + " has " + std::to_string(rows_of(*chains.proposals)) +
                          " rows, draft_ids " + std::to_string(drafted) + " entries");
    }
    if (columns_of(*chains.proposals) != columns) {
      refuse(kVerify, draft + " has " + std::to_string(columns_of(*chains.proposals)) +
                          " columns, " + target + " has " + std::to_string(columns));
    }
  }
  if (!(chains.temperature >= 0.0 && std::isfinite(chains.temperature))) {
    refuse(kVerify,
           "temperature is " + std::to_string(chains.temperature) + "; it must be 0 or more");
  }
  if (chains.temperature != 1.0 && !chains.targets.is_logits) {
    refuse(kVerify, "temperature applies to target_logits; target_probs are taken as they are");
  }
  const std::size_t uniforms =
      std::visit([](const auto& values) { return values.size(); }, chains.uniforms);
  if (chains.temperature > 0.0 && uniforms != drafted + batch) {
    refuse(kVerify, "uniforms has " + std::to_string(uniforms) + " entries; one for each row of " +
                        target + " is needed, " + std::to_string(drafted + batch));
  }
  if (accepted != batch) {
    refuse(kVerify, "out.accepted must have " + std::to_string(batch) + " entries, one a chain");
  }
}

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
