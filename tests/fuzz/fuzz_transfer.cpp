// Calls `transfer` with byte tables, spans, expansions and rows made of arbitrary bytes: it throws,
// or writes distributions.
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "input.h"
#include "tokentiming/transfer.h"

using tokentiming::Rows;
using tokentiming::TransferCase;

namespace {

// Sixteenths, and sometimes an invalid probability.
float probability(std::int64_t number) {
  if (number == -1) return std::numeric_limits<float>::quiet_NaN();
  if (number == -2) return std::numeric_limits<float>::infinity();
  if (number == -3) return -1.0F;
  return static_cast<float>(number & 15) / 16.0F;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const auto draft_starts = input.starts();
  const auto target_starts = input.starts();
  const std::vector<std::uint8_t> bytes(45);  // of any value
  const std::int64_t draft_size = std::ssize(draft_starts) - 1;
  const std::int64_t target_size = std::ssize(target_starts) - 1;
  const auto draft_ids = input.several_below(draft_size);
  const auto target_ids = input.several_below(target_size);
  const std::vector<std::int64_t> draft_whole{0, std::ssize(draft_ids)};
  const std::vector<std::int64_t> target_whole{0, std::ssize(target_ids)};
  std::vector<std::int32_t> spans;
  for (std::size_t j = 0; j < target_ids.size(); ++j) {
    const auto begin = static_cast<std::uint64_t>(input.below(std::ssize(draft_ids)));
    spans.push_back(static_cast<std::int32_t>(begin));
    spans.push_back(static_cast<std::int32_t>(begin + static_cast<std::uint64_t>(input.below(3))));
  }

  const auto expansion_offsets = input.starts();
  std::vector<std::int32_t> expansion_ids;
  for (const std::int64_t id : input.several_below(target_size)) {
    expansion_ids.push_back(static_cast<std::int32_t>(id));
  }
  std::vector<std::int32_t> first;
  for (std::size_t d = 0; d + 1 < expansion_offsets.size(); ++d) {
    const auto begin = static_cast<std::size_t>(expansion_offsets[d]);
    const bool empty = expansion_offsets[d] == expansion_offsets[d + 1];
    first.push_back(empty || begin >= expansion_ids.size() ? -1 : expansion_ids[begin]);
  }
  const auto columns = static_cast<std::size_t>(target_size);
  std::vector<float> draft_probs(draft_ids.size() * first.size());
  for (float& p : draft_probs) p = probability(input.number());

  std::vector<float> probs(target_ids.size() * columns);
  std::vector<std::int8_t> cases(target_ids.size());
  const auto stride = [](std::size_t width) { return static_cast<std::ptrdiff_t>(width); };
  try {
    tokentiming::transfer<float, std::int64_t>(
        Rows<const float>{draft_probs.data(), draft_ids.size(), first.size(), stride(first.size())},
        {draft_ids, draft_whole}, {target_ids, target_whole}, spans, {bytes, draft_starts},
        {bytes, target_starts}, {{}, first, expansion_offsets, expansion_ids},
        Rows<float>{probs.data(), target_ids.size(), columns, stride(columns)}, cases);
  } catch (const std::invalid_argument&) {
    return 0;
  }
  for (std::size_t j = 0; j < target_ids.size(); ++j) {
    double mass = 0.0;
    for (std::size_t x = 0; x < columns; ++x) {
      require(std::isfinite(probs[j * columns + x]) && probs[j * columns + x] >= 0);
      mass += static_cast<double>(probs[j * columns + x]);
    }
    require(mass > 0.0);
    const auto kind = static_cast<TransferCase>(cases[j]);
    if (kind == TransferCase::kPointMass || kind == TransferCase::kInside) {
      require(std::abs(mass - 1.0) < 1e-5);
    }
  }
  return 0;
}
