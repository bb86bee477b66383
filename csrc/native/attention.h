// Attention of several query heads over the tokens of one sequence, in tiles with all sums in
// registers. The queries of a tile share each key and each value that is loaded.
//
// `Vectors` is an instruction set: the type Floats of kLanes floats and what is done with it. Each
// file that includes this one is compiled for another instruction set, so nothing here may have
// external linkage.
#pragma once

#include <cstddef>

#include "native/kernels.h"

namespace tokentiming::native {
namespace {

constexpr std::size_t kMostQueries = 4;  // in a tile

// Scores of kQueries queries with kVectors vectors of keys, which are in consecutive blocks.
template <class Vectors, std::size_t kQueries, std::size_t kVectors>
inline void score_tile(const AttentionScores& task, const float* queries, std::size_t column,
                       float* scores) {
  constexpr std::size_t kLanes = Vectors::kLanes;
  typename Vectors::Floats sums[kQueries][kVectors] = {};
  const float* keys = task.keys + column * task.head_size;
  for (std::size_t k = 0; k < task.head_size; ++k) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::size_t block = v * kLanes / kKeyBlock * kKeyBlock;
      const auto key =
          Vectors::load(keys + block * task.head_size + k * kKeyBlock + v * kLanes % kKeyBlock);
#pragma GCC unroll 8
      for (std::size_t q = 0; q < kQueries; ++q) {
        Vectors::multiply_add(sums[q][v], Vectors::all(queries + q * task.head_size + k), key);
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      Vectors::store(scores + q * task.stride + column + v * kLanes, sums[q][v]);
    }
  }
}

template <class Vectors, std::size_t kQueries>
inline void scores_of_queries(const AttentionScores& task, const float* queries, float* scores) {
  constexpr std::size_t kOfBlock = kKeyBlock / Vectors::kLanes;
  constexpr std::size_t kVectors =
      kOfBlock > Vectors::score_vectors(kQueries) ? kOfBlock : Vectors::score_vectors(kQueries);
  constexpr std::size_t kColumns = kVectors * Vectors::kLanes;
  const std::size_t end = key_blocks(task.columns) * kKeyBlock;
  std::size_t column = 0;
  for (; column + kColumns <= end; column += kColumns) {
    score_tile<Vectors, kQueries, kVectors>(task, queries, column, scores);
  }
  for (; column < end; column += kKeyBlock) {
    score_tile<Vectors, kQueries, kOfBlock>(task, queries, column, scores);
  }
}

// The part of the outputs of kQueries queries that kVectors vectors of each value give, or a vector
// of eight entries.
template <class Vectors, std::size_t kQueries, std::size_t kVectors, bool kEight = false>
inline void output_tile(const AttentionOutput& task, std::size_t query, std::size_t at) {
  constexpr std::size_t kLanes = Vectors::kLanes;
  typename Vectors::Floats sums[kQueries][kVectors] = {};
  const float* weights = task.weights + query * task.stride;
  for (std::size_t t = 0; t < task.columns; ++t) {
    const float* value = task.values + t * task.head_size + at;
    typename Vectors::Floats values[kVectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      if constexpr (kEight) {
        values[v] = Vectors::load_eight(value);
      } else {
        values[v] = Vectors::load(value + v * kLanes);
      }
    }
#pragma GCC unroll 8
    for (std::size_t q = 0; q < kQueries; ++q) {
      const auto weight = Vectors::all(weights + q * task.stride + t);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) {
        Vectors::multiply_add(sums[q][v], weight, values[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t q = 0; q < kQueries; ++q) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      float* const out = task.out + (query + q) * task.head_size + at;
      if constexpr (kEight) {
        Vectors::store_eight(out, sums[q][v]);
      } else {
        Vectors::store(out + v * kLanes, sums[q][v]);
      }
    }
  }
}

template <class Vectors, std::size_t kQueries>
inline void output_of_queries(const AttentionOutput& task, std::size_t query) {
  constexpr std::size_t kLanes = Vectors::kLanes, kVectors = Vectors::output_vectors(kQueries);
  std::size_t at = 0;
  for (; at + kVectors * kLanes <= task.head_size; at += kVectors * kLanes) {
    output_tile<Vectors, kQueries, kVectors>(task, query, at);
  }
  for (; at + kLanes <= task.head_size; at += kLanes) {
    output_tile<Vectors, kQueries, 1>(task, query, at);
  }
  if (at < task.head_size) {
    output_tile<Vectors, kQueries, 1, /*kEight=*/true>(task, query, at);
  }
}

// Calls f<count>(first query) for groups of at most kMostQueries queries.
template <class F>
inline void for_each_query_group(std::size_t queries, const F& f) {
  std::size_t first = 0;
  for (; first + kMostQueries <= queries; first += kMostQueries) {
    f.template operator()<kMostQueries>(first);
  }
  switch (queries - first) {
    case 3:
      return f.template operator()<3>(first);
    case 2:
      return f.template operator()<2>(first);
    case 1:
      return f.template operator()<1>(first);
    default:
      return;
  }
}

template <class Vectors>
inline void scores_of(const AttentionScores& task) {
  for_each_query_group(task.heads, [&]<std::size_t kQueries>(std::size_t first) {
    scores_of_queries<Vectors, kQueries>(task, task.queries + first * task.head_size,
                                         task.scores + first * task.stride);
  });
}

template <class Vectors>
inline void output_of(const AttentionOutput& task) {
  for_each_query_group(task.heads, [&]<std::size_t kQueries>(std::size_t first) {
    output_of_queries<Vectors, kQueries>(task, first);
  });
}

}  // namespace
}  // namespace tokentiming::native
