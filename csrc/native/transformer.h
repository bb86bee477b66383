// The forward pass of a small causal transformer, for drafting on a CPU.
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

// The decoder of Llama: root-mean-square norms before attention and gated MLP, rotary positions,
// grouped queries. It keeps the keys and values of the tokens that it has read.
//
// It is meant for drafting, where the output distribution does not depend on the logits. One token
// costs one pass over the weights. Projections are copied with weights rounded to 8 bits and one
// scale for each output; activations are float32. All other weights are borrowed and must outlive
// this object, as must the biases.
//
// Not safe for concurrent calls. Source: Touvron et al., "LLaMA", arXiv 2302.13971; grouped
// queries: Ainslie et al., arXiv 2305.13245.
class Transformer {
 public:
  // Throws std::invalid_argument if sizes disagree, if a weight of a projection is not finite, or
  // if the processor lacks the instruction sets that this class needs: AVX2 and FMA on x86-64.
  explicit Transformer(TransformerWeights weights);
  // As above, with the given variant instead of the fastest one of this processor (kernels.h).
  Transformer(TransformerWeights weights, const Variant& variant);
  ~Transformer();

  // The number of tokens read so far.
  std::size_t length() const;

  // Forgets all but the first `length` tokens.
  //
  // Throws std::invalid_argument if fewer have been read.
  void truncate(std::size_t length);

  // Reads ids after those read before. Row i of logits follows the i-th of the last logits.rows
  // ids.
  //
  // Throws std::invalid_argument and reads nothing if an id is out of range, or if logits has more
  // rows than there are ids, or not one column for each token.
  void read(std::span<const std::int64_t> ids, const Rows<float>& logits);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace tokentiming::native
