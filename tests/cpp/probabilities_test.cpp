#include "tokentiming/probabilities.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace tokentiming;

TEST_CASE("probabilities: the softmax of logits, and other rows as they are") {
  const std::vector<double> logits{0.0, std::log(3.0), -INFINITY, 1.0, 1.0, 1.0};
  std::vector<double> out(6);
  const Rows<double> written{out.data(), 2, 3, 3};
  probabilities({Rows<const double>{logits.data(), 2, 3, 3}, true}, 1.0, written, "transfer");
  const double expected[] = {0.25, 0.75, 0.0, 1.0 / 3, 1.0 / 3, 1.0 / 3};
  for (int k = 0; k < 6; ++k) CHECK(out[k] == doctest::Approx(expected[k]).epsilon(1e-14));
  probabilities({Rows<const double>{logits.data(), 2, 3, 3}, true}, 0.5, written, "transfer");
  CHECK(out[1] == doctest::Approx(0.9).epsilon(1e-14));

  const std::vector<Half> halves{{0x3800}, {0x3400}, {0x3C00}};  // 1/2, 1/4, 1
  std::vector<float> narrow(3);
  probabilities({Rows<const Half>{halves.data(), 1, 3, 3}, false}, 1.0,
                Rows<float>{narrow.data(), 1, 3, 3}, "restrict");
  CHECK(narrow == std::vector<float>{0.5f, 0.25f, 1.0f});
}

TEST_CASE("probabilities: errors begin with the function that was called") {
  const std::vector<float> logits{0.0f, std::numeric_limits<float>::quiet_NaN()};
  std::vector<float> out(2);
  const auto run = [&](bool is_logits, double temperature, std::size_t columns) {
    probabilities({Rows<const float>{logits.data(), 1, 2, 2}, is_logits}, temperature,
                  Rows<float>{out.data(), 1, columns, 2}, "restrict");
  };
  CHECK_THROWS_WITH(run(true, 1.0, 2), "restrict: draft_logits[0] holds NaN or +inf");
  CHECK_THROWS_WITH(run(true, 0.0, 2),
                    "restrict: temperature is 0.000000; it must be greater than 0");
  CHECK_THROWS_WITH(
      run(false, 0.5, 2),
      "restrict: temperature applies to draft_logits; draft_probs are taken as they are");
  CHECK_THROWS_WITH(run(true, 1.0, 1),
                    "restrict: the rows and their probabilities have different shapes");
}
