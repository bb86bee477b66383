// The interface of the kernels that are compiled once for each instruction set.
//
// portable.cpp, avx2.cpp and avx512.cpp each compile block_kernels.h, race_kernel.h and race_sum.h
// with the options of their instruction set; dispatch.h chooses among them at run time. All
// variants return the same bits. A variant's file calls no function that another file may share,
// because the linker could keep the copy compiled for a newer processor.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tokentiming/rows.h"

namespace tokentiming::simd {

// The softmax of some logits: their maximum, and the sum of 2^((x - maximum) * scale).
template <class T>
struct SoftmaxState {
  T maximum;
  double sum;
};

// Arithmetic over one block of a row. T is float or double.
template <class T>
struct BlockKernels {
  void (*widen_half)(const Half* x, std::size_t count, T* out);
  void (*widen_bfloat16)(const BFloat16* x, std::size_t count, T* out);
  // The greatest entry; +inf if any entry is NaN or +inf.
  T (*maximum)(const T* x, std::size_t count);
  // With maximum -inf the sum is 0; with maximum +inf it is unspecified; if an entry is NaN it is
  // NaN.
  SoftmaxState<T> (*softmax_state)(const T* x, std::size_t count, T scale);
  // out[k] = factor * 2^((x[k] - shift) * scale). Needs x[k] <= shift.
  void (*exponentials)(const T* x, std::size_t count, T shift, T scale, T factor, T* out);
  // The sum of the entries; NaN if one is negative, NaN or infinite.
  double (*sum)(const T* x, std::size_t count);
  // out[k] = max(p[k] - q[k], 0); returns its sum, or NaN if an entry of p or q is negative, NaN or
  // infinite.
  double (*subtract)(const T* p, const T* q, std::size_t count, T* out);
};

// What the noise of one draw is computed from (philox.h).
struct NoiseWords {
  std::uint32_t key[2];
  std::uint32_t counter[2];  // after the token's key: byte offset and empty tokens
};

// Returns the first of `count` tokens whose score logit - log E may be `threshold` or more, or
// whose logit is NaN; `count` if there is none. Every token before it has a score below the
// threshold. The score of the token returned is mostly at least the threshold less 0.1.
using FirstCandidate = std::size_t (*)(const NoiseWords& noise, const std::uint64_t* keys,
                                       const float* logits, std::size_t count, float threshold);

// Also finishes a row, after the last whole vectors.
std::size_t first_candidate_portable(const NoiseWords& noise, const std::uint64_t* keys,
                                     const float* logits, std::size_t count, float threshold);

// The upper words of the tokens' noise bits.
using UpperWords = void (*)(const NoiseWords& noise, const std::uint64_t* keys, std::size_t count,
                            std::uint32_t* words);
void upper_words_portable(const NoiseWords& noise, const std::uint64_t* keys, std::size_t count,
                          std::uint32_t* words);

// As FirstCandidate, given the upper words.
using FirstReaching = std::size_t (*)(const std::uint32_t* words, const float* logits,
                                      std::size_t count, float threshold);
std::size_t first_reaching_portable(const std::uint32_t* words, const float* logits,
                                    std::size_t count, float threshold);

// The sum of exp(logit - maximum) / E.
struct RaceSum {
  float maximum;    // of the logits
  double sum;       // NaN if a logit is NaN or +inf; unspecified if all are -inf
  bool inaccurate;  // a word needs all bits (race_term.h), so that its term is inaccurate
};
using SumRace = RaceSum (*)(const std::uint32_t* words, const float* logits, std::size_t count);

// All kernels of one instruction set.
struct Kernels {
  const char* name;
  BlockKernels<float> float_blocks;
  BlockKernels<double> double_blocks;
  FirstCandidate first_candidate;
  UpperWords upper_words;
  FirstReaching first_reaching;
  SumRace race_sum;
};

const Kernels& portable_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();

}  // namespace tokentiming::simd
