// Probabilities of rows of any type, as `transfer` and `restrict_to_shared` read them.
#pragma once

#include <cstddef>
#include <span>

#include "tokentiming/cuda.h"
#include "tokentiming/rows.h"

namespace tokentiming {

// Writes the softmax of logits over `temperature`, or probabilities as they are, to as many rows of
// as many columns. Arithmetic is in Number.
//
// Throws std::invalid_argument if shapes disagree, the temperature is not a positive number or is
// set for probabilities, or a row of logits holds NaN or +inf or has no finite logit. The message
// begins with `function` and names the rows draft_logits or draft_probs. Probabilities are not
// checked.
//
// Defined for Number = float, and for double if the rows are double.
template <class Number>
void probabilities(const Distributions& rows, double temperature, const Rows<Number>& out,
                   const char* function);

namespace cuda {

// As tokentiming::probabilities, for rows of Half, BFloat16 or float, up to rounding. A row of
// logits on which the CPU function throws becomes NaN throughout.
void probabilities(const Distributions& rows, double temperature, const Rows<float>& out,
                   const char* function, std::span<std::byte> workspace, Stream stream);

std::size_t probabilities_workspace(std::size_t rows);

}  // namespace cuda

}  // namespace tokentiming
