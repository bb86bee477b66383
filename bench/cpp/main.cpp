#include <algorithm>
#include <chrono>
#include <random>
#include <string>

#include "common.h"

namespace {

double measure_copy_bandwidth() {
  constexpr std::size_t kBytes = std::size_t{256} << 20;
  constexpr std::size_t kChunk = std::size_t{1} << 20;
  std::vector<char> source(kBytes, 1);
  std::vector<char> target(kBytes, 0);
  std::vector<double> seconds;
  for (int round = 0; round < 9; ++round) {
    const auto start = std::chrono::steady_clock::now();
#pragma omp parallel for
    for (std::size_t chunk = 0; chunk < kBytes; chunk += kChunk) {
      std::copy_n(source.data() + chunk, kChunk, target.data() + chunk);
    }
    benchmark::DoNotOptimize(target.data());
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::ranges::sort(seconds);
  return 2.0 * kBytes / seconds[seconds.size() / 2];
}

bool all_agreed = true;

}  // namespace

double copy_bandwidth() {
  static const double bandwidth = measure_copy_bandwidth();
  return bandwidth;
}

bool agree(benchmark::State& state, bool holds, const char* what) {
  if (!holds) state.SkipWithError(what);
  all_agreed &= holds;
  return holds;
}

// Sums of four random bytes: fast enough to fill gigabytes.
std::vector<float> random_logits(std::size_t count) {
  std::mt19937_64 random(1);
  std::vector<float> values(count);
  for (std::size_t k = 0; k < count; k += 2) {
    std::uint64_t bits = random();
    for (std::size_t half = k; half < std::min(count, k + 2); ++half, bits >>= 32) {
      const auto sum = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24 & 255);
      values[half] = static_cast<float>(static_cast<double>(sum) / 40.0);
    }
  }
  return values;
}

std::vector<std::int64_t> even_offsets(std::size_t batch, std::size_t length) {
  std::vector<std::int64_t> offsets;
  for (std::size_t b = 0; b <= batch; ++b) offsets.push_back(static_cast<std::int64_t>(b * length));
  return offsets;
}

Pieces::Pieces(const char* ended_by_bars) {
  for (const char* c = ended_by_bars; *c != '\0'; ++c) {
    if (*c == '|') {
      starts.push_back(static_cast<std::int64_t>(bytes.size()));
    } else {
      bytes.push_back(static_cast<std::uint8_t>(*c));
    }
  }
}

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("copy, GB/s", std::to_string(copy_bandwidth() / 1e9));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return all_agreed ? 0 : 1;
}
