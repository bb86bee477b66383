// What the benchmarks share: inputs, and the floor that memory sets.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "tokentiming/align.h"
#include "tokentiming/rows.h"

// Bytes a second of a copy of 256 MiB on all threads, read and written ones counted alike; measured
// once.
double copy_bandwidth();

// Times `run` and returns the seconds of an iteration. Google Benchmark's own counters can be rates
// alone, and print a unit of their own.
template <class Run>
double seconds_of(benchmark::State& state, const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  return spent.count() / static_cast<double>(state.iterations());
}

// Times `run` and adds the counter `x_floor`: over the time for the bytes that must be read or
// written at least once.
template <class Run>
void measure(benchmark::State& state, std::size_t least_bytes, const Run& run) {
  const double floor = static_cast<double>(least_bytes) / copy_bandwidth();
  state.counters["x_floor"] = seconds_of(state, run) / floor;
}

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
