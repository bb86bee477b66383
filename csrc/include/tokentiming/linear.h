// A linear layer over a few rows, the shape of a verification.
#pragma once

#include <cstddef>

#include "tokentiming/rows.h"

namespace tokentiming {

// output[r, n] = sum over k of input[r, k] * weight[n, k], plus bias[n] where there is a bias.
//
// All matrices are contiguous. Sums are kept in float and rounded once, to nearest even; an output
// depends on its own row of the input alone, not on how many rows there are beside it.
struct Linear {
  const BFloat16* input;   // [rows, in_features]
  const BFloat16* weight;  // [out_features, in_features]
  const BFloat16* bias;    // [out_features] or null
  BFloat16* output;        // [rows, out_features]
  std::size_t rows;
  std::size_t in_features;
  std::size_t out_features;
};

// Reads each weight once from memory for all rows together. With a handful of rows that reading is
// the cost, so that verifying a proposal costs little more than one plain step.
void linear(const Linear& layer);

// Whether `linear` is fast on this processor (x86-64 with AVX2 and FMA); elsewhere it is right and
// slow.
bool linear_is_fast();

}  // namespace tokentiming
