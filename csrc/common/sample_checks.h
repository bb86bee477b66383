// What the host can check of the arguments of `sample`, `log_noise` and `candidates`, for CPU and
// CUDA.
#pragma once

#include <cstddef>
#include <string>

#include "refuse.h"
#include "tokentiming/candidates.h"

namespace tokentiming {

inline void check_race_sizes(const char* operation, std::size_t rows, std::size_t columns,
                             std::size_t keys, std::size_t states) {
  if (keys > columns) {
    refuse(operation, "keys has " + std::to_string(keys) + " entries, logits only " +
                          std::to_string(columns) + " columns");
  }
  if (states != rows) {
    refuse(operation,
           "states has " + std::to_string(states) + " rows, logits has " + std::to_string(rows));
  }
}

inline void check_sample_sizes(std::size_t rows, std::size_t columns, std::size_t keys,
                               std::size_t states, std::size_t ids) {
  check_race_sizes("sample", rows, columns, keys, states);
  if (ids != rows) {
    refuse("sample", "out has " + std::to_string(ids) + " entries, logits has " +
                         std::to_string(rows) + " rows");
  }
}

template <class Logit>
void check_candidates_sizes(const Rows<const Logit>& logits, std::size_t keys, std::size_t states,
                            const Candidates& out) {
  constexpr const char* kCandidates = "candidates";
  check_race_sizes(kCandidates, logits.rows, logits.columns, keys, states);
  const auto shape = [](std::size_t rows, std::size_t count) {
    return std::string("[") + std::to_string(rows) + ", " + std::to_string(count) + "]";
  };
  const std::size_t count = out.ids.columns;
  if (count < 1 || count > kMaxCandidates) {
    refuse(kCandidates, "count is " + std::to_string(count) + "; it must be in [1, " +
                            std::to_string(kMaxCandidates) + "]");
  }
  if (out.ids.rows != logits.rows) {
    refuse(kCandidates, "out.ids has shape " + shape(out.ids.rows, count) + ", logits has " +
                            std::to_string(logits.rows) + " rows");
  }
  if (out.shares.rows != out.ids.rows || out.shares.columns != count) {
    refuse(kCandidates, "out.shares has shape " + shape(out.shares.rows, out.shares.columns) +
                            ", out.ids has shape " + shape(out.ids.rows, count));
  }
}

inline void check_noise_size(std::size_t keys, std::size_t states, std::size_t out) {
  if (out != keys * states) refuse("log_noise", "out must have an entry for every state and key");
}

}  // namespace tokentiming
