// Transfer of draft distributions along an alignment, in three kernels. In the first, one warp per
// sequence plans the source of each proxy token's distribution. In the second, blocks over the
// columns write several rows each. In the third, one warp per row completes the entries that depend
// on the whole row.

#include "device/expansions.cuh"
#include "device/launch.h"
#include "device/ragged.h"
#include "device/reduce.cuh"
#include "device/tokens.cuh"
#include "tokentiming/transfer.h"
#include "transfer_checks.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kTransfer = "transfer";

}  // namespace

// The source of a proxy token's distribution.
struct Plan {
  std::int64_t row;     // of draft_probs; an index, because loads from a pointer that is itself
                        // loaded are of unknown memory
  std::int64_t proxy;   // the token
  std::int64_t source;  // kMerge: the token that mass is taken from, or -1
  double moved;         // kMerge: the mass
  std::int64_t first;   // kInside: the index of the first proxy token taken from the draft token
  int kind;             // a TransferCase plus 1; 0: the sequence is invalid
  unsigned flags;       // RowFlags of the draft row
};

template <class Number>
struct TransferArguments {
  Rows<const Number> draft_probs;
  AnyIds draft_ids;
  Sequences drafts;
  DeviceTable draft_table;
  AnyIds target_ids;
  Sequences targets;
  DeviceTable target_table;
  const std::int32_t* target_spans;
  DeviceExpansions expansions;
  DeviceInverseMap inverse;
  Rows<Number> probs;
  std::int8_t* cases;
  Plan* plans;  // one per proxy token, initially zero
};

constexpr int plan_kind(TransferCase kind) { return static_cast<int>(kind) + 1; }

// ---- the first kernel: plans ----

struct PlanShared {
  // Byte offsets of the tokens, and of the end of the last.
  std::int64_t draft_starts[kMaxTokens + 1];
  std::int64_t target_starts[kMaxTokens + 1];
};

template <class Number>
class Planner {
 public:
  __device__ Planner(const TransferArguments<Number>& a, PlanShared& shared)
      : a_(a), shared_(shared), lane_(static_cast<std::int64_t>(threadIdx.x)) {}

  __device__ void run() {
    const std::int64_t b = blockIdx.x;
    if (!a_.drafts.is_valid(b) || !a_.targets.is_valid(b)) return;
    first_row_ = a_.drafts.begin(b);
    drafted_ = a_.drafts.end(b) - first_row_;
    first_proxy_ = a_.targets.begin(b);
    proxies_ = a_.targets.end(b) - first_proxy_;
    if (drafted_ > kMaxTokens || proxies_ > kMaxTokens) return;

    bool valid = compute_starts(a_.draft_ids, a_.draft_table, a_.expansions.size, first_row_,
                                drafted_, shared_.draft_starts);
    valid &=
        compute_starts(a_.target_ids, a_.target_table, static_cast<std::int64_t>(a_.probs.columns),
                       first_proxy_, proxies_, shared_.target_starts);
    for (std::int64_t j = lane_; j < proxies_; j += kWarp) {
      valid &= 0 <= lo(j) && lo(j) <= hi(j) && hi(j) <= drafted_;
    }
    if (__any_sync(kAllLanes, !valid)) return;
    __syncwarp();
    for (std::int64_t j = lane_; j < proxies_; j += kWarp) a_.plans[first_proxy_ + j] = plan(j);
  }

 private:
  __device__ std::int64_t lo(std::int64_t j) const {
    return a_.target_spans[2 * (first_proxy_ + j)];
  }
  __device__ std::int64_t hi(std::int64_t j) const {
    return a_.target_spans[2 * (first_proxy_ + j) + 1];
  }
  __device__ std::int64_t draft(std::int64_t i) const { return a_.draft_ids[first_row_ + i]; }

  // Writes the byte offset of each token; false if a token is out of range.
  __device__ bool compute_starts(const AnyIds& ids, const DeviceTable& table, std::int64_t limit,
                                 std::int64_t begin, std::int64_t count,
                                 std::int64_t* starts) const {
    bool valid = true;
    std::int64_t prefix = 0;
    for (std::int64_t k = 0; k < count; k += kWarp) {
      std::int64_t size = 0;
      if (k + lane_ < count) {
        const std::int64_t id = ids[begin + k + lane_];
        const DeviceBytes token = table[id < limit ? id : -1];
        valid &= token.size >= 0;
        size = token.size;
      }
      std::int64_t inclusive = size;
#pragma unroll
      for (unsigned distance = 1; distance < kWarp; distance *= 2) {
        const std::int64_t neighbour = __shfl_up_sync(kAllLanes, inclusive, distance);
        if (lane_ >= distance) inclusive += neighbour;
      }
      if (k + lane_ < count) starts[k + lane_ + 1] = prefix + inclusive;
      prefix += __shfl_sync(kAllLanes, inclusive, kWarp - 1);
    }
    if (lane_ == 0) starts[0] = 0;
    return valid;
  }

  __device__ TransferCase transfer_case(std::int64_t j) const {
    const std::int64_t count = hi(j) - lo(j);
    if (count == 0) return TransferCase::kPointMass;
    const std::int64_t start = shared_.target_starts[j];
    const std::int64_t end = shared_.target_starts[j + 1];
    const std::int64_t draft_start = shared_.draft_starts[lo(j)];
    const std::int64_t draft_end = shared_.draft_starts[hi(j)];
    const bool empty = start == end;
    if (count == 1) {
      if (start < draft_start || end > draft_end) return TransferCase::kPointMass;
      if (empty && draft_start < draft_end) return TransferCase::kPointMass;
      return start == draft_start ? TransferCase::kWithin : TransferCase::kInside;
    }
    const bool covers = start == draft_start && end == draft_end && !empty;
    return covers ? TransferCase::kMerge : TransferCase::kPointMass;
  }

  __device__ Plan plan(std::int64_t j) const {
    TransferCase kind = transfer_case(j);
    Plan plan{first_row_ + lo(j), a_.target_ids[first_proxy_ + j], -1, 0.0, -1, 0, kNoFlags};
    if (kind == TransferCase::kMerge) {
      plan.source = a_.expansions.first[draft(lo(j))];
      plan.moved = 1.0;
      for (std::int64_t i = lo(j); i < hi(j); ++i) {
        const auto row = a_.draft_probs[static_cast<std::size_t>(first_row_ + i)];
        plan.moved *= static_cast<double>(row[draft(i)]);
      }
      const bool placed =
          -1 <= plan.source && plan.source < static_cast<std::int64_t>(a_.probs.columns);
      if (!placed || !is_probability(plan.moved)) plan.flags = kInvalid;
      if (plan.source < 0 && plan.moved > 0.0) plan.flags |= kHasMass;
    }
    if (kind == TransferCase::kInside) {
      // The proxy tokens taken from the draft token before j start at its byte offset.
      std::int64_t begin = j;
      while (begin > 0 && shared_.target_starts[begin] > shared_.draft_starts[lo(j)]) --begin;
      plan.first = first_proxy_ + begin;
      if (shared_.target_starts[begin] != shared_.draft_starts[lo(j)]) {
        kind = TransferCase::kPointMass;
      }
    }
    plan.kind = plan_kind(kind);
    return plan;
  }

  const TransferArguments<Number>& a_;
  PlanShared& shared_;
  std::int64_t lane_;
  std::int64_t first_row_ = 0;
  std::int64_t drafted_ = 0;
  std::int64_t first_proxy_ = 0;
  std::int64_t proxies_ = 0;
};

template <class Number>
__global__ void __launch_bounds__(kWarp)
    plan_transfer(const __grid_constant__ TransferArguments<Number> a) {
  Planner<Number>(a, shared_memory<PlanShared>()).run();
}

// ---- the second kernel: rows ----

struct TransferShared {
  LongColumns long_columns;
  WarpPartials<unsigned> partials;
  int gathered[kWarp];  // the rows of the group that are sums over the map
  int count;
};

template <class Number>
__global__ void __launch_bounds__(kGatherThreads, kMinBlocksPerMultiprocessor)
    gather_rows(const __grid_constant__ TransferArguments<Number> a) {
  auto& shared = shared_memory<TransferShared>();
  constexpr int kRows = kRowsPerGroup<Number>;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const auto columns = static_cast<int>(a.probs.columns);
  const auto row_of = [&](int r) { return a.probs[static_cast<std::size_t>(first + r)]; };
  if (threadIdx.x == 0) {
    shared.count = 0;
    for (int r = 0; r < kRows && first + r < static_cast<std::int64_t>(a.probs.rows); ++r) {
      const int kind = a.plans[first + r].kind;
      const bool gathers =
          kind == plan_kind(TransferCase::kWithin) || kind == plan_kind(TransferCase::kMerge);
      if (gathers) shared.gathered[shared.count++] = r;
    }
  }
  __syncthreads();
  const int count = shared.count;
  int next = 0;
  for (int r = 0; r < kRows && first + r < static_cast<std::int64_t>(a.probs.rows); ++r) {
    if (next < count && shared.gathered[next] == r) {
      ++next;
    } else {
      clear_columns(row_of(r), columns);
    }
  }
  if (count == 0) return;
  const unsigned mine = gather_group<Number>(
      a.inverse, count,
      [&](int k) {
        const Plan& plan = a.plans[first + shared.gathered[k]];
        return ProbabilityRow<Number>{a.draft_probs[static_cast<std::size_t>(plan.row)]};
      },
      columns, shared.long_columns,
      [&](int k, int column, Number sum) { row_of(shared.gathered[k])[column] = sum; });
  const unsigned flags = block_reduce(mine, shared.partials, BitOr{});
  const auto k = static_cast<int>(threadIdx.x);
  if (k < count && (flags >> 2 * k & 3) != 0) {
    atomicOr(&a.plans[first + shared.gathered[k]].flags, flags >> 2 * k & 3);
  }
}

// ---- the third kernel: what depends on a whole row ----

// Completes a row. Called by one warp.
template <class Number>
class RowFinisher {
 public:
  __device__ RowFinisher(const TransferArguments<Number>& a, std::int64_t proxy)
      : a_(a),
        proxy_(proxy),
        plan_(a.plans[proxy]),
        out_(a.probs[static_cast<std::size_t>(proxy)]),
        lane_(threadIdx.x % kWarp) {}

  __device__ void run() {
    unsigned flags = plan_.flags;
    if (plan_.kind == plan_kind(TransferCase::kInside)) flags = inside();
    if (plan_.kind == 0 || (flags & kInvalid)) return clear();
    if (lane_ != 0) return;
    const bool has_mass = plan_.kind != plan_kind(TransferCase::kPointMass) && (flags & kHasMass);
    if (!has_mass) {
      out_[plan_.proxy] = 1;
    } else if (plan_.kind == plan_kind(TransferCase::kMerge)) {
      merge();
    }
    a_.cases[proxy_] = static_cast<std::int8_t>(has_mass ? plan_.kind - 1 : 0);
  }

 private:
  // Marks an invalid row.
  __device__ void clear() {
    for (std::size_t t = lane_; t < a_.probs.columns; t += kWarp) out_[t] = 0;
    if (lane_ == 0) a_.cases[proxy_] = -1;
  }

  __device__ void merge() {
    const auto moved = static_cast<Number>(plan_.moved);
    if (plan_.source >= 0) {
      const Number left = out_[plan_.source] - moved;
      out_[plan_.source] = left > 0 ? left : Number{0};
    }
    out_[plan_.proxy] += moved;
  }

  __device__ unsigned inside() {
    const ProbabilityRow<Number> row{a_.draft_probs[static_cast<std::size_t>(plan_.row)]};
    const TakenTokens taken{a_.target_ids, plan_.first, proxy_ - plan_.first};
    return ConditionedRow(a_.inverse, a_.expansions, static_cast<std::int64_t>(a_.probs.columns),
                          taken, row)
        .write(out_);
  }

  const TransferArguments<Number>& a_;
  std::int64_t proxy_;
  Plan plan_;
  Number* out_;
  unsigned lane_;
};

template <class Number>
__global__ void __launch_bounds__(kWarp)
    finish_rows(const __grid_constant__ TransferArguments<Number> a) {
  RowFinisher<Number>(a, blockIdx.x).run();
}

// ---- host ----

std::size_t transfer_workspace(std::size_t proxies) { return Workspace::size<Plan>(proxies); }

template <class Number, class Id>
void transfer(const Rows<const Number>& draft_probs, const Ragged<Id>& draft,
              const Ragged<Id>& target, std::span<const std::int32_t> target_spans,
              const ByteTable& draft_table, const ByteTable& target_table, const VocabularyMap& map,
              const Rows<Number>& probs, std::span<std::int8_t> cases,
              std::span<std::byte> workspace, Stream stream) {
  require_cuda(kTransfer);
  const auto count = [](const auto& offsets) { return offsets.empty() ? 1 : offsets.size() - 1; };
  const std::size_t batch = count(draft.offsets);
  check_transfer_sizes(draft_probs, draft.ids.size(), target.ids.size(), target_spans.size(), map,
                       probs, cases.size(), batch, count(target.offsets));
  const Sequences drafts = sequences(draft, batch, kTransfer, "draft_ids");
  const Sequences proxies = sequences(target, batch, kTransfer, "target_ids");
  max_tokens(drafts, kTransfer, "draft_ids");
  max_tokens(proxies, kTransfer, "target_ids");
  const std::size_t size = map.first.size();
  const DeviceInverseMap inverse =
      device_inverse(map.first_inverse, "first_inverse", probs.columns, size, kTransfer);
  constexpr std::size_t kRows = kRowsPerGroup<Number>;
  const Grid grid = gather_grid((probs.rows + kRows - 1) / kRows, probs.columns,
                                sizeof(TransferShared), kTransfer);
  if (target.ids.empty()) return;

  const DeviceGuard guard(kTransfer, stream);
  const auto plans = Workspace(kTransfer, workspace).allocate<Plan>(probs.rows);
  const TransferArguments<Number> arguments{draft_probs,
                                            any_ids(draft.ids),
                                            drafts,
                                            device_table(draft_table),
                                            any_ids(target.ids),
                                            proxies,
                                            device_table(target_table),
                                            target_spans.data(),
                                            device_expansions(map),
                                            inverse,
                                            probs,
                                            cases.data(),
                                            plans.data()};
  zero(kTransfer, plans, stream);
  if (batch > 0) {
    launch(kTransfer, plan_transfer<Number>,
           {static_cast<unsigned>(batch), 1, kWarp, sizeof(PlanShared)}, stream, arguments);
  }
  launch(kTransfer, gather_rows<Number>, grid, stream, arguments);
  launch(kTransfer, finish_rows<Number>, {static_cast<unsigned>(probs.rows), 1, kWarp, 0}, stream,
         arguments);
}

#define TOKENTIMING_TRANSFER(Number, Id)                                                    \
  template void transfer(const Rows<const Number>&, const Ragged<Id>&, const Ragged<Id>&,   \
                         std::span<const std::int32_t>, const ByteTable&, const ByteTable&, \
                         const VocabularyMap&, const Rows<Number>&, std::span<std::int8_t>, \
                         std::span<std::byte>, Stream)
TOKENTIMING_TRANSFER(float, std::int32_t);
TOKENTIMING_TRANSFER(float, std::int64_t);
TOKENTIMING_TRANSFER(double, std::int32_t);
TOKENTIMING_TRANSFER(double, std::int64_t);
#undef TOKENTIMING_TRANSFER

}  // namespace tokentiming::cuda
