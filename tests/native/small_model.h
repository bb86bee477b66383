// A small transformer with random weights.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "native/bfloat16.h"
#include "native/kernels.h"
#include "native/transformer.h"

namespace tokentiming::native {

// The weights, and their memory.
class Weights {
 public:
  Weights() {
    const auto norm = [&] { return fresh(kHidden); };
    const auto projection = [&](std::size_t outputs, std::size_t inputs) {
      return Projection{fresh(outputs * inputs), fresh(outputs), outputs};
    };
    weights_.embedding = fresh(kVocabulary * kHidden);
    weights_.vocabulary = kVocabulary;
    weights_.hidden = kHidden;
    for (int layer = 0; layer < 2; ++layer) {
      weights_.layers.push_back({norm(), projection(32, kHidden), projection(16, kHidden),
                                 projection(16, kHidden), projection(kHidden, 32), norm(),
                                 projection(40, kHidden), projection(40, kHidden),
                                 projection(kHidden, 40)});
    }
    weights_.final_norm = norm();
    weights_.head = projection(kVocabulary, kHidden);
    weights_.heads = 4;
    weights_.key_heads = 2;
    weights_.head_size = 8;
    weights_.norm_epsilon = 1e-5f;
    weights_.rotation = {1.0f, 0.1f, 0.01f, 0.001f};
    weights_.rotation_scale = 1.0f;
  }
  const TransformerWeights& operator*() const { return weights_; }

  static constexpr std::size_t kVocabulary = 53;
  static constexpr std::size_t kHidden = 24;

 private:
  const BFloat16* fresh(std::size_t count) {
    std::normal_distribution<float> normal(0.0f, 0.5f);
    memory_.emplace_back(count);
    for (BFloat16& x : memory_.back()) x = to_bfloat16(normal(random_));
    return memory_.back().data();
  }

  std::mt19937 random_{7};
  std::vector<std::vector<BFloat16>> memory_;
  TransformerWeights weights_;
};

// Reads rows and returns the logits of the wanted ones, one after another.
inline std::vector<float> read(Transformer& model, const ForestRows& rows,
                               const std::vector<std::int64_t>& wanted) {
  std::vector<float> logits(wanted.size() * Weights::kVocabulary);
  model.read(rows, {logits.data(), wanted.size(), Weights::kVocabulary, Weights::kVocabulary},
             wanted);
  return logits;
}

// The nodes 0 .. count - 1.
inline std::vector<std::int64_t> first_nodes(std::size_t count) {
  std::vector<std::int64_t> nodes(count);
  std::iota(nodes.begin(), nodes.end(), 0);
  return nodes;
}

// Reads ids as a chain behind all that the only sequence holds; the logits of the last `keep` ones.
inline std::vector<float> read_chain(Transformer& model, const std::vector<std::int64_t>& ids,
                                     std::size_t keep) {
  const std::size_t before = model.sequences() == 0 ? 0 : model.pending(0);
  std::vector<std::int32_t> parents(ids.size());
  std::iota(parents.begin(), parents.end(), static_cast<std::int32_t>(before) - 1);
  std::vector<std::int64_t> wanted(keep);
  std::iota(wanted.begin(), wanted.end(), static_cast<std::int64_t>(ids.size() - keep));
  const std::vector<std::int64_t> offsets = {0, static_cast<std::int64_t>(ids.size())};
  return read(model, {ids, parents, offsets}, wanted);
}

// Calls f with every variant that Transformer accepts.
template <class F>
void for_each_usable(const F& f) {
  for (const Variant& variant : variants()) {
    if (variant.kernels == nullptr) continue;  // refused: see transformer_test.cpp
    CAPTURE(variant.name);
    f(variant);
  }
}

struct Implementation {
  Numbers numbers;
  const Variant& variant;
};

// Calls f with every variant that Transformer accepts, for all numbers.
template <class F>
void for_each_implementation(const F& f) {
  for_each_usable([&](const Variant& variant) {
    for (const Numbers numbers : {Numbers::kOwn, Numbers::kRounded}) {
      CAPTURE(static_cast<int>(numbers));
      f(Implementation{numbers, variant});
    }
  });
}

}  // namespace tokentiming::native
