#include "tokentiming/cuda.h"

#include <doctest/doctest.h>

#include <stdexcept>

#include "tokentiming/align.h"
#include "tokentiming/sample.h"

using namespace tokentiming;

TEST_CASE("a build without CUDA throws") {
  if (cuda::is_built()) return;
  CHECK_THROWS_WITH_AS((cuda::sample<float>({nullptr, 0, 0, 0}, {}, 0, {}, {}, {}, {})),
                       doctest::Contains("sample: tokentiming was built without CUDA"),
                       std::runtime_error);
  CHECK_THROWS_WITH_AS((cuda::align<std::int32_t>({}, {}, {}, {}, 8, {}, {}, {})),
                       doctest::Contains("align: tokentiming was built without CUDA"),
                       std::runtime_error);
}
