#include <variant>

#include "device/launch.h"
#include "device/ragged.h"
#include "device/verify_greedy.cuh"
#include "device/verify_sampled.cuh"
#include "tokentiming/verify.h"
#include "verify_checks.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kVerify = "verify";

// A launch has at most so many blocks, or one per chain: more than any device runs at once.
constexpr std::size_t kMaxBlocks = 4096;

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

// The division of a row among the blocks of a chain.
struct RowPartition {
  std::size_t blocks_per_chain;
  std::size_t columns_per_block;
};

// Blocks of one chain wait for each other, so that all blocks of the launch must be resident. With
// one block per chain no block waits, and there may be more.
RowPartition partition_rows(std::size_t batch, std::size_t columns, std::size_t resident) {
  const auto tile = static_cast<std::size_t>(kVerifyTile);
  const std::size_t max_blocks = std::min(resident, kMaxBlocks) / batch;
  const std::size_t useful_blocks = std::min((columns + tile - 1) / tile, kMaxBlocksPerChain);
  const std::size_t blocks_per_chain = std::clamp<std::size_t>(max_blocks, 1, useful_blocks);
  const std::size_t columns_per_block = (columns + blocks_per_chain - 1) / blocks_per_chain;
  return {blocks_per_chain, (columns_per_block + kVectorSize - 1) / kVectorSize * kVectorSize};
}

void launch_kernel(void (*kernel)(VerifyArguments), std::size_t shared_bytes,
                   VerifyArguments arguments, std::size_t batch, std::span<std::byte> workspace,
                   Stream stream) {
  const std::size_t resident =
      max_resident_blocks(kVerify, kernel, kVerifyThreads, shared_bytes, stream.device);
  const RowPartition partition =
      partition_rows(batch, static_cast<std::size_t>(arguments.columns), resident);
  const std::size_t blocks = batch * partition.blocks_per_chain;
  const bool cooperative = partition.blocks_per_chain > 1;
  Workspace parts(kVerify, workspace);
  const auto barrier_counts = parts.allocate<unsigned>(batch);
  arguments.blocks_per_chain = static_cast<int>(partition.blocks_per_chain);
  arguments.columns_per_block = static_cast<int>(partition.columns_per_block);
  arguments.barrier_counts = barrier_counts.data();
  arguments.partials = parts.allocate<double>(blocks * 2 * kPartials).data();
  arguments.block_sums = parts.allocate<double>(blocks * 2).data();
  if (cooperative) zero(kVerify, barrier_counts, stream);
  launch(kVerify, kernel,
         {static_cast<unsigned>(blocks), 1, kVerifyThreads, shared_bytes, cooperative}, stream,
         arguments);
}

}  // namespace

std::size_t verify_workspace(std::size_t batch) {
  const std::size_t blocks = std::max(batch, kMaxBlocks);
  return Workspace::size<unsigned>(batch) + Workspace::size<double>(blocks * 2 * kPartials) +
         Workspace::size<double>(blocks * 2);
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
  if (chains.temperature > 0.0) {
    launch_kernel(verify_sampled, sizeof(SampledShared), arguments, batch, workspace, stream);
  } else {
    launch_kernel(verify_greedy, sizeof(GreedyShared), arguments, batch, workspace, stream);
  }
}

template void verify(const Chains<std::int32_t>&, const Rows<std::int32_t>&,
                     std::span<std::int32_t>, std::span<std::byte>, Stream);
template void verify(const Chains<std::int64_t>&, const Rows<std::int32_t>&,
                     std::span<std::int32_t>, std::span<std::byte>, Stream);

}  // namespace tokentiming::cuda
