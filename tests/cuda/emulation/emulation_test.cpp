// The emulation detects the faults that it is for.

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "emulation/device.h"
#include "memory.h"

using namespace tokentiming;
using namespace tokentiming::test;

namespace {

constexpr unsigned kThreads = 64;

// Reverses a block's numbers, with a barrier between writing and reading or without.
template <bool kBarrier>
__global__ void reverse(const int* in, int* out) {
  auto& shared = cuda::shared_memory<int[kThreads]>();
  shared[threadIdx.x] = in[threadIdx.x];
  if constexpr (kBarrier) __syncthreads();
  out[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), unsigned blocks, std::size_t shared,
            Parameters... arguments) {
  emulation::run({blocks, 1}, kThreads, shared, [&] { kernel(arguments...); });
}

__global__ void half_a_barrier(int* out) {
  if (threadIdx.x % 2) __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void two_places(int* out) {
  if (threadIdx.x % 2) {
    __syncwarp();
  } else {
    __syncwarp();
  }
  out[threadIdx.x] = 1;
}

}  // namespace

TEST_CASE("emulation: only a missing barrier changes a result") {
  std::vector<int> in(kThreads), expected(kThreads);
  std::iota(in.begin(), in.end(), 0);
  std::iota(expected.rbegin(), expected.rend(), 0);
  int right = 0;
  int orders = 0;
  for_each_schedule([&] {
    std::vector<int> out(kThreads, -1);
    launch<const int*, int*>(reverse<true>, 1, sizeof(int[kThreads]), in.data(), out.data());
    CHECK(out == expected);
    launch<const int*, int*>(reverse<false>, 1, sizeof(int[kThreads]), in.data(), out.data());
    right += out == expected;
    ++orders;
  });
  if (orders > 1) CHECK(right < orders);
}

TEST_CASE("emulation: a kernel that would hang on a GPU throws") {
  std::vector<int> out(kThreads);
  for_each_schedule([&] {
    CHECK_THROWS_WITH(launch<int*>(half_a_barrier, 1, 0, out.data()),
                      "emulation: a barrier is not reached by all its threads");
    CHECK_THROWS_WITH(launch<int*>(two_places, 1, 0, out.data()), doctest::Contains("should meet"));
  });
}

TEST_CASE("emulation: __fadd_ru rounds up") {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  int above = 0;
  for (int repeat = 0; repeat < 10'000; ++repeat) {
    const float a = normal(random) * std::exp2(static_cast<float>(random() % 24));
    const float b = normal(random);
    const double exact = static_cast<double>(a) + static_cast<double>(b);
    const float sum = __fadd_ru(a, b);
    REQUIRE(static_cast<double>(sum) >= exact);
    REQUIRE(static_cast<double>(std::nextafter(sum, -INFINITY)) < exact);
    above += sum > a + b;
  }
  CHECK(above > 1000);
  CHECK(__fadd_ru(-INFINITY, 1.0f) == -INFINITY);
  CHECK(__fadd_ru(INFINITY, 1.0f) == INFINITY);
  CHECK(std::isnan(__fadd_ru(NAN, 1.0f)));
}
