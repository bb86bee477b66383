// Inputs of the benchmarks, and the bound that memory bandwidth sets.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "tokentiming/align.h"
#include "tokentiming/rows.h"

// Bytes a second of a copy of 256 MiB on all threads, bytes read and written both counted. Measured
// once.
double copy_bandwidth();

// Times `run` and returns the seconds of an iteration. Google Benchmark's own counters can only be
// rates.
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

// Times `run` and adds the counter `x_floor`: the time over that of reading or writing
// `least_bytes`, the bytes that must be moved at least once, at the copy bandwidth.
template <class Run>
void measure(benchmark::State& state, std::size_t least_bytes, const Run& run) {
  const double floor = static_cast<double>(least_bytes) / copy_bandwidth();
  state.counters["x_floor"] = seconds_of(state, run) / floor;
}

// Checks a result before it is timed: unless `holds`, the benchmark fails, and the program in the
// end.
bool agree(benchmark::State& state, bool holds, const char* what);

// Numbers distributed like logits: bell-shaped, so spread that a few tokens have most of the mass.
std::vector<float> random_logits(std::size_t count);

template <class Number>
tokentiming::Rows<Number> rows_of(Number* data, std::size_t rows, std::size_t columns) {
  return {data, rows, columns, static_cast<std::ptrdiff_t>(columns)};
}

// Offsets of `batch` sequences of `length` each.
std::vector<std::int64_t> even_offsets(std::size_t batch, std::size_t length);

// A vocabulary of real tokens, at most 64: token i is the i-th piece of a text.
struct Pieces {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int64_t> starts{0};

  explicit Pieces(const char* ended_by_bars);
  std::size_t size() const { return starts.size() - 1; }
  tokentiming::ByteTable table() const { return {bytes, starts}; }
};

// Larger inputs are skipped.
inline constexpr std::size_t kMostBytes = std::size_t{1} << 30;
