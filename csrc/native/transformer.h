// A causal transformer on a CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tokentiming/rows.h"

namespace tokentiming::native {

struct Variant;

// Contiguous weights: [out_features, in_features], and [out_features] or null.
struct Projection {
  const BFloat16* weight;
  const BFloat16* bias;
  std::size_t out_features;
};

// One layer: x += output(attention(norm(x))), then x += down(silu(gate(norm(x))) * up(norm(x))).
struct TransformerLayer {
  const BFloat16* attention_norm;  // [hidden]
  Projection query, key, value, output;
  const BFloat16* mlp_norm;  // [hidden]
  Projection gate, up, down;
};

struct TransformerWeights {
  const BFloat16* embedding;  // [vocabulary, hidden]
  std::size_t vocabulary;
  std::size_t hidden;
  std::vector<TransformerLayer> layers;
  const BFloat16* final_norm;  // [hidden]
  Projection head;             // one output for each token
  std::size_t heads, key_heads, head_size;
  float norm_epsilon;
  std::vector<float> rotation;  // [head_size / 2], radians per position
  float rotation_scale;         // factor of cosines and sines
};

// The numbers with which a transformer computes.
enum class Numbers {
  // Those of its weights: every operation rounds its results to bfloat16, where torch does. Logits
  // differ from those of torch by the order of sums and by what torch rounds within attention.
  kOwn,
  // Weights and inputs of projections are rounded to 8 bits, or weights to 4 (quantised.h), and all
  // else is float32. It is faster, and meant for drafting, where the output distribution does not
  // depend on the logits.
  kRounded,
};

// Rows to read: those of sequence s are offsets[s] .. offsets[s + 1] - 1.
struct ForestRows {
  std::span<const std::int64_t> tokens;  // [T]
  // [T], indices of the pending nodes of the row's sequence: earlier pending nodes first, then the
  // rows of this call. -1: the row directly follows the committed tokens. Parents come before their
  // rows.
  std::span<const std::int32_t> parents;
  std::span<const std::int64_t> offsets;  // [sequences + 1], from 0 to T
};

// The decoder of Llama: root-mean-square norms before attention and gated MLP, rotary positions,
// grouped queries. It keeps the keys and values of the rows it has read: for each sequence the
// committed tokens, and pending nodes, which form a tree after them.
//
// All rows of a call, up to 192 at a time, share one pass over the weights. Rounded projections are
// copies. All other weights are borrowed and must outlive this object, as must the biases.
//
// Not safe for concurrent calls. Source: Touvron et al., "LLaMA", arXiv 2302.13971; grouped
// queries: Ainslie et al., arXiv 2305.13245.
class Transformer {
 public:
  // Throws std::invalid_argument if sizes disagree, if a weight to be rounded is not finite, or if
  // the processor lacks the instruction sets that this class needs: AVX2 and FMA on x86-64.
  Transformer(TransformerWeights weights, Numbers numbers);
  // As above, with the given variant instead of the fastest one of this processor (kernels.h).
  Transformer(TransformerWeights weights, Numbers numbers, const Variant& variant);
  ~Transformer();

  // The number of sequences.
  std::size_t sequences() const;
  // The numbers of committed tokens and of pending nodes of a sequence.
  //
  // Throw std::invalid_argument if there is no such sequence, as do keep, truncate and drop.
  std::size_t length(std::size_t sequence) const;
  std::size_t pending(std::size_t sequence) const;

  // Reads rows, which become pending. Each follows its sequence's committed tokens and its
  // ancestors. All rows share the passes over the weights. If there are offsets for more sequences
  // than exist, empty sequences are added at the end; sequences without offsets have no rows.
  //
  // Row w of logits follows row wanted[w]; `wanted` is ascending.
  //
  // Throws std::invalid_argument and reads nothing if an argument is not as described, a token is
  // out of range, or logits has not one column for each token.
  void read(const ForestRows& rows, const Rows<float>& logits,
            std::span<const std::int64_t> wanted);

  // Commits the pending nodes of a path, in this order, and forgets all other pending nodes.
  // Nothing is moved if they are already the first ones.
  //
  // Throws std::invalid_argument and changes nothing unless the first node follows the committed
  // tokens and each is the parent of the next.
  void keep(std::size_t sequence, std::span<const std::int64_t> nodes);

  // Commits further tokens, whose keys and values were computed elsewhere: the vectors of all
  // heads, concatenated, for each token of each layer, [layers, tokens, key_heads * head_size].
  //
  // Throws std::invalid_argument and changes nothing if the sequence has pending nodes, or if keys
  // and values do not have this size.
  void commit(std::size_t sequence, std::size_t tokens, std::span<const float> keys,
              std::span<const float> values);

  // Forgets the pending nodes, and all but the first `length` committed tokens.
  //
  // Throws std::invalid_argument if fewer are committed.
  void truncate(std::size_t sequence, std::size_t length);

  // Forgets a sequence; the last one takes its index.
  void drop(std::size_t sequence);

  // Forgets all sequences.
  void clear();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace tokentiming::native
