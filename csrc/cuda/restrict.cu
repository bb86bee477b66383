// Distributions restricted to shared tokens, in two kernels: one block per row sums the shared
// mass, then blocks over the columns write several normalised rows each.

#include "device/gather.cuh"
#include "device/launch.h"
#include "device/reduce.cuh"
#include "tokentiming/transfer.h"
#include "transfer_checks.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kRestrict = "restrict";

}  // namespace

template <class Number>
struct RestrictArguments {
  Rows<const Number> draft_probs;
  DeviceInverseMap inverse;
  Rows<Number> probs;
  double* masses;  // of each row; NaN if it has no distribution
};

inline constexpr unsigned kMassThreads = 1024;

// Sums the mass on shared tokens, one row per block, in no fixed order.
template <class Number>
__global__ void __launch_bounds__(kMassThreads)
    shared_mass(const __grid_constant__ RestrictArguments<Number> a) {
  constexpr int kLoadsInFlight = 4;
  const ProbabilityRow<Number> rows[] = {{a.draft_probs[blockIdx.x]}};
  Gatherer<ProbabilityRow<Number>, 1> gatherer(a.inverse, rows);
  double mass = 0.0;
  for (int k = static_cast<int>(threadIdx.x); k < a.inverse.count;
       k += kLoadsInFlight * int{kMassThreads}) {
    std::int32_t ids[kLoadsInFlight];
    Number mine[kLoadsInFlight][1];
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) {
      const int at = k + u * int{kMassThreads};
      ids[u] = gatherer.draft_id(at < a.inverse.count ? at : -1);
    }
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) gatherer.read(ids[u], mine[u]);
#pragma unroll
    for (int u = 0; u < kLoadsInFlight; ++u) {
      gatherer.add_flags(mine[u]);
      mass += static_cast<double>(mine[u][0]);
    }
  }
  if (gatherer.flags() & kInvalid) mass = NAN;
  mass = block_reduce(mass, shared_memory<WarpPartials<double>>(), Sum{});
  if (threadIdx.x == 0) a.masses[blockIdx.x] = mass > 0.0 ? mass : NAN;
}

template <class Number>
__global__ void __launch_bounds__(kGatherThreads, kMinBlocksPerMultiprocessor)
    gather_shared(const __grid_constant__ RestrictArguments<Number> a) {
  constexpr int kRows = kRowsPerGroup<Number>;
  const std::size_t first = std::size_t{blockIdx.x} * kRows;
  const std::size_t left = a.probs.rows - first;
  const int count = left < kRows ? static_cast<int>(left) : kRows;
  gather_group<Number>(
      a.inverse, count,
      [&](int r) {
        return ProbabilityRow<Number>{a.draft_probs[first + static_cast<std::size_t>(r)]};
      },
      static_cast<int>(a.probs.columns), shared_memory<LongColumns>(),
      [&](int r, int column, Number sum) {
        const std::size_t row = first + static_cast<std::size_t>(r);
        a.probs[row][column] = normalised(sum, a.masses[row]);  // NaN if the mass is
      });
}

// ---- host ----

std::size_t restrict_workspace(std::size_t rows) { return Workspace::size<double>(rows); }

template <class Number>
void restrict_to_shared(const Rows<const Number>& draft_probs, const VocabularyMap& map,
                        const Rows<Number>& probs, std::span<std::byte> workspace, Stream stream) {
  require_cuda(kRestrict);
  check_restrict_sizes(draft_probs, map.exact.size(), probs);
  const DeviceInverseMap inverse = device_inverse(map.exact_inverse, "exact_inverse", probs.columns,
                                                  map.exact.size(), kRestrict);
  constexpr std::size_t kRows = kRowsPerGroup<Number>;
  const Grid grid =
      gather_grid((probs.rows + kRows - 1) / kRows, probs.columns, sizeof(LongColumns), kRestrict);
  if (probs.rows == 0 || probs.columns == 0) return;
  const DeviceGuard guard(kRestrict, stream);
  const auto masses = Workspace(kRestrict, workspace).allocate<double>(probs.rows);
  const RestrictArguments<Number> arguments{draft_probs, inverse, probs, masses.data()};
  launch(kRestrict, shared_mass<Number>,
         {static_cast<unsigned>(probs.rows), 1, kMassThreads, sizeof(WarpPartials<double>)}, stream,
         arguments);
  launch(kRestrict, gather_shared<Number>, grid, stream, arguments);
}

template void restrict_to_shared(const Rows<const float>&, const VocabularyMap&, const Rows<float>&,
                                 std::span<std::byte>, Stream);
template void restrict_to_shared(const Rows<const double>&, const VocabularyMap&,
                                 const Rows<double>&, std::span<std::byte>, Stream);

}  // namespace tokentiming::cuda
