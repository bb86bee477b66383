// What the host can check of the arguments of `probabilities`, for CPU and CUDA.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <variant>

#include "refuse.h"
#include "tokentiming/rows.h"

namespace tokentiming {

inline void check_probabilities(const Distributions& rows, double temperature, std::size_t out_rows,
                                std::size_t out_columns, const char* function) {
  const bool matches = std::visit(
      [&](const auto& given) { return given.rows == out_rows && given.columns == out_columns; },
      rows.rows);
  if (!matches) refuse(function, "the rows and their probabilities have different shapes");
  if (!(temperature > 0.0 && std::isfinite(temperature))) {
    refuse(function,
           "temperature is " + std::to_string(temperature) + "; it must be greater than 0");
  }
  if (temperature != 1.0 && !rows.is_logits) {
    refuse(function, "temperature applies to draft_logits; draft_probs are taken as they are");
  }
}

}  // namespace tokentiming
