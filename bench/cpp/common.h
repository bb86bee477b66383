// What the benchmarks share: inputs, and the floor that memory sets.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "tokentiming/align.h"
#include "tokentiming/rows.h"

// Bytes a second of a copy of 256 MiB on all threads, read and written ones counted alike; measured
// once.
double copy_bandwidth();

// Adds the counter `x_floor`: the time of an iteration over the time for the bytes that must be
// read or written at least once. Needs UseRealTime().
void report_floor(benchmark::State& state, std::size_t bytes);

// Ends a benchmark, and in the end the program, as an error unless `holds`: results are checked
// before they are timed.
bool agree(benchmark::State& state, bool holds, const char* what);

// Bell-shaped numbers, such as logits are, wide apart enough that a few tokens have most mass.
std::vector<float> random_logits(std::size_t count);

template <class Number>
tokentiming::Rows<Number> rows_of(Number* data, std::size_t rows, std::size_t columns) {
  return {data, rows, columns, static_cast<std::ptrdiff_t>(columns)};
}

// Offsets of `batch` sequences of `length` each.
std::vector<std::int64_t> even_offsets(std::size_t batch, std::size_t length);

// One side of real tokens, at most 64: a vocabulary in which token i is the i-th piece.
struct Pieces {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int64_t> starts{0};

  explicit Pieces(const char* ended_by_bars);
  std::size_t size() const { return starts.size() - 1; }
  tokentiming::ByteTable table() const { return {bytes, starts}; }
};

// Inputs larger than this are left out.
inline constexpr std::size_t kMostBytes = std::size_t{1} << 30;
