// The search for tokens that could still win the race: its vectorised part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tokentiming {

// The numbers that a draw's noise is made from. A kernel's file is compiled for its own processor,
// so it calls no function that other files may share, not even to read these.
struct NoiseWords {
  std::uint32_t key[2];
  std::uint32_t counter[2];  // behind the token's key: byte offset and empty tokens
};

// Returns the first of `count` tokens for which logit - log E could be `threshold` or more, or
// whose logit is NaN; `count` if there is none. A token that it leaves out is proved to be below.
// One that it returns mostly comes within 0.1 of the threshold.
using FirstCandidate = std::size_t (*)(const NoiseWords& noise, const std::uint64_t* keys,
                                       const float* logits, std::size_t count, float threshold);

std::size_t first_candidate_portable(const NoiseWords&, const std::uint64_t*, const float*,
                                     std::size_t, float);
std::size_t first_candidate_avx2(const NoiseWords&, const std::uint64_t*, const float*, std::size_t,
                                 float);
std::size_t first_candidate_avx512(const NoiseWords&, const std::uint64_t*, const float*,
                                   std::size_t, float);

// The same function for different processors: all return the same tokens.
struct CandidateKernel {
  const char* name;
  FirstCandidate first;
};

// Those that this processor can run, the fastest first.
std::span<const CandidateKernel> candidate_kernels();

}  // namespace tokentiming
