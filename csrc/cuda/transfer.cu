#include <algorithm>
#include <limits>

#include "launch.h"
#include "sides.h"
#include "transfer.cuh"

namespace tokentiming::cuda {
namespace {

constexpr const char* kTransfer = "transfer";
constexpr const char* kRestrict = "restrict";

DeviceOrigins device_origins(const InverseMap& inverse, const char* name, std::size_t columns,
                             std::size_t draft_tokens, const char* operation) {
  if (inverse.offsets.empty()) {
    refuse(operation, std::string(name) + " has no offsets; a GPU needs the inverse of the map");
  }
  const std::size_t targets = inverse.offsets.size() - 1;
  if (targets > columns) {
    refuse(operation, std::string(name) + " is of " + std::to_string(targets) +
                          " target tokens, more than the " + std::to_string(columns) +
                          " columns of out");
  }
  // Offsets and ids lead no further than an int does; half of that leaves room to step beyond.
  const auto to_int = [](std::size_t size) {
    return static_cast<int>(std::min<std::size_t>(size, std::numeric_limits<int>::max() / 2));
  };
  return {inverse.offsets.data(), to_int(targets), inverse.draft_ids.data(),
          to_int(inverse.draft_ids.size()), to_int(draft_tokens)};
}

// A grid as wide as there are rows, since it can be wider than high; then all rows' first blocks
// start first, in whose columns the letters mostly are, to which most tokens come.
template <class Number>
Grid gather_grid(const Rows<Number>& probs, std::size_t shared_bytes, const char* operation) {
  constexpr std::size_t kEach = kGatherTile;
  constexpr std::size_t kMaxBlocks = 65535;
  if (probs.columns > kMaxBlocks * kEach) {
    refuse(operation, "out has " + std::to_string(probs.columns) +
                          " columns; on a GPU it takes at most " +
                          std::to_string(kMaxBlocks * kEach));
  }
  const std::size_t blocks = std::max<std::size_t>(1, (probs.columns + kEach - 1) / kEach);
  return {static_cast<unsigned>(probs.rows), static_cast<unsigned>(blocks), kGatherThreads,
          shared_bytes};
}

}  // namespace

std::size_t transfer_workspace(std::size_t proxies) { return Workspace::size<Plan>(proxies); }

template <class Number, class Id>
void transfer(const Rows<const Number>& draft_probs, const Ragged<Id>& draft,
              const Ragged<Id>& target, std::span<const std::int32_t> target_spans,
              const ByteTable& draft_table, const ByteTable& target_table, const VocabularyMap& map,
              const Rows<Number>& probs, std::span<std::int8_t> cases,
              std::span<std::byte> workspace, Stream stream) {
  const auto count = [](const auto& offsets) { return offsets.empty() ? 1 : offsets.size() - 1; };
  const std::size_t batch = count(draft.offsets);
  check_transfer_sizes(draft_probs, draft.ids.size(), target.ids.size(), target_spans.size(), map,
                       probs, cases.size(), batch, count(target.offsets));
  const Sequences drafts = sequences(draft, batch, kTransfer, "draft_ids");
  const Sequences proxies = sequences(target, batch, kTransfer, "target_ids");
  max_tokens(drafts, kTransfer, "draft_ids");
  max_tokens(proxies, kTransfer, "target_ids");
  const std::size_t size = map.first.size();
  const DeviceOrigins origins =
      device_origins(map.first_inverse, "first_inverse", probs.columns, size, kTransfer);
  const Grid grid = gather_grid(probs, sizeof(TransferShared), kTransfer);
  if (target.ids.empty()) return;

  const DeviceGuard guard(kTransfer, stream);
  const auto plans = Workspace(kTransfer, workspace).allocate<Plan>(probs.rows);
  const TransferArguments<Number> arguments{
      draft_probs,
      any_ids(draft.ids),
      drafts,
      device_table(draft_table),
      any_ids(target.ids),
      proxies,
      device_table(target_table),
      target_spans.data(),
      {map.first.data(), static_cast<std::int64_t>(size), map.expansion_offsets.data(),
       map.expansion_ids.data(), static_cast<std::int64_t>(map.expansion_ids.size())},
      origins,
      probs,
      cases.data(),
      plans.data()};
  zero(kTransfer, plans, stream);
  if (batch > 0) {
    launch(kTransfer, plan_transfer<Number>,
           {static_cast<unsigned>(batch), 1, kWarp, sizeof(PlanShared)}, stream, arguments);
  }
  launch(kTransfer, gather_rows<Number>, grid, stream, arguments);
}

std::size_t restrict_workspace(std::size_t rows) { return Workspace::size<double>(rows); }

template <class Number>
void restrict_to_shared(const Rows<const Number>& draft_probs, const VocabularyMap& map,
                        const Rows<Number>& probs, std::span<std::byte> workspace, Stream stream) {
  check_restrict_sizes(draft_probs, map.exact.size(), probs);
  const DeviceOrigins origins = device_origins(map.exact_inverse, "exact_inverse", probs.columns,
                                               map.exact.size(), kRestrict);
  const Grid grid = gather_grid(probs, sizeof(LongColumns), kRestrict);
  if (probs.rows == 0 || probs.columns == 0) return;
  const DeviceGuard guard(kRestrict, stream);
  const auto masses = Workspace(kRestrict, workspace).allocate<double>(probs.rows);
  const RestrictArguments<Number> arguments{draft_probs, origins, probs, masses.data()};
  launch(kRestrict, shared_mass<Number>,
         {static_cast<unsigned>(probs.rows), 1, kMassThreads, sizeof(WarpPartials<double>)}, stream,
         arguments);
  launch(kRestrict, gather_shared<Number>, grid, stream, arguments);
}

#define TOKENTIMING_TRANSFER(Number, Id)                                                    \
  template void transfer(const Rows<const Number>&, const Ragged<Id>&, const Ragged<Id>&,   \
                         std::span<const std::int32_t>, const ByteTable&, const ByteTable&, \
                         const VocabularyMap&, const Rows<Number>&, std::span<std::int8_t>, \
                         std::span<std::byte>, Stream)
#define TOKENTIMING_INSTANTIATE(Number)                                             \
  TOKENTIMING_TRANSFER(Number, std::int32_t);                                       \
  TOKENTIMING_TRANSFER(Number, std::int64_t);                                       \
  template void restrict_to_shared(const Rows<const Number>&, const VocabularyMap&, \
                                   const Rows<Number>&, std::span<std::byte>, Stream)
TOKENTIMING_INSTANTIATE(float);
TOKENTIMING_INSTANTIATE(double);
#undef TOKENTIMING_INSTANTIATE
#undef TOKENTIMING_TRANSFER

}  // namespace tokentiming::cuda
