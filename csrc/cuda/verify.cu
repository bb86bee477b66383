#include <variant>

#include "device/launch.h"
#include "device/ragged.h"
#include "device/verify_draw.cuh"
#include "device/verify_greedy.cuh"
#include "device/verify_map.cuh"
#include "device/verify_sampled.cuh"
#include "tokentiming/verify.h"
#include "verify_checks.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kVerify = "verify";

// The division of a row into parts: whole batches each, as many as leave each multiprocessor some
// blocks, and at most four, so that most of a block's loads overlap its reductions.
int columns_per_part(std::size_t rows, std::size_t columns, std::size_t multiprocessors) {
  constexpr std::size_t kBlocksPerMultiprocessor = 4;
  constexpr std::size_t kMaxBatches = 4;
  const std::size_t batches = rows * ((columns + kColumnsBatch - 1) / kColumnsBatch);
  const std::size_t each = batches / (kBlocksPerMultiprocessor * multiprocessors);
  return kColumnsBatch * static_cast<int>(std::clamp<std::size_t>(each, 1, kMaxBatches));
}

// Tiles begin up to seven columns before the row.
std::size_t draw_tiles(std::size_t columns) {
  return (columns + kVectorSize - 1 + kDrawTile - 1) / kDrawTile;
}

void launch_blocks(void (*kernel)(VerifyArguments), unsigned threads, std::size_t shared_bytes,
                   std::size_t blocks, const VerifyArguments& arguments, Stream stream) {
  if (blocks > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    refuse(kVerify, "the batch takes " + std::to_string(blocks) +
                        " blocks on a GPU, which runs at most 2^31 - 1; split it");
  }
  launch(kVerify, kernel, {static_cast<unsigned>(blocks), 1, threads, shared_bytes}, stream,
         arguments);
}

// The size of the arrays that are zeroed, in words: stops, order, finished, finished_draws,
// row_flags.
std::size_t zeroed_words(std::size_t rows, std::size_t batch) { return 3 * rows + 4 * batch; }

// Rows that a block of the draw can read from an aligned address.
std::size_t dense_stride(std::size_t columns) {
  return (columns + kVectorSize - 1) / kVectorSize * kVectorSize;
}

template <class Id>
std::size_t dense_size(const Chains<Id>& chains, std::size_t batch) {
  return chains.draft_map ? batch * dense_stride(columns_of(chains.targets)) : 0;
}

// The most parts that the two rows of a position may have.
template <class Id>
std::size_t max_parts(const Chains<Id>& chains) {
  const auto parts = [](std::size_t columns) {
    return (columns + kColumnsBatch - 1) / kColumnsBatch;
  };
  return 1 + parts(columns_of(chains.targets)) +
         (chains.proposals ? parts(columns_of(*chains.proposals)) : 0);
}

template <class Id>
void allocate(VerifyArguments& arguments, const Chains<Id>& chains, std::size_t batch,
              std::span<std::byte> workspace, Stream stream) {
  const std::size_t rows = chains.draft.ids.size() + batch;
  Workspace memory(kVerify, workspace);
  const auto zeroed = memory.allocate<unsigned>(zeroed_words(rows, batch));
  arguments.stops = reinterpret_cast<Stop*>(zeroed.data());
  arguments.finished = zeroed.data() + 2 * batch;
  arguments.finished_draws = arguments.finished + rows;
  arguments.row_flags = arguments.finished_draws + batch;
  arguments.order = arguments.chains.offsets ? arguments.row_flags + batch : nullptr;
  zero(kVerify, zeroed, stream);
  arguments.partials = memory.allocate<double>(rows * 2 * max_parts(chains)).data();
  arguments.decisions = memory.allocate<Decision>(rows).data();
  const auto tiles = static_cast<std::size_t>(arguments.tiles);
  arguments.tile_sums = memory.allocate<double>(batch * 2 * tiles).data();
  arguments.dense_rows = memory.allocate<float>(dense_size(chains, batch)).data();
  arguments.dense_stride =
      static_cast<std::int64_t>(dense_stride(static_cast<std::size_t>(arguments.columns)));
  arguments.drawn_proposals = arguments.proposals;
  if (arguments.has_map) {
    arguments.drawn_proposals = {arguments.dense_rows, arguments.dense_stride, NumberType::kFloat,
                                 true, false};
  }
}

// The arguments as the kernels take them, without the division into parts.
template <class Id>
VerifyArguments device_arguments(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
                                 std::span<std::int32_t> accepted, std::size_t batch) {
  VerifyArguments arguments{};
  arguments.ids = any_ids(chains.draft.ids);
  arguments.chains = sequences(chains.draft, batch, kVerify, "draft_ids");
  arguments.batch = static_cast<int>(batch);
  arguments.items = static_cast<std::int64_t>(chains.draft.ids.size() + batch);
  arguments.targets = device_distributions(chains.targets, kVerify, target_name(chains.targets));
  arguments.columns = static_cast<int>(columns_of(chains.targets));
  if (chains.proposals) {
    arguments.proposals =
        device_distributions(*chains.proposals, kVerify, draft_name(*chains.proposals));
    arguments.proposal_rows = static_cast<std::int64_t>(rows_of(*chains.proposals));
    arguments.proposal_columns = static_cast<int>(columns_of(*chains.proposals));
  }
  if (chains.draft_rows) arguments.draft_rows = any_ids(*chains.draft_rows);
  if (chains.draft_map != nullptr) {
    const VocabularyMap& map = *chains.draft_map;
    arguments.has_map = true;
    arguments.inverse = device_inverse(map.first_inverse, "draft_map.first_inverse",
                                       columns_of(chains.targets), map.first.size(), kVerify);
    arguments.expansions = device_expansions(map);
  }
  arguments.greedy = chains.temperature == 0.0;
  arguments.scale = scale_at(chains.temperature);
  arguments.temperatures = chains.temperatures.empty() ? nullptr : chains.temperatures.data();
  arguments.uniforms = std::visit(
      [](const auto& uniforms) -> const void* { return uniforms.data(); }, chains.uniforms);
  arguments.uniforms_are_double = chains.uniforms.index() == 1;
  arguments.tokens = tokens.data;
  arguments.tokens_stride = tokens.stride;
  arguments.tokens_columns = static_cast<std::int64_t>(tokens.columns);
  arguments.accepted = accepted.data();
  return arguments;
}

// Divides the rows of logits among blocks. Rows of probabilities have no parts.
void divide(VerifyArguments& arguments, bool samples, Stream stream) {
  const auto rows = static_cast<std::size_t>(arguments.items);
  const auto columns = static_cast<std::size_t>(arguments.columns);
  const int each = columns_per_part(rows, columns, multiprocessors(kVerify, stream.device));
  const auto parts = [&](int width) { return (width - 1) / each + 1; };
  arguments.columns_per_part = each;
  if (arguments.targets.is_logits) arguments.target_parts = parts(arguments.columns);
  if (arguments.proposals.given && arguments.proposals.is_logits) {
    arguments.proposal_parts = parts(arguments.proposal_columns);
  }
  arguments.tiles = samples ? static_cast<int>(draw_tiles(columns)) : 1;
}

}  // namespace

template <class Id>
std::size_t verify_workspace(const Chains<Id>& chains, std::size_t batch) {
  const std::size_t rows = chains.draft.ids.size() + batch;
  return Workspace::size<unsigned>(zeroed_words(rows, batch)) +
         Workspace::size<double>(rows * 2 * max_parts(chains)) + Workspace::size<Decision>(rows) +
         Workspace::size<double>(batch * 2 * draw_tiles(columns_of(chains.targets))) +
         Workspace::size<float>(dense_size(chains, batch));
}

template <class Id>
void verify(const Chains<Id>& given, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted, std::span<std::byte> workspace, Stream stream) {
  require_cuda(kVerify);
  const auto& offsets = given.draft.offsets;
  const std::size_t batch = offsets.empty() ? tokens.rows : offsets.size() - 1;
  check_verify_sizes(given, batch, accepted.size());
  const Chains<Id> chains = without_padding(given);
  const Sequences draft = sequences(chains.draft, batch, kVerify, "draft_ids");
  const std::int64_t longest = draft.offsets ? 0 : draft.length;
  if (tokens.rows != batch ||
      (batch > 0 && tokens.columns < static_cast<std::size_t>(longest) + 1)) {
    refuse_tokens(batch, longest, tokens);
  }
  const auto require_width = [](const Distributions& distributions, const char* name) {
    if (columns_of(distributions) <= static_cast<std::size_t>(kMaxColumns)) return;
    refuse(kVerify, std::string(name) + " has more than 2^30 columns");
  };
  require_width(chains.targets, target_name(chains.targets));
  if (chains.proposals) require_width(*chains.proposals, draft_name(*chains.proposals));
  VerifyArguments arguments = device_arguments(chains, tokens, accepted, batch);
  if (batch == 0) return;

  const DeviceGuard guard(kVerify, stream);
  const bool each = !chains.temperatures.empty();
  const bool samples = each || chains.temperature > 0.0;
  divide(arguments, samples, stream);
  allocate(arguments, chains, batch, workspace, stream);
  const auto items = static_cast<std::size_t>(arguments.items);
  if (arguments.order != nullptr) {
    launch_blocks(order_positions, kOrderThreads, 0, batch, arguments, stream);
  }
  if (samples) {
    const auto parts = static_cast<std::size_t>(
        SampledPart::sampled_parts(arguments.target_parts, arguments.proposal_parts));
    launch_blocks(verify_sampled, kVerifyThreads, sizeof(SampledShared), items * parts, arguments,
                  stream);
  }
  if (each || !samples) {
    const auto parts = static_cast<std::size_t>(arguments.target_parts);
    launch_blocks(verify_greedy, kVerifyThreads, sizeof(GreedyShared), items * parts, arguments,
                  stream);
  }
  if (samples && arguments.has_map) {
    const Grid grid = gather_grid(batch, columns_of(chains.targets), sizeof(MapShared), kVerify);
    launch(kVerify, map_rejected_rows, grid, stream, arguments);
    if (arguments.draft_rows.data != nullptr) {
      launch_blocks(condition_rejected_rows, kWarp, 0, batch, arguments, stream);
    }
  }
  launch_blocks(draw_last_tokens, kDrawThreads, sizeof(DrawShared),
                batch * static_cast<std::size_t>(arguments.tiles), arguments, stream);
}

template std::size_t verify_workspace(const Chains<std::int32_t>&, std::size_t);
template std::size_t verify_workspace(const Chains<std::int64_t>&, std::size_t);
template void verify(const Chains<std::int32_t>&, const Rows<std::int32_t>&,
                     std::span<std::int32_t>, std::span<std::byte>, Stream);
template void verify(const Chains<std::int64_t>&, const Rows<std::int32_t>&,
                     std::span<std::int32_t>, std::span<std::byte>, Stream);

}  // namespace tokentiming::cuda
