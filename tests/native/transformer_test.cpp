#include "native/transformer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "native/bfloat16.h"
#include "native/kernels.h"
#include "small_model.h"

using namespace tokentiming::native;
using tokentiming::BFloat16;

TEST_CASE("a processor without AVX2 and FMA is refused at construction") {
  const Weights weights;
  const auto refusal = [&](const auto&... variant) -> std::string {
    try {
      const Transformer model(*weights, Numbers::kRounded, variant...);
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

TEST_CASE("reading one by one, together, or again after truncation gives the same bits") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    Transformer together(*weights, how.numbers, how.variant);
    Transformer single(*weights, how.numbers, how.variant);
    const std::vector<std::int64_t> ids = {3, 52, 0, 17, 3, 3, 9};
    const std::vector<float> all = read_chain(together, ids, ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::vector<float> one = read_chain(single, {ids[i]}, 1);
      for (std::size_t v = 0; v < one.size(); ++v) {
        REQUIRE(one[v] == all[i * Weights::kVocabulary + v]);
      }
      if (i % 2 == 0) single.keep(0, first_nodes(single.pending(0)));
    }
    CHECK(single.length(0) == ids.size());
    single.truncate(0, 2);
    read_chain(single, {40, 41}, 1);
    single.truncate(0, 2);
    const std::vector<float> again = read_chain(single, {ids.begin() + 2, ids.end()}, 1);
    CHECK(std::equal(again.begin(), again.end(), all.end() - Weights::kVocabulary));
  });
}

TEST_CASE("sizes that disagree are refused") {
  const Weights weights;
  for_each_implementation([&](const Implementation& how) {
    TransformerWeights odd = *weights;
    odd.heads = 3;
    CHECK_THROWS_AS(Transformer(odd, how.numbers, how.variant), std::invalid_argument);
    odd = *weights;
    odd.layers[1].down.out_features = 23;
    CHECK_THROWS_AS(Transformer(odd, how.numbers, how.variant), std::invalid_argument);
    odd = *weights;
    odd.hidden = 0;
    CHECK_THROWS_AS(Transformer(odd, how.numbers, how.variant), std::invalid_argument);
    odd = *weights;
    odd.heads = 0;
    CHECK_THROWS_AS(Transformer(odd, how.numbers, how.variant), std::invalid_argument);
    odd = *weights;
    odd.layers[0].gate.out_features = odd.layers[0].up.out_features = 0;
    CHECK_THROWS_AS(Transformer(odd, how.numbers, how.variant), std::invalid_argument);
  });
}

TEST_CASE("only weights that are rounded have to be finite") {
  const Weights weights;
  const std::vector<BFloat16> infinite(40 * Weights::kHidden, to_bfloat16(INFINITY));
  TransformerWeights odd = *weights;
  odd.layers[1].gate.weight = infinite.data();
  for_each_usable([&](const Variant& variant) {
    CHECK_THROWS_WITH_AS(Transformer(odd, Numbers::kRounded, variant), doctest::Contains("gate"),
                         std::invalid_argument);
    Transformer model(odd, Numbers::kOwn, variant);
    CHECK(std::isnan(read_chain(model, {1}, 1)[0]));
  });
}
