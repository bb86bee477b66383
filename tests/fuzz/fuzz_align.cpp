// Calls `align` with tables, ids, offsets and bands made of arbitrary bytes: it throws, or its
// result is as its header says.
#include <stdexcept>
#include <vector>

#include "input.h"
#include "tokentiming/align.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const auto draft_ids = input.numbers();
  const auto target_ids = input.numbers();
  const auto draft_starts = input.numbers();
  const auto target_starts = input.numbers();
  std::vector<std::int64_t> draft_offsets{0, std::ssize(draft_ids)};
  std::vector<std::int64_t> target_offsets{0, std::ssize(target_ids)};
  if (input.number() < 0) draft_offsets = input.numbers();
  if (input.number() < 0) target_offsets = input.numbers();
  const std::int64_t band = input.number();
  const auto bytes = input.rest();

  std::vector<std::int32_t> spans(2 * target_ids.size());
  std::vector<std::int64_t> costs(draft_offsets.empty() ? 0 : draft_offsets.size() - 1);
  try {
    tokentiming::align<std::int64_t>({draft_ids, draft_offsets}, {target_ids, target_offsets},
                                     {bytes, draft_starts}, {bytes, target_starts}, band, spans,
                                     costs);
  } catch (const std::invalid_argument&) {
    return 0;
  }
  for (std::size_t b = 0; b < costs.size(); ++b) {
    require(costs[b] >= 0);
    std::int32_t before = 0;
    const auto last = static_cast<std::int32_t>(draft_offsets[b + 1] - draft_offsets[b]);
    for (auto t = target_offsets[b]; t < target_offsets[b + 1]; ++t) {
      const std::int32_t begin = spans[static_cast<std::size_t>(2 * t)];
      const std::int32_t end = spans[static_cast<std::size_t>(2 * t + 1)];
      require(begin < end && begin <= before && begin >= before - 1 && begin >= 0);
      before = end;
    }
    require(before == last);
  }
  return 0;
}
