// What the host can check of the arguments of `sample` and `log_noise`, for CPU and CUDA.
#pragma once

#include <cstddef>
#include <string>

#include "refuse.h"

namespace tokentiming {

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

}  // namespace tokentiming
