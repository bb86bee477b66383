#include <variant>

#include "greedy.cuh"
#include "launch.h"
#include "sides.h"
#include "verify.cuh"

namespace tokentiming::cuda {
namespace {

constexpr const char* kVerify = "verify";

// Of one launch, unless there are more chains: more than any device runs at once.
constexpr std::size_t kMostBlocks = 4096;

DeviceDistributions borrowed(const Distributions& distributions, const char* name) {
  return std::visit(
      [&]<class Number>(const Rows<const Number>& rows) -> DeviceDistributions {
        if constexpr (std::is_same_v<Number, double>) {
          refuse(kVerify, std::string(name) +
                              " are float64; CUDA kernels take float16, bfloat16 or "
                              "float32: use .float()");
        } else {
          const Form form = std::is_same_v<Number, Half>       ? Form::kHalf
                            : std::is_same_v<Number, BFloat16> ? Form::kBFloat16
                                                               : Form::kFloat;
          return {rows.data, rows.stride, form, true,
                  distributions.statement == Statement::kLogits};
        }
      },
      distributions.rows);
}

// Divides rows among blocks so that all run at once; blocks that must not wait may be more.
struct Division {
  std::size_t slices;
  std::size_t slice;
};

Division divide(std::size_t batch, std::size_t columns, std::size_t resident) {
  const auto step = static_cast<std::size_t>(kVerifyStep);
  const std::size_t most = std::min(resident, kMostBlocks) / batch;
  const std::size_t useful = std::min((columns + step - 1) / step, kMostSlices);
  const std::size_t slices = std::clamp<std::size_t>(most, 1, useful);
  const std::size_t slice = (columns + slices - 1) / slices;
  return {slices, (slice + kEntries - 1) / kEntries * kEntries};
}

void run(void (*kernel)(VerifyArguments), std::size_t shared_bytes, VerifyArguments arguments,
         std::size_t batch, std::span<std::byte> workspace, Stream stream) {
  const std::size_t resident =
      resident_blocks(kVerify, kernel, kVerifyThreads, shared_bytes, stream.device);
  const Division division = divide(batch, static_cast<std::size_t>(arguments.columns), resident);
  const std::size_t blocks = batch * division.slices;
  Workspace parts(kVerify, workspace);
  const auto arrivals = parts.take<unsigned>(batch);
  arguments.slices = static_cast<int>(division.slices);
  arguments.slice = static_cast<int>(division.slice);
  arguments.arrivals = arrivals.data();
  arguments.findings = parts.take<double>(blocks * 2 * kFindings).data();
  arguments.masses = parts.take<double>(blocks * 2).data();
  if (division.slices > 1) zero(kVerify, arrivals, stream);
  launch(kVerify, kernel,
         {static_cast<unsigned>(blocks), 1, kVerifyThreads, shared_bytes, division.slices > 1},
         stream, arguments);
}

}  // namespace

std::size_t verify_workspace(std::size_t batch) {
  const std::size_t blocks = std::max(batch, kMostBlocks);
  return Workspace::size<unsigned>(batch) + Workspace::size<double>(blocks * 2 * kFindings) +
         Workspace::size<double>(blocks * 2);
}

template <class Id>
void verify(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted, std::span<std::byte> workspace, Stream stream) {
  const auto& offsets = chains.draft.offsets;
  const std::size_t batch = offsets.empty() ? tokens.rows : offsets.size() - 1;
  check_verify_sizes(chains, batch, accepted.size());
  const Sequences draft = sequences(chains.draft, batch, kVerify, "draft_ids");
  const std::int64_t longest = draft.offsets ? 0 : draft.length;
  if (tokens.rows != batch ||
      (batch > 0 && tokens.columns < static_cast<std::size_t>(longest) + 1)) {
    refuse_tokens(batch, longest, tokens);
  }
  if (columns_of(chains.targets) > static_cast<std::size_t>(kMostColumns)) {
    refuse(kVerify, std::string(target_name(chains.targets)) + " has more than 2^30 columns");
  }
  if (batch == 0) return;

  constexpr double kLog2E = 1.44269504088896340736;
  constexpr auto kMost = static_cast<double>(std::numeric_limits<float>::max());
  VerifyArguments arguments{};
  arguments.ids = any_ids(chains.draft.ids);
  arguments.chains = draft;
  arguments.targets = borrowed(chains.targets, target_name(chains.targets));
  if (chains.proposals) {
    arguments.proposals = borrowed(*chains.proposals, draft_name(*chains.proposals));
  }
  arguments.columns = static_cast<int>(columns_of(chains.targets));
  arguments.scale = static_cast<float>(std::min(kLog2E / chains.temperature, kMost));
  arguments.uniforms = std::visit(
      [](const auto& uniforms) -> const void* { return uniforms.data(); }, chains.uniforms);
  arguments.wide_uniforms = chains.uniforms.index() == 1;
  arguments.tokens = tokens.data;
  arguments.tokens_stride = tokens.stride;
  arguments.tokens_columns = static_cast<std::int64_t>(tokens.columns);
  arguments.accepted = accepted.data();

  const OnDevice on_device(kVerify, stream);
  if (chains.temperature > 0.0) {
    run(verify_sampled, sizeof(VerifyShared), arguments, batch, workspace, stream);
  } else {
    run(verify_greedy, sizeof(GreedyShared), arguments, batch, workspace, stream);
  }
}

template void verify(const Chains<std::int32_t>&, const Rows<std::int32_t>&,
                     std::span<std::int32_t>, std::span<std::byte>, Stream);
template void verify(const Chains<std::int64_t>&, const Rows<std::int32_t>&,
                     std::span<std::int32_t>, std::span<std::byte>, Stream);

}  // namespace tokentiming::cuda
