// A small causal transformer's forward pass: the draft model, without a framework around it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tokentiming/rows.h"

namespace tokentiming {

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
  Projection head;             // one output a token
  std::size_t heads, key_heads, head_size;
  float norm_epsilon;
  std::vector<float> rotation;  // [head_size / 2], radians a position
  float rotation_scale;         // of cosines and sines
};

// The decoder of Llama: root-mean-square norms before attention and gated MLP, rotary positions,
// grouped queries. It keeps the keys and values of what it has read.
//
// Meant for drafting, where the distribution of the output does not depend on it: a token costs one
// reading of the weights, and those of the projections are read from copies rounded to 8 bits, with
// a scale for each output. Activations are floats. All else is borrowed and must outlive this.
//
// Not safe for concurrent calls. Source: Touvron et al., "LLaMA", arXiv 2302.13971; grouped
// queries: Ainslie et al., arXiv 2305.13245.
class Transformer {
 public:
  // Throws std::invalid_argument if sizes disagree or a weight is not finite, or where there is no
  // fast `linear`.
  explicit Transformer(TransformerWeights weights);
  ~Transformer();

  // Tokens read so far.
  std::size_t length() const;

  // Forgets all but the first `length` tokens.
  //
  // Throws std::invalid_argument if fewer have been read.
  void truncate(std::size_t length);

  // Reads ids behind those read before; logits[i] follows the i-th of the last logits.rows ids.
  //
  // Throws std::invalid_argument, with nothing read, if an id is out of range, or logits has more
  // rows than there are ids, or not one column a token.
  void read(std::span<const std::int64_t> ids, const Rows<float>& logits);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace tokentiming
