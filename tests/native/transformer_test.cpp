#include "native/transformer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "native/bfloat16.h"
#include "native/kernels.h"

using namespace tokentiming::native;
using tokentiming::BFloat16;

namespace {

// A small model with random weights, and their memory.
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

// Calls f with every variant that Transformer accepts.
template <class F>
void for_each_usable(const F& f) {
  for (const Variant& variant : variants()) {
    if (variant.kernels == nullptr) continue;  // refused, as tested below
    CAPTURE(variant.name);
    f(variant);
  }
}

}  // namespace

TEST_CASE("a processor without AVX2 and FMA is refused at construction") {
  const Weights weights;
  const auto refusal = [&](const auto&... variant) -> std::string {
    try {
      const Transformer model(*weights, variant...);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  const Variant& portable = variants().back();
  REQUIRE(portable.name == std::string_view("portable"));
  const std::string expected =
      "transformer: needs AVX2 and FMA on x86-64, but got the portable variant; run the model with "
      "torch on this processor";
  CHECK(refusal(portable) == expected);
  // The default is the fastest variant: the portable one where there is no other.
  CHECK(refusal() == (linear_is_fast() ? "" : expected));
  for_each_usable([&](const Variant& variant) { CHECK(refusal(variant) == ""); });
}

TEST_CASE("tokens read one by one, together, or again after truncation give the same bits") {
  const Weights weights;
  for_each_usable([&](const Variant& variant) {
    Transformer together(*weights, variant);
    Transformer single(*weights, variant);
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
  });
}

TEST_CASE("a refused call reads nothing") {
  const Weights weights;
  for_each_usable([&](const Variant& variant) {
    Transformer model(*weights, variant);
    CHECK_THROWS_AS(read(model, {1, -1}, 1), std::invalid_argument);
    CHECK_THROWS_AS(read(model, {1, 53}, 1), std::invalid_argument);
    CHECK_THROWS_AS(read(model, {1}, 2), std::invalid_argument);
    CHECK_THROWS_AS(model.truncate(1), std::invalid_argument);
    CHECK(model.length() == 0);
  });
}

TEST_CASE("sizes that disagree are refused") {
  const Weights weights;
  for_each_usable([&](const Variant& variant) {
    TransformerWeights odd = *weights;
    odd.heads = 3;
    CHECK_THROWS_AS(Transformer(odd, variant), std::invalid_argument);
    odd = *weights;
    odd.layers[1].down.out_features = 23;
    CHECK_THROWS_AS(Transformer(odd, variant), std::invalid_argument);
    odd = *weights;
    odd.hidden = 0;
    CHECK_THROWS_AS(Transformer(odd, variant), std::invalid_argument);
    odd = *weights;
    odd.heads = 0;
    CHECK_THROWS_AS(Transformer(odd, variant), std::invalid_argument);
    odd = *weights;
    odd.layers[0].gate.out_features = odd.layers[0].up.out_features = 0;
    CHECK_THROWS_AS(Transformer(odd, variant), std::invalid_argument);
  });
}
