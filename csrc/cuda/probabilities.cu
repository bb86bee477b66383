// Probabilities of rows of any type, in two kernels: one block per row reduces its logits, then
// blocks over the columns write.

#include "device/launch.h"
#include "device/softmax.cuh"
#include "probabilities_checks.h"
#include "tokentiming/probabilities.h"

namespace tokentiming::cuda {

struct ProbabilitiesArguments {
  DeviceDistributions rows;
  int columns;
  float scale;
  Rows<float> out;
  Normaliser* normalisers;  // of each row of logits
};

__global__ void __launch_bounds__(kColumnsThreads, 3)
    reduce_logits(const __grid_constant__ ProbabilitiesArguments a) {
  const ThreadSoftmax mine = a.rows.visit_row(blockIdx.x, [&](const auto* row) {
    ThreadSoftmax reduce{a.scale};
    for_each_vector(row, Columns{0, a.columns}, reduce);
    return reduce;
  });
  const SoftmaxState state =
      block_reduce(SoftmaxState{mine.maximum, static_cast<double>(mine.sum)},
                   shared_memory<WarpPartials<SoftmaxState>>(), MergeSoftmax{a.scale});
  if (threadIdx.x != 0) return;
  Normaliser norm;
  if (!state.normalise(norm)) norm.factor = NAN;
  a.normalisers[blockIdx.x] = norm;
}

__global__ void __launch_bounds__(kColumnsThreads)
    write_probabilities(const __grid_constant__ ProbabilitiesArguments a) {
  const int at =
      (static_cast<int>(blockIdx.y) * int{kColumnsThreads} + static_cast<int>(threadIdx.x)) *
      kVectorSize;
  if (at >= a.columns) return;
  const RawEntries raw = a.rows.load(blockIdx.x, at, a.columns);
  const Normaliser norm = a.rows.is_logits ? a.normalisers[blockIdx.x] : Normaliser{};
  float entries[kVectorSize];
  a.rows.widen_to(raw, entries);
  float* out = a.out[blockIdx.x];
#pragma unroll
  for (int k = 0; k < kVectorSize; ++k) {
    if (at + k < a.columns) out[at + k] = probability(a.rows, entries[k], norm, a.scale);
  }
}

// ---- host ----

std::size_t probabilities_workspace(std::size_t rows) { return Workspace::size<Normaliser>(rows); }

void probabilities(const Distributions& rows, double temperature, const Rows<float>& out,
                   const char* function, std::span<std::byte> workspace, Stream stream) {
  require_cuda(function);
  check_probabilities(rows, temperature, out.rows, out.columns, function);
  constexpr std::size_t kMaxTiles = 65535;
  const std::size_t tiles = (out.columns + kColumnsStep - 1) / kColumnsStep;
  if (tiles > kMaxTiles) refuse(function, "the draft's rows have more columns than a GPU takes");
  const DeviceDistributions given =
      device_distributions(rows, function, rows.is_logits ? "draft_logits" : "draft_probs");
  if (out.rows == 0 || out.columns == 0) return;
  const DeviceGuard guard(function, stream);
  const auto normalisers = Workspace(function, workspace).allocate<Normaliser>(out.rows);
  const ProbabilitiesArguments arguments{given, static_cast<int>(out.columns),
                                         scale_at(temperature), out, normalisers.data()};
  const auto blocks = static_cast<unsigned>(out.rows);
  if (rows.is_logits) {
    launch(function, reduce_logits,
           {blocks, 1, kColumnsThreads, sizeof(WarpPartials<SoftmaxState>)}, stream, arguments);
  }
  launch(function, write_probabilities, {blocks, static_cast<unsigned>(tiles), kColumnsThreads, 0},
         stream, arguments);
}

}  // namespace tokentiming::cuda
