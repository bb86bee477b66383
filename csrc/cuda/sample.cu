#include "launch.h"
#include "sample.cuh"
#include "sizes.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kSample = "sample";
constexpr const char* kLogNoise = "log_noise";

std::size_t block_count(std::size_t keys, std::size_t tokens_per_block) {
  return std::max<std::size_t>(1, (keys + tokens_per_block - 1) / tokens_per_block);
}

}  // namespace

std::size_t sample_workspace(std::size_t rows, std::size_t keys) {
  return 2 * Workspace::size<unsigned>(rows) +
         Workspace::size<Best>(rows * block_count(keys, kRaceTile));
}

template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids,
            std::span<std::byte> workspace, Stream stream) {
  check_sample_sizes(logits.rows, logits.columns, keys.size(), states.size(), ids.size());
  if (logits.rows == 0) return;
  const DeviceGuard guard(kSample, stream);

  // Rows side by side read the keys once, as long as there are blocks enough for every processor;
  // a block takes two steps where there are more still.
  const std::size_t min_blocks = 4 * multiprocessors(kSample, stream.device);
  const auto blocks = [&](std::size_t rows_per_block, std::size_t tokens_per_block) {
    return (logits.rows + rows_per_block - 1) / rows_per_block *
           block_count(keys.size(), tokens_per_block);
  };
  std::size_t rows_per_block = kMaxRowsPerBlock;
  while (rows_per_block > 1 && blocks(rows_per_block, kRaceTile) < min_blocks) rows_per_block /= 2;
  std::size_t tokens_per_block = kRaceTile;
  if (blocks(rows_per_block, 2 * tokens_per_block) >= 2 * min_blocks) tokens_per_block *= 2;
  const std::size_t groups = (logits.rows + rows_per_block - 1) / rows_per_block;

  Workspace parts(kSample, workspace);
  const auto counters = parts.allocate<unsigned>(logits.rows + groups);
  const auto bests = parts.allocate<Best>(logits.rows * block_count(keys.size(), tokens_per_block));
  const RaceArguments<Logit> arguments{logits,
                                       keys.data(),
                                       static_cast<std::int64_t>(keys.size()),
                                       seed,
                                       states.data(),
                                       ids.data(),
                                       static_cast<int>(rows_per_block),
                                       static_cast<std::int64_t>(tokens_per_block),
                                       counters.data(),
                                       counters.data() + logits.rows,
                                       bests.data()};
  zero(kSample, counters, stream);
  // The blocks of a stretch start together: they share its keys in the cache, and those of the next
  // find the thresholds raised. Rows go along x, of which a grid may have 2^31 - 1; y ends at
  // 65535.
  launch(kSample, race<Logit>,
         {static_cast<unsigned>(groups),
          static_cast<unsigned>(block_count(keys.size(), tokens_per_block)), kRaceThreads,
          sizeof(RaceShared)},
         stream, arguments);
}

void log_noise(std::span<const std::uint64_t> keys, std::uint64_t seed,
               std::span<const State> states, std::span<double> noise, Stream stream) {
  check_noise_size(keys.size(), states.size(), noise.size());
  if (noise.empty()) return;
  const DeviceGuard guard(kLogNoise, stream);
  const NoiseArguments arguments{keys.data(),  static_cast<std::int64_t>(keys.size()),
                                 seed,         states.data(),
                                 noise.data(), static_cast<std::int64_t>(noise.size())};
  const std::size_t blocks = (noise.size() + kNoiseThreads - 1) / kNoiseThreads;
  launch(kLogNoise, write_noise, {static_cast<unsigned>(blocks), 1, kNoiseThreads, 0}, stream,
         arguments);
}

#define TOKENTIMING_SAMPLE(Logit)                                                               \
  template void sample(const Rows<const Logit>&, std::span<const std::uint64_t>, std::uint64_t, \
                       std::span<const State>, std::span<std::int64_t>, std::span<std::byte>,   \
                       Stream)
TOKENTIMING_SAMPLE(Half);
TOKENTIMING_SAMPLE(BFloat16);
TOKENTIMING_SAMPLE(float);
TOKENTIMING_SAMPLE(double);
#undef TOKENTIMING_SAMPLE

}  // namespace tokentiming::cuda
