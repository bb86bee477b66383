// The layers of a transformer, applied to rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "native/kernels.h"
#include "native/sequence.h"
#include "native/transformer.h"

namespace tokentiming::native {

// A pending node that is being read.
struct Row {
  Sequence* sequence;
  std::size_t node;
};

class ForwardPass {
 public:
  virtual ~ForwardPass() = default;

  // Computes the keys and values of rows, whose tokens are given, and writes logits[w] for the row
  // wanted[w] - first.
  virtual void run(std::span<const Row> rows, std::span<const std::int64_t> tokens,
                   std::span<const std::int64_t> wanted, std::size_t first,
                   const Rows<float>& logits) = 0;
};

// The weights and the kernels are borrowed.
//
// Throws std::invalid_argument that names the projection if a weight to be rounded is not finite.
std::unique_ptr<ForwardPass> forward_pass(const TransformerWeights& weights, Numbers numbers,
                                          const Kernels& kernels);

}  // namespace tokentiming::native
