// Banded dynamic time warping, one block for each pair of sequences. The warps take the cells of
// the matrix in turn and compute their Levenshtein distances; then one warp computes the costs
// C[i, j] along anti-diagonals and traces the path back. i runs over draft tokens, j over target
// tokens.

#include "align_checks.h"
#include "device/launch.h"
#include "device/levenshtein.cuh"
#include "device/ragged.h"
#include "device/reduce.cuh"
#include "device/tokens.cuh"
#include "tokentiming/align.h"

namespace tokentiming::cuda {
namespace {

constexpr const char* kAlign = "align";

}  // namespace

static_assert(kMaxTokenBytes <= kMaxWarpPatternBytes);

struct AlignSide {
  AnyIds ids;
  Sequences sequences;
  DeviceTable table;
};

struct AlignArguments {
  AlignSide draft;
  AlignSide target;
  std::int64_t band;
  std::int32_t* target_spans;
  std::int64_t* costs;
};

// One thread loads each token of both sides.
inline constexpr int kAlignThreads = 2 * kMaxTokens;

// The size of an invalid token: more than all bytes of a valid pair.
inline constexpr int kInvalidBytes = 1 << 20;
static_assert(kAlignThreads * kMaxTokenBytes < kInvalidBytes);

// The tokens of a pair are copied to shared memory if they have at most so many bytes in all.
inline constexpr int kStagedBytes = 2048;

// A cell of the matrix: the distance in the lower bits, and above them the last step of the path.
using Cell = std::uint16_t;
inline constexpr int kStepShift = 14;
static_assert(kMaxTokenBytes < 1 << kStepShift);
enum Step : int { kDiagonalStep, kDraftStep, kTargetStep };

struct AlignShared {
  DeviceBytes draft[kMaxTokens];
  DeviceBytes target[kMaxTokens];
  WarpPartials<int> bytes;
  WarpPartials<int> scan;
  // C along the last row of a group of 32 rows, for the group below. Two groups alternate.
  int last_row[2][kMaxTokens];
  std::uint8_t staged[kStagedBytes];
  // K * M cells follow.
};

class PairAligner {
 public:
  __device__ PairAligner(const AlignArguments& a, AlignShared& shared)
      : a_(a),
        shared_(shared),
        cells_(reinterpret_cast<Cell*>(&shared + 1)),
        b_(blockIdx.x),
        thread_(static_cast<int>(threadIdx.x)),
        lane_(static_cast<int>(threadIdx.x % kWarp)) {}

  __device__ void run() {
    if (!a_.target.sequences.is_valid(b_)) return write_cost(-1);
    const std::int64_t M = length(a_.target);
    if (!a_.draft.sequences.is_valid(b_)) return write_invalid(M);
    const std::int64_t K = length(a_.draft);
    if (K == 0 && M == 0) return write_cost(0);
    if (K == 0 || M == 0 || K > kMaxTokens || M > kMaxTokens) return write_invalid(M);
    K_ = static_cast<int>(K);
    M_ = static_cast<int>(M);
    const int longer = K_ > M_ ? K_ : M_;
    const int difference = K_ > M_ ? K_ - M_ : M_ - K_;
    radius_ = a_.band < longer ? static_cast<int>(a_.band) : longer;
    if (radius_ < difference) radius_ = difference;

    if (!load_tokens()) return write_invalid(M);
    compute_distances();
    if (thread_ != lane_) return;
    const int cost = compute_costs();
    if (lane_ == 0) trace_back();
    write_cost(cost);
  }

 private:
  __device__ std::int64_t length(const AlignSide& side) const {
    return side.sequences.end(b_) - side.sequences.begin(b_);
  }
  __device__ void write_cost(std::int64_t cost) const {
    if (thread_ == 0) a_.costs[b_] = cost;
  }
  __device__ void write_invalid(std::int64_t M) const {
    std::int32_t* spans = a_.target_spans + 2 * a_.target.sequences.begin(b_);
    for (std::int64_t k = thread_; k < 2 * M; k += kAlignThreads) spans[k] = -1;
    write_cost(-1);
  }
  __device__ bool in_band(int i, int j) const { return i - j <= radius_ && j - i <= radius_; }

  // Loads all tokens of the pair; false if one of them is invalid.
  __device__ bool load_tokens() {
    const bool is_draft = thread_ < kMaxTokens;
    const int k = thread_ % static_cast<int>(kMaxTokens);
    const bool active = k < (is_draft ? K_ : M_);
    DeviceBytes token{nullptr, 0};
    if (active) token = is_draft ? load_token(a_.draft, k) : load_token(a_.target, k);
    const bool valid = token.size >= 0 && token.size <= kMaxTokenBytes;
    const int size = valid ? static_cast<int>(token.size) : kInvalidBytes;
    const int bytes = block_reduce(size, shared_.bytes, Sum{});
    if (bytes >= kInvalidBytes) return false;
    if (bytes <= kStagedBytes) token.data = stage(token, block_exclusive_sum(size, shared_.scan));
    if (active) (is_draft ? shared_.draft : shared_.target)[k] = token;
    __syncthreads();
    return true;
  }
  __device__ DeviceBytes load_token(const AlignSide& side, int k) const {
    return side.table[side.ids[side.sequences.begin(b_) + k]];
  }

  // Copies a token's bytes to shared memory, at an offset.
  __device__ const std::uint8_t* stage(const DeviceBytes& token, int offset) {
    std::uint8_t* const to = shared_.staged + offset;
    const std::uint8_t* const from = token.data;
#pragma unroll 4
    for (int r = 0; r < static_cast<int>(token.size); ++r) to[r] = __ldg(from + r);
    return to;
  }

  // Writes the distances of all cells in the band. A lane computes the distance of its cell alone;
  // cells of two long tokens are computed by the whole warp, one after another.
  __device__ void compute_distances() {
    const int count = K_ * M_;
    for (int first = thread_ - lane_; first < count; first += kAlignThreads) {
      const int cell = first + lane_;
      const int i = cell / M_;
      const int j = cell % M_;
      const bool active = cell < count && in_band(i, j);
      const bool by_lane = active && fits_lane(shared_.draft[i], shared_.target[j]);
      if (by_lane) {
        cells_[cell] = static_cast<Cell>(lane_distance(shared_.draft[i], shared_.target[j]));
      }
      unsigned by_warp = __ballot_sync(kAllLanes, active && !by_lane);
      while (by_warp != 0) {
        const int warp_cell = first + __ffs(by_warp) - 1;
        by_warp &= by_warp - 1;
        const int distance =
            warp_distance(shared_.draft[warp_cell / M_], shared_.target[warp_cell % M_]);
        if (lane_ == 0) cells_[warp_cell] = static_cast<Cell>(distance);
      }
    }
    __syncthreads();
  }

  // Computes C along its anti-diagonals, 32 rows at a time with one lane per row, each lane one
  // column behind the lane above. Stores the steps in the cells; returns C[K - 1, M - 1].
  __device__ int compute_costs() {
    constexpr int kUnreachable = 1 << 29;
    int left = kUnreachable;  // C[i, j - 1], then C[i, j]
    for (int first = 0; first < K_; first += static_cast<int>(kWarp)) {
      const int i = first + lane_;
      const int* row_above = shared_.last_row[(first / kWarp + 1) % 2];
      int* row_below = shared_.last_row[first / kWarp % 2];
      left = kUnreachable;
      int diagonal = kUnreachable;  // C[i - 1, j - 1]
      for (int step = 0; step < M_ + static_cast<int>(kWarp) - 1; ++step) {
        int above = __shfl_up_sync(kAllLanes, left, 1);  // C[i - 1, j]
        const int j = step - lane_;
        if (i >= K_ || j < 0 || j >= M_) continue;
        if (lane_ == 0) above = first == 0 ? kUnreachable : row_above[j];
        if (i == 0 && j == 0) diagonal = 0;
        if (in_band(i, j)) {
          Cell& cell = cells_[i * M_ + j];
          const int upper = above < diagonal ? above : diagonal;
          const int upper_step = above < diagonal ? kDraftStep : kDiagonalStep;
          const int taken = left < upper ? kTargetStep : upper_step;
          left = (left < upper ? left : upper) + cell;
          cell = static_cast<Cell>(taken << kStepShift);
        } else {
          left = kUnreachable;
        }
        diagonal = above;
        if (lane_ == static_cast<int>(kWarp) - 1) row_below[j] = left;
      }
      __syncwarp();
    }
    return __shfl_sync(kAllLanes, left, static_cast<unsigned>(K_ - 1) % kWarp);
  }

  __device__ void trace_back() const {
    std::int32_t* spans = a_.target_spans + 2 * a_.target.sequences.begin(b_);
    int i = K_ - 1;
    for (int j = M_ - 1; j >= 0; --j) {
      const auto step = [&] { return cells_[i * M_ + j] >> kStepShift; };
      spans[2 * j + 1] = i + 1;
      while (step() == kDraftStep) --i;
      spans[2 * j] = i;
      if (step() == kDiagonalStep) --i;
    }
  }

  const AlignArguments& a_;
  AlignShared& shared_;
  Cell* cells_;
  std::int64_t b_;
  int thread_;
  int lane_;
  int K_ = 0;
  int M_ = 0;
  int radius_ = 0;  // of the band: |i - j| <= radius
};

__global__ void __launch_bounds__(kAlignThreads)
    align_pair(const __grid_constant__ AlignArguments arguments) {
  PairAligner(arguments, shared_memory<AlignShared>()).run();
}

// ---- host ----

template <class Id>
void align(const Ragged<Id>& draft, const Ragged<Id>& target, const ByteTable& draft_table,
           const ByteTable& target_table, std::int64_t band, std::span<std::int32_t> target_spans,
           std::span<std::int64_t> costs, Stream stream) {
  require_cuda(kAlign);
  const std::size_t batch = draft.offsets.empty() ? costs.size() : draft.offsets.size() - 1;
  const std::size_t targets = target.offsets.empty() ? costs.size() : target.offsets.size() - 1;
  check_align_sizes(band, batch, targets, target.ids.size(), target_spans.size(), costs.size());
  const Sequences drafts = sequences(draft, batch, kAlign, "draft_ids");
  const Sequences proxies = sequences(target, batch, kAlign, "target_ids");
  if (drafts.offsets == nullptr && proxies.offsets == nullptr &&
      (drafts.length == 0) != (proxies.length == 0)) {
    refuse_half_pair(drafts.length == 0, 0);
  }
  const std::size_t K = max_tokens(drafts, kAlign, "draft_ids");
  const std::size_t M = max_tokens(proxies, kAlign, "target_ids");
  if (batch == 0) return;

  const DeviceGuard guard(kAlign, stream);
  const AlignArguments arguments{{any_ids(draft.ids), drafts, device_table(draft_table)},
                                 {any_ids(target.ids), proxies, device_table(target_table)},
                                 band,
                                 target_spans.data(),
                                 costs.data()};
  launch(
      kAlign, align_pair,
      {static_cast<unsigned>(batch), 1, kAlignThreads, sizeof(AlignShared) + K * M * sizeof(Cell)},
      stream, arguments);
}

template void align(const Ragged<std::int32_t>&, const Ragged<std::int32_t>&, const ByteTable&,
                    const ByteTable&, std::int64_t, std::span<std::int32_t>,
                    std::span<std::int64_t>, Stream);
template void align(const Ragged<std::int64_t>&, const Ragged<std::int64_t>&, const ByteTable&,
                    const ByteTable&, std::int64_t, std::span<std::int32_t>,
                    std::span<std::int64_t>, Stream);

}  // namespace tokentiming::cuda
