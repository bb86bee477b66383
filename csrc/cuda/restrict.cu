// Distributions restricted to shared tokens, in two kernels: one block per row sums the shared
// mass, then blocks over the columns write the normalised row.

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

// Sums the mass on shared tokens, one row per block.
template <class Number>
__global__ void __launch_bounds__(kMassThreads)
    shared_mass(const __grid_constant__ RestrictArguments<Number> a) {
  Gatherer<Number> gatherer(a.inverse, a.draft_probs[blockIdx.x]);
  double mass = gatherer.thread_sum(kMassThreads);
  if (gatherer.flags() & kInvalid) mass = NAN;
  mass = block_reduce(mass, shared_memory<WarpPartials<double>>(), Sum{});
  if (threadIdx.x == 0) a.masses[blockIdx.x] = mass > 0.0 ? mass : NAN;
}

template <class Number>
__global__ void __launch_bounds__(kGatherThreads, kMinBlocksPerMultiprocessor<Number>)
    gather_shared(const __grid_constant__ RestrictArguments<Number> a) {
  const double mass = a.masses[blockIdx.x];
  Number* out = a.probs[blockIdx.x];
  gather_columns(a.inverse, a.draft_probs[blockIdx.x], static_cast<int>(a.probs.columns),
                 shared_memory<LongColumns>(), [&](int column, Number sum) {
                   out[column] = normalised(sum, mass);  // NaN if the mass is
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
  const Grid grid = gather_grid(probs, sizeof(LongColumns), kRestrict);
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
