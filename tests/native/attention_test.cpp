#include <doctest/doctest.h>

#include <vector>

#include "native/kernels.h"

using namespace tokentiming::native;

TEST_CASE("attention scores and outputs of every variant agree with plain sums") {
  for (const Variant& variant : variants()) {
    if (variant.kernels == nullptr) continue;  // Transformer, the only caller, refuses it
    CAPTURE(variant.name);
    for (std::size_t size : {8, 24, 64, 80, 128}) {
      std::vector<float> query(size), keys(5 * size), weights = {0.1f, 0.2f, 0.0f, 0.3f, 0.4f};
      for (std::size_t k = 0; k < size; ++k) query[k] = static_cast<float>(k % 5) - 2.0f;
      for (std::size_t k = 0; k < keys.size(); ++k) keys[k] = static_cast<float>(k % 7) - 3.0f;
      std::vector<float> scores(5), output(size);
      variant.kernels->attention_scores(query.data(), keys.data(), 5, size, scores.data());
      variant.kernels->attention_output(weights.data(), keys.data(), 5, size, output.data());
      for (std::size_t t = 0; t < 5; ++t) {
        double score = 0.0;
        for (std::size_t k = 0; k < size; ++k) score += double{query[k]} * keys[t * size + k];
        CHECK(scores[t] == doctest::Approx(score));
      }
      for (std::size_t k = 0; k < size; ++k) {
        double sum = 0.0;
        for (std::size_t t = 0; t < 5; ++t) sum += double{weights[t]} * keys[t * size + k];
        CHECK(output[k] == doctest::Approx(sum));
      }
    }
  }
}
