// The entries of a row, read by all threads of a block.
#pragma once

#include "rows.cuh"

namespace tokentiming::cuda {

inline constexpr unsigned kColumnsThreads = 256;
inline constexpr int kColumnsStep = kColumnsThreads * kVectorSize;  // columns of one vector each
// Columns of one batch of the narrowest numbers. A multiple of it is whole batches of any numbers.
inline constexpr int kColumnsBatch = 4 * kColumnsStep;

// The entries before the first that lies on a multiple of 16 bytes.
template <class Number>
__device__ inline int entries_to_alignment(const Number* from) {
  const auto past = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(from) % 16);
  return static_cast<int>((16 - past) % 16 / sizeof(Number));
}

// Some columns of a row: the part `part` of `parts`.
struct Columns {
  int begin;
  int end;

  // Each part but the first begins at an aligned entry, so that only the first and the last of a
  // row have entries beside whole vectors.
  template <class Number>
  __device__ static Columns of_part(const Number* row, int columns, int part, int parts,
                                    int columns_per_part) {
    const int shift = entries_to_alignment(row);
    const auto bounded = [&](int k) {
      const std::int64_t at = static_cast<std::int64_t>(k) * columns_per_part + shift;
      return at < columns ? static_cast<int>(at) : columns;
    };
    return {part == 0 ? 0 : bounded(part), part == parts - 1 ? columns : bounded(part + 1)};
  }
};

// Calls reduce(vector, column) for each vector of eight entries that this thread has of some
// columns, and reduce(entry, column) for an entry beside whole vectors.
//
// Threads load four times sixteen bytes before they use any of it, and the next batch before they
// reduce the present one, so that memory is never idle. No loop here may leave early: the compiler
// would wait for a load before the next one. Entries in no whole vector, at most seven at either
// end, are loaded one by a thread. Vectors of an incomplete batch are padded.
template <class Number, class Reduce>
__device__ inline void for_each_vector(const Number* row, const Columns& columns, Reduce& reduce) {
  constexpr int kVectors = 64 / sizeof(Vector<Number>);  // of a batch
  constexpr int kBatch = kVectors * kColumnsStep;
  const int thread = static_cast<int>(threadIdx.x);
  const int before = entries_to_alignment(row + columns.begin);
  const int count = columns.end - columns.begin;
  const int first = columns.begin + (before < count ? before : count);
  const int last = first + (columns.end - first) / kVectorSize * kVectorSize;

  const int head = first - columns.begin;
  const bool has_entry = thread < head + columns.end - last;
  const int place = thread < head ? columns.begin + thread : last + thread - head;
  const Number entry = has_entry ? row[place] : lowest_logit<Number>();

  const auto load = [&](Vector<Number>(&batch)[kVectors], int at) {
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      batch[u] = Vector<Number>::load(row + at + u * kColumnsStep);
    }
  };
  const auto reduce_all = [&](const Vector<Number>(&batch)[kVectors], int at) {
#pragma unroll
    for (int u = 0; u < kVectors; ++u) reduce(batch[u], at + u * kColumnsStep);
  };
  const int batches = (last - first) / kBatch;
  int at = first + thread * kVectorSize;
  Vector<Number> even[kVectors];
  Vector<Number> odd[kVectors];
  if (batches > 0) load(even, at);
  int left = batches;
  for (; left > 2; left -= 2, at += 2 * kBatch) {
    load(odd, at + kBatch);
    reduce_all(even, at);
    load(even, at + 2 * kBatch);
    reduce_all(odd, at + kBatch);
  }
  if (left == 2) load(odd, at + kBatch);
  if (left > 0) reduce_all(even, at);
  if (left == 2) reduce_all(odd, at + kBatch);
  at += left * kBatch;

  if (at - thread * kVectorSize < last) {
    Vector<Number> rest[kVectors];
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      const int from = at + u * kColumnsStep;
      rest[u] = from < last ? Vector<Number>::load(row + from)
                            : Vector<Number>::filled(lowest_logit<Number>());
    }
    reduce_all(rest, at);
  }
  if (has_entry) reduce(entry, place);
}

}  // namespace tokentiming::cuda
