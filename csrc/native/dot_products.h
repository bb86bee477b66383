// Dot products in tiles of a few input rows by a few weight rows, with all sums in registers.
//
// A vector of bfloat16 weights becomes two vectors of floats: the even entries by one shift, the
// odd entries by two. No shuffle is needed if the input is in the same order. The input has few
// rows, so it is packed in that order beforehand.
//
// `Vectors` is an instruction set: the type Floats of kLanes floats and what is done with it. Each
// file that includes this one is compiled for another instruction set, so nothing here may have
// external linkage.
#pragma once

#include <cstddef>

#include "native/kernels.h"
#include "widen.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kMaxRows = 8;  // input rows in a tile

// The inputs of a tile: `steps` vectors of each weight row, and the packed input for them. For each
// step the packed input holds the even entries of each row, then the odd entries of each row.
struct TileInput {
  const float* input;
  const BFloat16* weight;
  std::size_t weight_stride;
  std::size_t steps;
};

// Accumulates into sums[kRows][kOutputs], kLanes each.
template <class Vectors, std::size_t kRows, std::size_t kOutputs>
inline void tile(const TileInput& part, float* sums_at) {
  using Floats = typename Vectors::Floats;
  constexpr std::size_t kLanes = Vectors::kLanes, kStep = 2 * kLanes;
  Floats sums[kRows][kOutputs];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      sums[r][n] = Vectors::load(sums_at + (r * kOutputs + n) * kLanes);
    }
  }
  Floats w[kOutputs];
  const auto accumulate = [&](const float* input) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      if constexpr (kOutputs == 1) {
        Vectors::multiply_add(sums[r][0], w[0], input + r * kLanes);
      } else {
        Floats x = Vectors::load(input + r * kLanes);
        Vectors::pin(x);
#pragma GCC unroll 8
        for (std::size_t n = 0; n < kOutputs; ++n) Vectors::multiply_add(sums[r][n], w[n], x);
      }
    }
  };
  const float* input = part.input;
  for (std::size_t s = 0; s < part.steps; ++s, input += kRows * kStep) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      const BFloat16* weight = part.weight + n * part.weight_stride + s * kStep;
      Vectors::prefetch(weight + Vectors::kPrefetchRows * part.weight_stride);
      w[n] = Vectors::first_half(weight);
      Vectors::pin(w[n]);
    }
    accumulate(input);
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      w[n] = Vectors::second_half(part.weight + n * part.weight_stride + s * kStep);
      Vectors::pin(w[n]);
    }
    accumulate(input + kRows * kLanes);
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < kOutputs; ++n) {
      Vectors::store(sums_at + (r * kOutputs + n) * kLanes, sums[r][n]);
    }
  }
}

// The dot products of exactly kRows rows. kOutputs weight rows make a tile; the remaining weight
// rows are computed one by one. Vectors::depth gives the entries that are read of each weight row
// before the next slice of entries.
template <class Vectors, std::size_t kRows, std::size_t kOutputs>
void products_of_rows(const DotProducts& task) {
  constexpr std::size_t kLanes = Vectors::kLanes, kStep = 2 * kLanes,
                        kSteps = Vectors::depth(kRows) / kStep;
  const std::size_t in = task.in_features;
  const std::size_t steps = in / kStep;
  const std::size_t whole = (task.last - task.first) / kOutputs * kOutputs;
  const std::size_t outputs = task.last - task.first;
  alignas(64) float sums[kOutputBlock * kRows * kLanes] = {};
  for (std::size_t s = 0; s < steps; s += kSteps) {
    TileInput part{task.packed + s * kRows * kStep, task.weight + task.first * in + s * kStep, in,
                   steps - s < kSteps ? steps - s : kSteps};
    std::size_t n = 0;
    for (; n < whole; n += kOutputs, part.weight += kOutputs * in) {
      tile<Vectors, kRows, kOutputs>(part, sums + n * kRows * kLanes);
    }
    for (; n < outputs; ++n, part.weight += in) {
      tile<Vectors, kRows, 1>(part, sums + n * kRows * kLanes);
    }
  }
  // Entries beyond the last full vector are packed in order after the others.
  const std::size_t rest = in - steps * kStep;
  const float* last_inputs = task.packed + steps * kRows * kStep;
  for (std::size_t n = 0; n < outputs; ++n) {
    const std::size_t together = n < whole ? kOutputs : 1;
    const std::size_t tile_start = n < whole ? n / kOutputs * kOutputs : n;
    const BFloat16* last_weights = task.weight + (task.first + n) * in + steps * kStep;
    for (std::size_t r = 0; r < kRows; ++r) {
      const std::size_t at = tile_start * kRows + r * together + (n - tile_start);
      float sum = Vectors::sum_of_lanes(Vectors::load(sums + at * kLanes));
      for (std::size_t i = 0; i < rest; ++i) {
        sum += last_inputs[r * rest + i] * widen(last_weights[i]);
      }
      task.products[r * task.stride + task.first + n] = sum;
    }
  }
}

using ProductsOfRows = void (*)(const DotProducts&);

// Calls f(first row, number of rows) for groups of rows. Up to 8 rows make one group, so that each
// weight is used for all of them when it arrives from memory. More rows are split evenly into
// groups of at most Vectors::kGroup, whose tiles are the fastest.
template <class Vectors, class F>
inline void for_each_group(std::size_t rows, const F& f) {
  constexpr std::size_t kGroup = Vectors::kGroup;
  const std::size_t groups = rows <= kMaxRows ? (rows > 0) : (rows + kGroup - 1) / kGroup;
  for (std::size_t i = 0; i < groups; ++i) {
    const std::size_t begin = rows * i / groups;
    f(begin, rows * (i + 1) / groups - begin);
  }
}

template <class Vectors>
inline void pack(const BFloat16* input, std::size_t rows, std::size_t in, float* packed) {
  constexpr std::size_t kLanes = Vectors::kLanes, kStep = 2 * kLanes;
  const std::size_t steps = in / kStep;
  const std::size_t rest = in - steps * kStep;
  for_each_group<Vectors>(rows, [&](std::size_t begin, std::size_t count) {
    float* to = packed + begin * in;
    for (std::size_t r = 0; r < count; ++r) {
      const BFloat16* from = input + (begin + r) * in;
      for (std::size_t s = 0; s < steps; ++s) {
        float* at = to + s * count * kStep + r * kLanes;
        Vectors::store(at, Vectors::first_half(from + s * kStep));
        Vectors::store(at + count * kLanes, Vectors::second_half(from + s * kStep));
      }
      for (std::size_t i = 0; i < rest; ++i) {
        to[steps * count * kStep + r * rest + i] = widen(from[steps * kStep + i]);
      }
    }
  });
}

// `products` holds products_of_rows for each number of rows, with the most weight rows in a tile
// whose sums fit in the registers.
template <class Vectors>
inline void dot_products(const DotProducts& task, const ProductsOfRows (&products)[kMaxRows + 1]) {
  for_each_group<Vectors>(task.rows, [&](std::size_t begin, std::size_t count) {
    DotProducts group = task;
    group.packed += begin * task.in_features;
    group.products += begin * task.stride;
    group.rows = count;
    products[count](group);
  });
}

}  // namespace
}  // namespace tokentiming::native
