#include "tokentiming/transformer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <stdexcept>
#include <vector>

#include "linear/kernels.h"
#include "transformer/attention.h"

using namespace tokentiming;

namespace {

// Random weights of a small model, owned.
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

std::vector<float> read(Transformer& model, const std::vector<std::int64_t>& ids,
                        std::size_t keep) {
  std::vector<float> logits(keep * Weights::kVocabulary);
  model.read(ids, {logits.data(), keep, Weights::kVocabulary, Weights::kVocabulary});
  return logits;
}

}  // namespace

TEST_CASE("scores and mixtures agree with plain sums") {
  if (!linear_is_fast()) return;
  for (std::size_t size : {8, 24, 64, 80, 128}) {
    std::vector<float> query(size), keys(5 * size), weights = {0.1f, 0.2f, 0.0f, 0.3f, 0.4f};
    for (std::size_t k = 0; k < size; ++k) query[k] = static_cast<float>(k % 5) - 2.0f;
    for (std::size_t k = 0; k < keys.size(); ++k) keys[k] = static_cast<float>(k % 7) - 3.0f;
    std::vector<float> scores(5), mixture(size);
    score_avx2(query.data(), keys.data(), 5, size, scores.data());
    mix_avx2(weights.data(), keys.data(), 5, size, mixture.data());
    for (std::size_t t = 0; t < 5; ++t) {
      double score = 0.0;
      for (std::size_t k = 0; k < size; ++k) score += double{query[k]} * keys[t * size + k];
      CHECK(scores[t] == doctest::Approx(score));
    }
    for (std::size_t k = 0; k < size; ++k) {
      double mixed = 0.0;
      for (std::size_t t = 0; t < 5; ++t) mixed += double{weights[t]} * keys[t * size + k];
      CHECK(mixture[k] == doctest::Approx(mixed));
    }
  }
}

TEST_CASE("tokens read one by one, together, or again after a roll-back give the same bits") {
  if (!linear_is_fast()) return;
  const Weights weights;
  Transformer together(*weights);
  Transformer single(*weights);
  const std::vector<std::int64_t> ids = {3, 52, 0, 17, 3, 3, 9};
  const std::vector<float> all = read(together, ids, ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::vector<float> one = read(single, {ids[i]}, 1);
    for (std::size_t v = 0; v < one.size(); ++v) {
      REQUIRE(one[v] == all[i * Weights::kVocabulary + v]);
    }
  }
  CHECK(single.length() == ids.size());
  single.truncate(2);
  read(single, {40, 41}, 1);
  single.truncate(2);
  const std::vector<float> again = read(single, {ids.begin() + 2, ids.end()}, 1);
  CHECK(std::equal(again.begin(), again.end(), all.end() - Weights::kVocabulary));
}

TEST_CASE("what cannot be read is refused, and nothing has been read") {
  if (!linear_is_fast()) return;
  const Weights weights;
  Transformer model(*weights);
  CHECK_THROWS_AS(read(model, {1, -1}, 1), std::invalid_argument);
  CHECK_THROWS_AS(read(model, {1, 53}, 1), std::invalid_argument);
  CHECK_THROWS_AS(read(model, {1}, 2), std::invalid_argument);
  CHECK_THROWS_AS(model.truncate(1), std::invalid_argument);
  CHECK(model.length() == 0);

  TransformerWeights odd = *weights;
  odd.heads = 3;
  CHECK_THROWS_AS(Transformer{odd}, std::invalid_argument);
  odd = *weights;
  odd.layers[1].down.out_features = 23;
  CHECK_THROWS_AS(Transformer{odd}, std::invalid_argument);
}
