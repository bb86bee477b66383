// Drawing tokens by an exponential race on shared noise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokentiming/cuda.h"
#include "tokentiming/philox.h"
#include "tokentiming/rows.h"

namespace tokentiming {

// The state of a draw: the sequence, and the amount of text that it has generated. Draft and target
// reach the same state when they have generated the same bytes, for any tokenization.
struct State {
  std::int64_t row;           // the sequence's index, 0 or more
  std::int64_t byte_offset;   // bytes generated so far, below 2^32
  std::int64_t empty_tokens;  // tokens without bytes generated so far, below 2^32
};

// The noise of one draw: 64 random bits for each token key.
//
// Philox runs with one key for every (seed, row), itself drawn from Philox, and with the counter
// (token key, byte offset, empty tokens): two states never share a counter.
class Noise {
 public:
  Noise(std::uint64_t seed, const State& state);

  std::uint64_t bits(std::uint64_t token_key) const;

  // log E for the token's E ~ Exp(1), in double precision.
  double log_exponential(std::uint64_t token_key) const;

  const Philox::Key& key() const { return key_; }
  std::uint32_t byte_offset() const { return byte_offset_; }
  std::uint32_t empty_tokens() const { return empty_tokens_; }

 private:
  Philox::Key key_;
  std::uint32_t byte_offset_;
  std::uint32_t empty_tokens_;
};

// log E, where E is the Exp(1) variate at quantile u = (bits + 1/2) / 2^64.
double log_exponential(std::uint64_t bits);

// Draws one token per row: ids[r] = argmax over v of logits[r, v] - log E(states[r], keys[v]).
//
// Since E / p is exponential with rate p, token v wins the race with probability
// softmax(logits[r])[v]. Equal keys get equal noise, so that two similar distributions at the same
// state and seed mostly draw the same token. -inf never wins. Columns from keys.size() on are
// padding of the model's head and are not read. Scores are compared in double precision; of equal
// scores the lowest id wins.
//
// The ids depend only on the arguments, and neither on the number of threads nor on the processor.
//
//   keys  one 64-bit key per token, at most `columns` of them
//   ids   `rows` entries
//
// Throws std::invalid_argument, before anything is written, if sizes disagree, a state is out of
// range, a row holds NaN or +inf, or a row has no finite logit.
//
// Defined for Logit = Half, BFloat16, float and double. Race: Maddison, Tarlow, Minka, "A*
// sampling", 2014; shared noise for speculative decoding: Daliri, Musco, Suresh, "Coupling without
// communication and drafter-invariant speculative decoding", arXiv 2408.07978.
template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids);

// The noise of `sample`: noise[r * keys.size() + v] = log E(states[r], keys[v]).
//
// Throws std::invalid_argument if sizes disagree or a state is out of range.
void log_noise(std::span<const std::uint64_t> keys, std::uint64_t seed,
               std::span<const State> states, std::span<double> noise);

namespace cuda {

// As tokentiming::sample, with the same ids: the arithmetic is the same, and nothing in it depends
// on the processor. The id of a row is -1 if its state is out of range, it holds NaN or +inf, or it
// has no finite logit.
template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids,
            std::span<std::byte> workspace, Stream stream);

std::size_t sample_workspace(std::size_t rows, std::size_t keys);

// As tokentiming::log_noise, bit for bit. The noise of a state that is out of range is NaN.
void log_noise(std::span<const std::uint64_t> keys, std::uint64_t seed,
               std::span<const State> states, std::span<double> noise, Stream stream);

}  // namespace cuda

}  // namespace tokentiming
