#include <algorithm>
#include <limits>

#include "launch.h"
#include "sides.h"
#include "transfer.cuh"

namespace tokentiming::cuda {
namespace {

constexpr const char* kTransfer = "transfer";
constexpr const char* kRestrict = "restrict";

DeviceOrigins device_origins(const Origins& origins, std::size_t columns, std::size_t draft_tokens,
                             const char* operation) {
  if (origins.offsets.empty()) refuse(operation, "origins.offsets must not be empty");
  const std::size_t targets = origins.offsets.size() - 1;
  if (targets > columns) {
    refuse(operation, "origins are of " + std::to_string(targets) +
                          " target tokens, more than the " + std::to_string(columns) +
                          " columns of out");
  }
  // Offsets and ids lead no further than an int does; half of that leaves room to step beyond.
  const auto to_int = [](std::size_t size) {
    return static_cast<int>(std::min<std::size_t>(size, std::numeric_limits<int>::max() / 2));
  };
  return {origins.offsets.data(), to_int(targets), origins.draft_ids.data(),
          to_int(origins.draft_ids.size()), to_int(draft_tokens)};
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

template <class Number, class Id, class MapId>
void transfer(const Rows<const Number>& draft_probs, const Proposals<Id>& proposals,
              const Expansions<MapId>& expansions, const Origins& origins,
              const Rows<Number>& probs, std::span<std::int8_t> cases,
              std::span<std::byte> workspace, Stream stream) {
  const auto count = [](const auto& offsets) { return offsets.empty() ? 1 : offsets.size() - 1; };
  const std::size_t batch = count(proposals.draft.offsets);
  const std::size_t targets = count(proposals.target.offsets);
  check_transfer_sizes(draft_probs, proposals, expansions, probs, cases.size(), batch, targets);
  const Sequences drafts = sequences(proposals.draft, batch, kTransfer, "draft_ids");
  const Sequences proxies = sequences(proposals.target, batch, kTransfer, "target_ids");
  max_tokens(drafts, kTransfer, "draft_ids");
  max_tokens(proxies, kTransfer, "target_ids");
  const std::size_t size = expansions.first.size();
  const DeviceOrigins device = device_origins(origins, probs.columns, size, kTransfer);
  const Grid grid = gather_grid(probs, sizeof(TransferShared), kTransfer);
  if (proposals.target.ids.empty()) return;

  const DeviceGuard guard(kTransfer, stream);
  const auto plans = Workspace(kTransfer, workspace).allocate<Plan>(probs.rows);
  const TransferArguments<Number> arguments{
      draft_probs,
      any_ids(proposals.draft.ids),
      drafts,
      device_table(proposals.draft_table),
      any_ids(proposals.target.ids),
      proxies,
      device_table(proposals.target_table),
      proposals.target_spans.data(),
      {any_ids(expansions.first), static_cast<std::int64_t>(size),
       expansions.expansion_offsets.data(), any_ids(expansions.expansion_ids),
       static_cast<std::int64_t>(expansions.expansion_ids.size())},
      device,
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
void restrict_to_shared(const Rows<const Number>& draft_probs, const Origins& origins,
                        const Rows<Number>& probs, std::span<std::byte> workspace, Stream stream) {
  check_restrict_rows(draft_probs.rows, probs.rows);
  const DeviceOrigins device =
      device_origins(origins, probs.columns, draft_probs.columns, kRestrict);
  const Grid grid = gather_grid(probs, sizeof(LongColumns), kRestrict);
  if (probs.rows == 0 || probs.columns == 0) return;
  const DeviceGuard guard(kRestrict, stream);
  const auto masses = Workspace(kRestrict, workspace).allocate<double>(probs.rows);
  const RestrictArguments<Number> arguments{draft_probs, device, probs, masses.data()};
  launch(kRestrict, shared_mass<Number>,
         {static_cast<unsigned>(probs.rows), 1, kMassThreads, sizeof(WarpPartials<double>)}, stream,
         arguments);
  launch(kRestrict, gather_shared<Number>, grid, stream, arguments);
}

#define TOKENTIMING_TRANSFER(Number, Id, MapId)                                         \
  template void transfer(const Rows<const Number>&, const Proposals<Id>&,               \
                         const Expansions<MapId>&, const Origins&, const Rows<Number>&, \
                         std::span<std::int8_t>, std::span<std::byte>, Stream)
#define TOKENTIMING_INSTANTIATE(Number)                                                            \
  TOKENTIMING_TRANSFER(Number, std::int32_t, std::int32_t);                                        \
  TOKENTIMING_TRANSFER(Number, std::int32_t, std::int64_t);                                        \
  TOKENTIMING_TRANSFER(Number, std::int64_t, std::int32_t);                                        \
  TOKENTIMING_TRANSFER(Number, std::int64_t, std::int64_t);                                        \
  template void restrict_to_shared(const Rows<const Number>&, const Origins&, const Rows<Number>&, \
                                   std::span<std::byte>, Stream)
TOKENTIMING_INSTANTIATE(float);
TOKENTIMING_INSTANTIATE(double);
#undef TOKENTIMING_INSTANTIATE
#undef TOKENTIMING_TRANSFER

}  // namespace tokentiming::cuda
