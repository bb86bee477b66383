#include "tokentiming/probabilities.h"

#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "memory.h"
#include "numbers.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

std::vector<float> on_gpu(const Distributions& rows, double temperature, std::size_t count,
                          std::size_t columns) {
  const DeviceArray out(std::vector<float>(count * columns, -7.0f));
  const DeviceArray workspace(garbage_workspace(cuda::probabilities_workspace(count)));
  cuda::probabilities(rows, temperature,
                      Rows<float>{out.data(), count, columns, static_cast<std::ptrdiff_t>(columns)},
                      "transfer", workspace.span(), {});
  return out.read();
}

template <class Number>
void compare(std::mt19937& random, bool is_logits) {
  const std::size_t count = random() % 4;
  const std::size_t columns = 1 + (random() % 2 ? random() % 40 : random() % 30000);
  auto rows = random_matrix<Number>(random, count, columns);
  std::normal_distribution<double> normal(0.0, 2.0);
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t v = 0; v < columns; ++v) {
      rows.at(r, v) = narrow<Number>(is_logits ? normal(random) : std::abs(normal(random)));
    }
  }
  const double temperature = is_logits ? 0.7 : 1.0;
  std::vector<float> expected(count * columns);
  probabilities({rows.here(), is_logits}, temperature,
                Rows<float>{expected.data(), count, columns, static_cast<std::ptrdiff_t>(columns)},
                "transfer");
  const DeviceArray memory(rows.memory);
  for_each_schedule([&] {
    const auto found = on_gpu({rows.in(memory.data()), is_logits}, temperature, count, columns);
    for (std::size_t k = 0; k < found.size(); ++k) {
      if (is_logits) {
        REQUIRE(found[k] == doctest::Approx(expected[k]).epsilon(1e-4));
      } else {
        REQUIRE(found[k] == expected[k]);
      }
    }
  });
}

}  // namespace

TEST_CASE("probabilities: those of the CPU, of any type") {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 4; ++repeat) {
    for (const bool is_logits : {true, false}) {
      compare<Half>(random, is_logits);
      compare<BFloat16>(random, is_logits);
      compare<float>(random, is_logits);
    }
  }
}

TEST_CASE("probabilities: a row of logits without a distribution becomes NaN") {
  Matrix<float> rows(3, 5, 0, 5);
  rows.at(0, 3) = NAN;
  for (std::size_t v = 0; v < 5; ++v) rows.at(2, v) = -INFINITY;
  const DeviceArray memory(rows.memory);
  const auto found = on_gpu({rows.in(memory.data()), true}, 1.0, 3, 5);
  for (std::size_t k = 0; k < 15; ++k) CHECK(std::isnan(found[k]) == (k / 5 != 1));
}

TEST_CASE("probabilities: a logit of minus infinity at a temperature beyond float") {
  Matrix<float> rows(1, 3, 0, 3);
  rows.at(0, 0) = -INFINITY;
  rows.at(0, 2) = 5.0f;
  const DeviceArray memory(rows.memory);
  const auto found = on_gpu({rows.in(memory.data()), true}, 1e60, 1, 3);
  CHECK(found == std::vector<float>{0.0f, 0.5f, 0.5f});
}
