// A linear layer over a few input rows, as in the verification of a draft.
#pragma once

#include <cstddef>

#include "tokentiming/rows.h"

namespace tokentiming::native {

// output[r, n] = sum over k of input[r, k] * weight[n, k], plus bias[n] if there is a bias.
//
// All matrices are contiguous. Sums are accumulated in float32 and rounded once to bfloat16, to
// nearest even. An output row depends on its own input row only, not on the number of rows.
struct Linear {
  const BFloat16* input;   // [rows, in_features]
  const BFloat16* weight;  // [out_features, in_features]
  const BFloat16* bias;    // [out_features] or null
  BFloat16* output;        // [rows, out_features]
  std::size_t rows;
  std::size_t in_features;
  std::size_t out_features;
};

// Computes the layer. Each weight is read from memory once for all rows together: with few rows,
// reading the weights dominates the time, so that verifying a draft costs little more than
// decoding one token.
void linear(const Linear& layer);

// Returns whether this processor has a fast variant of `linear` (AVX2 and FMA on x86-64). Without
// one, `linear` is correct and slow, and Transformer refuses to be constructed.
bool linear_is_fast();

}  // namespace tokentiming::native
