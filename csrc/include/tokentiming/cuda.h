// The operations on a GPU: the functions of the other headers over device memory.
//
// Arguments are those of the CPU functions; what they point to lies in the memory of one device.
// Every call is put on the caller's stream and returns without waiting for it, allocates nothing,
// and may be captured in a CUDA graph. The same arguments give the same result on one device.
//
// Sizes, strides and scalars are checked on the host and refused as on the CPU. What lies in device
// memory the host does not see: where the CPU would throw for it, the result says so instead, each
// function how. Nothing is read or written out of bounds whatever ids and offsets say.
//
// `workspace` is memory for the call alone, at least as many bytes as the function beside says, at
// an address that is a multiple of 16. Two calls may share one on one stream.
//
// In a build without CUDA every function throws std::runtime_error. So does a launch that fails.
// Compute capability 8.0 or later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokentiming/align.h"
#include "tokentiming/rows.h"
#include "tokentiming/sample.h"
#include "tokentiming/transfer.h"
#include "tokentiming/verify.h"

namespace tokentiming::cuda {

// Where a call goes.
struct Stream {
  void* handle = nullptr;  // a cudaStream_t
  int device = 0;          // the device that it belongs to
};

// Whether this build has the kernels.
bool is_built();

// ---- sample ----

// As tokentiming::sample, with the same ids to the last one: the same arithmetic is done, and
// nothing in it depends on the processor. A row gets the id -1 where its state is out of range, or
// it holds NaN or +inf, or it has no finite logit.
template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids,
            std::span<std::byte> workspace, Stream stream);

std::size_t sample_workspace(std::size_t rows, std::size_t keys);

// As tokentiming::log_noise, to the last bit. Where a state is out of range the noise is NaN.
void log_noise(std::span<const std::uint64_t> keys, std::uint64_t seed,
               std::span<const State> states, std::span<double> noise, Stream stream);

// ---- verify ----

// As tokentiming::verify. Offsets may be empty: all chains then have equally many tokens.
//
// Rows are of Half, BFloat16 or float. Sums run in float within a thread and in double from there
// on, in another order than on the CPU: where a uniform lies within about 1e-6 of a decision, the
// two may decide differently.
//
// A chain gets `accepted` -1 and tokens -1 where what is read of it is none of the things that the
// CPU takes: an id or a uniform out of range, a row with NaN, +inf or a negative probability or
// without mass, offsets that are no range of the ids or longer than a row of `tokens` is wide.
template <class Id>
void verify(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted, std::span<std::byte> workspace, Stream stream);

std::size_t verify_workspace(std::size_t batch);

// ---- align ----

// At most so many tokens on either side of a pair, and so many bytes of a token.
inline constexpr std::int64_t kMaxTokens = 128;
inline constexpr std::int64_t kMaxTokenBytes = 2048;

// As tokentiming::align, with the same spans and costs. Offsets may be empty, both or neither: all
// sequences of a side then have equally many tokens.
//
// A pair gets the cost -1 and spans -1 where an id or a table's entry is out of range, offsets are
// no range of the ids, one side is empty and the other not, or a limit above is exceeded (which the
// host refuses if it can see it).
template <class Id>
void align(const Ragged<Id>& draft, const Ragged<Id>& target, const ByteTable& draft_table,
           const ByteTable& target_table, std::int64_t band, std::span<std::int32_t> target_spans,
           std::span<std::int64_t> costs, Stream stream);

// ---- transfer ----

// As tokentiming::transfer, with the same distributions and cases to the last bit. The map needs
// `first_inverse`. Offsets may be empty: there is one sequence then.
//
// A proxy token gets the case -1 and a distribution of zeros where its sequence has ids, spans or
// offsets out of range or more than kMostTokens tokens on a side, or what is read of its row holds
// NaN, infinity or a negative probability. Tokens without an expansion are not read.
template <class Number, class Id>
void transfer(const Rows<const Number>& draft_probs, const Ragged<Id>& draft,
              const Ragged<Id>& target, std::span<const std::int32_t> target_spans,
              const ByteTable& draft_table, const ByteTable& target_table, const VocabularyMap& map,
              const Rows<Number>& probs, std::span<std::int8_t> cases,
              std::span<std::byte> workspace, Stream stream);

std::size_t transfer_workspace(std::size_t proxies);

// As tokentiming::restrict_to_shared; the map needs `exact_inverse`. The sum that a row is divided
// by is added up in another order than on the CPU, so that an entry may differ in its last bits. A
// row without mass on shared tokens, or that holds NaN, infinity or a negative probability there,
// becomes NaN throughout.
template <class Number>
void restrict_to_shared(const Rows<const Number>& draft_probs, const VocabularyMap& map,
                        const Rows<Number>& probs, std::span<std::byte> workspace, Stream stream);

std::size_t restrict_workspace(std::size_t rows);

}  // namespace tokentiming::cuda
