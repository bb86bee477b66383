#include <variant>

#include "device/launch.h"
#include "device/ragged.h"
#include "device/verify_draw.cuh"
#include "device/verify_greedy.cuh"
#include "device/verify_sampled.cuh"
#include "tokentiming/verify.h"
#include "verify_checks.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kVerify = "verify";

DeviceDistributions device_distributions(const Distributions& distributions, const char* name) {
  return std::visit(
      [&]<class Number>(const Rows<const Number>& rows) -> DeviceDistributions {
        if constexpr (std::is_same_v<Number, double>) {
          refuse(kVerify, std::string(name) +
                              " are float64; CUDA kernels take float16, bfloat16 or "
                              "float32: use .float()");
        } else {
          const NumberType type = std::is_same_v<Number, Half>       ? NumberType::kHalf
                                  : std::is_same_v<Number, BFloat16> ? NumberType::kBFloat16
                                                                     : NumberType::kFloat;
          return {rows.data, rows.stride, type, true, distributions.is_logits};
        }
      },
      distributions.rows);
}

// The division of a row into parts: whole batches each, as many as leave each multiprocessor some
// blocks, and at most four, so that most of a block's loads overlap its reductions.
int columns_per_part(std::size_t rows, std::size_t columns, std::size_t multiprocessors) {
  constexpr std::size_t kBlocksPerMultiprocessor = 4;
  constexpr std::size_t kMaxBatches = 4;
  const std::size_t batches = rows * ((columns + kColumnsBatch - 1) / kColumnsBatch);
  const std::size_t each = batches / (kBlocksPerMultiprocessor * multiprocessors);
  return kColumnsBatch * static_cast<int>(std::clamp<std::size_t>(each, 1, kMaxBatches));
}

// The most parts that a row may have.
std::size_t max_parts(std::size_t columns) {
  return std::max<std::size_t>(1, (columns + kColumnsBatch - 1) / kColumnsBatch);
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

// The size of the arrays that are zeroed, in words: stops, order, finished, finished_draws.
std::size_t zeroed_words(std::size_t rows, std::size_t batch) { return 3 * rows + 3 * batch; }

void allocate(VerifyArguments& arguments, std::size_t rows, std::size_t batch,
              std::span<std::byte> workspace, Stream stream) {
  Workspace memory(kVerify, workspace);
  const auto zeroed = memory.allocate<unsigned>(zeroed_words(rows, batch));
  arguments.stops = reinterpret_cast<Stop*>(zeroed.data());
  arguments.finished = zeroed.data() + 2 * batch;
  arguments.finished_draws = arguments.finished + rows;
  arguments.order = arguments.chains.offsets ? arguments.finished_draws + batch : nullptr;
  zero(kVerify, zeroed, stream);
  const auto parts = static_cast<std::size_t>(arguments.parts);
  arguments.partials = memory.allocate<double>(rows * 4 * parts).data();
  arguments.decisions = memory.allocate<Decision>(rows).data();
  const auto tiles = static_cast<std::size_t>(arguments.tiles);
  arguments.tile_sums = memory.allocate<double>(batch * 2 * tiles).data();
}

}  // namespace

template <class Id>
std::size_t verify_workspace(const Chains<Id>& chains, std::size_t batch) {
  const std::size_t rows = chains.draft.ids.size() + batch;
  const std::size_t columns = columns_of(chains.targets);
  return Workspace::size<unsigned>(zeroed_words(rows, batch)) +
         Workspace::size<double>(rows * 4 * max_parts(columns)) + Workspace::size<Decision>(rows) +
         Workspace::size<double>(batch * 2 * draw_tiles(columns));
}

template <class Id>
void verify(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted, std::span<std::byte> workspace, Stream stream) {
  require_cuda(kVerify);
  const auto& offsets = chains.draft.offsets;
  const std::size_t batch = offsets.empty() ? tokens.rows : offsets.size() - 1;
  check_verify_sizes(chains, batch, accepted.size());
  const Sequences draft = sequences(chains.draft, batch, kVerify, "draft_ids");
  const std::int64_t longest = draft.offsets ? 0 : draft.length;
  if (tokens.rows != batch ||
      (batch > 0 && tokens.columns < static_cast<std::size_t>(longest) + 1)) {
    refuse_tokens(batch, longest, tokens);
  }
  if (columns_of(chains.targets) > static_cast<std::size_t>(kMaxColumns)) {
    refuse(kVerify, std::string(target_name(chains.targets)) + " has more than 2^30 columns");
  }
  if (batch == 0) return;

  constexpr double kLog2E = 1.44269504088896340736;
  constexpr auto kMaxScale = static_cast<double>(std::numeric_limits<float>::max());
  VerifyArguments arguments{};
  arguments.ids = any_ids(chains.draft.ids);
  arguments.chains = draft;
  arguments.targets = device_distributions(chains.targets, target_name(chains.targets));
  if (chains.proposals) {
    arguments.proposals = device_distributions(*chains.proposals, draft_name(*chains.proposals));
  }
  arguments.columns = static_cast<int>(columns_of(chains.targets));
  arguments.scale = static_cast<float>(std::min(kLog2E / chains.temperature, kMaxScale));
  arguments.uniforms = std::visit(
      [](const auto& uniforms) -> const void* { return uniforms.data(); }, chains.uniforms);
  arguments.uniforms_are_double = chains.uniforms.index() == 1;
  arguments.tokens = tokens.data;
  arguments.tokens_stride = tokens.stride;
  arguments.tokens_columns = static_cast<std::int64_t>(tokens.columns);
  arguments.accepted = accepted.data();

  const DeviceGuard guard(kVerify, stream);
  const std::size_t rows = chains.draft.ids.size() + batch;
  const auto columns = static_cast<std::size_t>(arguments.columns);
  const bool samples = chains.temperature > 0.0;
  arguments.batch = static_cast<int>(batch);
  arguments.items = static_cast<std::int64_t>(rows);
  arguments.columns_per_part =
      columns_per_part(rows, columns, multiprocessors(kVerify, stream.device));
  arguments.parts =
      static_cast<int>((columns + static_cast<std::size_t>(arguments.columns_per_part) - 1) /
                       static_cast<std::size_t>(arguments.columns_per_part));
  arguments.tiles = samples ? static_cast<int>(draw_tiles(columns)) : 1;
  allocate(arguments, rows, batch, workspace, stream);
  if (arguments.order != nullptr) {
    launch_blocks(order_positions, kOrderThreads, 0, batch, arguments, stream);
  }
  if (samples) {
    const auto parts = static_cast<std::size_t>(SampledPart::sampled_parts(arguments));
    launch_blocks(verify_sampled, kVerifyThreads, sizeof(SampledShared), rows * parts, arguments,
                  stream);
  } else {
    launch_blocks(verify_greedy, kVerifyThreads, sizeof(GreedyShared),
                  rows * static_cast<std::size_t>(arguments.parts), arguments, stream);
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
