#include "launch.h"
#include "sample.cuh"
#include "sizes.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kSample = "sample";
constexpr const char* kLogNoise = "log_noise";

std::size_t stretches(std::size_t keys, std::size_t stretch) {
  return std::max<std::size_t>(1, (keys + stretch - 1) / stretch);
}

}  // namespace

std::size_t sample_workspace(std::size_t rows, std::size_t keys) {
  return 2 * Workspace::size<unsigned>(rows) +
         Workspace::size<Leader>(rows * stretches(keys, kRaceStep));
}

template <class Logit>
void sample(const Rows<const Logit>& logits, std::span<const std::uint64_t> keys,
            std::uint64_t seed, std::span<const State> states, std::span<std::int64_t> ids,
            std::span<std::byte> workspace, Stream stream) {
  check_sample_sizes(logits.rows, logits.columns, keys.size(), states.size(), ids.size());
  if (logits.rows == 0) return;
  const OnDevice on_device(kSample, stream);

  // Rows side by side read the keys once, as long as there are blocks enough for every processor;
  // a block takes two steps where there are more still.
  const std::size_t enough = 4 * processors(kSample, stream.device);
  const auto blocks = [&](std::size_t together, std::size_t stretch) {
    return (logits.rows + together - 1) / together * stretches(keys.size(), stretch);
  };
  std::size_t together = kRaceRows;
  while (together > 1 && blocks(together, kRaceStep) < enough) together /= 2;
  std::size_t stretch = kRaceStep;
  if (blocks(together, 2 * stretch) >= 2 * enough) stretch *= 2;
  const std::size_t groups = (logits.rows + together - 1) / together;

  Workspace parts(kSample, workspace);
  const auto counters = parts.take<unsigned>(logits.rows + groups);
  const auto leaders = parts.take<Leader>(logits.rows * stretches(keys.size(), stretch));
  const RaceArguments<Logit> arguments{logits,
                                       keys.data(),
                                       static_cast<std::int64_t>(keys.size()),
                                       seed,
                                       states.data(),
                                       ids.data(),
                                       static_cast<int>(together),
                                       static_cast<std::int64_t>(stretch),
                                       counters.data(),
                                       counters.data() + logits.rows,
                                       leaders.data()};
  zero(kSample, counters, stream);
  // The blocks of a stretch start together: they share its keys in the cache, and those of the next
  // find the thresholds raised. Rows go along x, of which a grid may have 2^31 - 1; y ends at
  // 65535.
  launch(kSample, race<Logit>,
         {static_cast<unsigned>(groups), static_cast<unsigned>(stretches(keys.size(), stretch)),
          kRaceThreads, sizeof(RaceShared)},
         stream, arguments);
}

void log_noise(std::span<const std::uint64_t> keys, std::uint64_t seed,
               std::span<const State> states, std::span<double> noise, Stream stream) {
  check_noise_size(keys.size(), states.size(), noise.size());
  if (noise.empty()) return;
  const OnDevice on_device(kLogNoise, stream);
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
