#include "align.cuh"
#include "launch.h"
#include "sides.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kAlign = "align";

}  // namespace

template <class Id>
void align(const Ragged<Id>& draft, const Ragged<Id>& target, const ByteTable& draft_table,
           const ByteTable& target_table, std::int64_t band, std::span<std::int32_t> target_spans,
           std::span<std::int64_t> costs, Stream stream) {
  const std::size_t batch = draft.offsets.empty() ? costs.size() : draft.offsets.size() - 1;
  const std::size_t targets = target.offsets.empty() ? costs.size() : target.offsets.size() - 1;
  check_align_sizes(band, batch, targets, target.ids.size(), target_spans.size(), costs.size());
  const Sequences drafts = sequences(draft, batch, kAlign, "draft_ids");
  const Sequences proxies = sequences(target, batch, kAlign, "target_ids");
  if (drafts.offsets == nullptr && proxies.offsets == nullptr &&
      (drafts.length == 0) != (proxies.length == 0)) {
    refuse_half_pair(drafts.length == 0, 0);
  }
  const std::size_t rows = max_tokens(drafts, kAlign, "draft_ids");
  const std::size_t columns = max_tokens(proxies, kAlign, "target_ids");
  if (batch == 0) return;

  const DeviceGuard guard(kAlign, stream);
  const AlignArguments arguments{{any_ids(draft.ids), drafts, device_table(draft_table)},
                                 {any_ids(target.ids), proxies, device_table(target_table)},
                                 band,
                                 target_spans.data(),
                                 costs.data()};
  launch(kAlign, align_pair,
         {static_cast<unsigned>(batch), 1, kAlignThreads,
          sizeof(AlignShared) + rows * columns * sizeof(Cell)},
         stream, arguments);
}

template void align(const Ragged<std::int32_t>&, const Ragged<std::int32_t>&, const ByteTable&,
                    const ByteTable&, std::int64_t, std::span<std::int32_t>,
                    std::span<std::int64_t>, Stream);
template void align(const Ragged<std::int64_t>&, const Ragged<std::int64_t>&, const ByteTable&,
                    const ByteTable&, std::int64_t, std::span<std::int32_t>,
                    std::span<std::int64_t>, Stream);

}  // namespace tokentiming::cuda
