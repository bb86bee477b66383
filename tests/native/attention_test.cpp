#include <doctest/doctest.h>

#include <vector>

#include "native/head_cache.h"
#include "native/kernels.h"

using namespace tokentiming::native;

TEST_CASE("attention scores and outputs of every variant agree with plain sums") {
  constexpr std::size_t kMost = 90;  // columns
  for (const Variant& variant : variants()) {
    if (variant.kernels == nullptr) continue;  // Transformer, the only caller, refuses it
    CAPTURE(variant.name);
    for (const std::size_t size : {8, 24, 64, 80, 128}) {
      CAPTURE(size);
      std::vector<float> vectors(kMost * size);
      for (std::size_t k = 0; k < vectors.size(); ++k) vectors[k] = float(k % 7) - 3.0f;
      KeyCache keys(1, size);
      ValueCache values(1, size);
      keys.resize(kMost);
      values.resize(kMost);
      for (std::size_t t = 0; t < kMost; ++t) {
        keys.write(t, vectors.data() + t * size);
        values.write(t, vectors.data() + t * size);
      }
      for (const std::size_t columns : {1, 5, 16, 17, 63, 64, 65, 90}) {
        CAPTURE(columns);
        for (const std::size_t heads : {1, 2, 3, 4, 5, 7, 8}) {
          CAPTURE(heads);
          const std::size_t stride = key_blocks(columns) * kKeyBlock;
          std::vector<float> queries(heads * size), weights(heads * stride);
          for (std::size_t k = 0; k < queries.size(); ++k) queries[k] = float(k % 5) - 2.0f;
          for (std::size_t k = 0; k < weights.size(); ++k) weights[k] = 0.1f * float(k % 11);
          std::vector<float> scores(heads * stride), output(heads * size);
          variant.kernels->attention_scores(
              {queries.data(), heads, keys.head(0), columns, size, scores.data(), stride});
          variant.kernels->attention_output(
              {weights.data(), stride, heads, values.head(0), columns, size, output.data()});
          for (std::size_t h = 0; h < heads; ++h) {
            for (std::size_t t = 0; t < columns; ++t) {
              double score = 0.0;
              for (std::size_t k = 0; k < size; ++k) {
                score += double{queries[h * size + k]} * vectors[t * size + k];
              }
              REQUIRE(scores[h * stride + t] == doctest::Approx(score));
            }
            for (std::size_t k = 0; k < size; ++k) {
              double sum = 0.0;
              for (std::size_t t = 0; t < columns; ++t) {
                sum += double{weights[h * stride + t]} * vectors[t * size + k];
              }
              REQUIRE(output[h * size + k] == doctest::Approx(sum).epsilon(1e-4));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("columns of a cache that are moved or kept stay the same") {
  constexpr std::size_t kSize = 8;
  KeyCache keys(2, kSize);
  ValueCache values(2, kSize);
  const auto vectors = [](std::size_t column) {
    return std::vector<float>(2 * kSize, static_cast<float>(column + 1));
  };
  keys.resize(40);
  values.resize(40);
  for (std::size_t t = 0; t < 40; ++t) {
    keys.write(t, vectors(t).data());
    values.write(t, vectors(t).data());
  }
  keys.move(37, 3);
  values.move(37, 3);
  keys.resize(20);
  values.resize(20);
  keys.resize(50);
  values.resize(50);
  for (std::size_t t = 0; t < 20; ++t) {
    const auto expected = static_cast<float>(t == 3 ? 38 : t + 1);
    for (std::size_t k = 0; k < kSize; ++k) {
      CHECK(keys.head(1)[(t / kKeyBlock * kSize + k) * kKeyBlock + t % kKeyBlock] == expected);
      CHECK(values.head(1)[t * kSize + k] == expected);
    }
  }
}
