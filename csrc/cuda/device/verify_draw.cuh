// The last token of each chain, after all positions are decided. The draw is an inverse-CDF search:
// over the tiles of the row, then over the threads of a tile, then over a thread's entries.
#pragma once

#include "verify_sampled.cuh"

namespace tokentiming::cuda {

inline constexpr unsigned kDrawThreads = 512;
inline constexpr int kDrawTile = kDrawThreads * kVectorSize;  // columns

// Sums of the weights that the last token is drawn from: max(p - q, 0) or p without one token, and
// of p, in case rounding leaves no mass in the first.
struct DrawSums {
  double weights = 0.0;
  double p = 0.0;
};
__device__ inline DrawSums shuffle_xor(const DrawSums& mine, unsigned other) {
  return {shuffle_xor(mine.weights, other), shuffle_xor(mine.p, other)};
}
struct AddSums {
  __device__ DrawSums operator()(const DrawSums& a, const DrawSums& b) const {
    return {a.weights + b.weights, a.p + b.p};
  }
};

struct Min {
  __device__ int operator()(int a, int b) const { return a < b ? a : b; }
};

// An inverse-CDF search: the first index at which the running sum of the weights exceeds the
// threshold. If rounding leaves the threshold at or above the total, the last index with weight.
class InverseCdf {
 public:
  __device__ InverseCdf(double threshold, double prefix) : threshold_(threshold), prefix_(prefix) {}

  __device__ void add(int index, double weight) {
    if (done_ || !(weight > 0.0)) return;
    prefix_ += weight_;
    index_ = index;
    weight_ = weight;
    done_ = threshold_ < prefix_ + weight_;
  }
  __device__ int index() const { return index_; }
  // The sum of the weights before the index.
  __device__ double prefix() const { return prefix_; }

 private:
  double threshold_;
  double prefix_;
  double weight_ = 0.0;
  int index_ = -1;
  bool done_ = false;
};

struct DrawShared {
  WarpPartials<DrawSums> sums;
  WarpPartials<DrawSums> totals;
  WarpPartials<double> prefixes[2];
  WarpPartials<int> threads[4];
  bool last;
  int tile;
  double prefix;
  int token;
};

class Draw : public Chain {
 public:
  __device__ Draw(const VerifyArguments& a, DrawShared& shared)
      : Draw(a, shared, static_cast<int>(blockIdx.x / static_cast<unsigned>(a.tiles))) {}

  __device__ void run() {
    const bool writes = tile_ == 0;  // what needs no draw
    if (stop_ == 0 || decision_.action == Action::kInvalid) {
      if (writes) write_invalid();
      return;
    }
    if (decision_.action == Action::kEmit) {
      if (writes) write(decision_.token);
      return;
    }
    u_ = uniform(a_.chains.end(b_) + b_);
    const bool valid_row = !a_.has_map || !(a_.row_flags[b_] & kInvalid);
    if (!is_uniform(u_) || !valid_row) {
      if (writes) write_invalid();
      return;
    }
    // No memory is read between the two loads of a tile.
    p_row_ = target_row();
    subtracts_q_ = a_.proposals.given && !at_end();
    if (subtracts_q_) q_row_ = a_.has_map ? b_ : proposal_row();
    // Tiles begin where the targets' row is aligned, up to seven columns before the row.
    shift_ = a_.targets.visit_row(p_row_, [](const auto* p) {
      return (kVectorSize - entries_to_alignment(p)) % kVectorSize;
    });
    if (is_last(block_reduce(load_weights(tile_), shared_.sums, AddSums{}))) draw();
  }

 private:
  __device__ Draw(const VerifyArguments& a, DrawShared& shared, int b)
      : Chain(a, {b, stop_position(a.stops[b])}),
        shared_(shared),
        tile_(static_cast<int>(blockIdx.x % static_cast<unsigned>(a.tiles))),
        stop_(a.stops[b]),
        scale_(a.scale_of(b)),
        decision_(stop_ == 0 ? Decision{} : a.decisions[stop_item(stop_)]) {}

  __device__ bool excludes() const { return decision_.token >= 0; }

  // Loads this thread's eight entries of p and of q in a tile, and writes their weights. Both loads
  // are in flight before either is used.
  // The sums are NaN if an entry is not a probability.
  __device__ DrawSums load_weights(int tile) {
    at_ = tile * kDrawTile + static_cast<int>(threadIdx.x) * kVectorSize - shift_;
    const RawEntries p_raw = a_.targets.load(p_row_, at_, a_.columns);
    RawEntries q_raw{};
    if (subtracts_q_) q_raw = a_.drawn_proposals.load(q_row_, at_, a_.columns);
    float q[kVectorSize] = {};
    a_.targets.widen_to(p_raw, p_);
    if (subtracts_q_) a_.drawn_proposals.widen_to(q_raw, q);

    float sum = 0.0f;
    float p_sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) {
      p_[k] = probability(a_.targets, p_[k], decision_.p, scale_);
      if (subtracts_q_) q[k] = probability(a_.drawn_proposals, q[k], decision_.q, scale_);
      const bool valid = is_probability(p_[k]) && is_probability(q[k]);
      const float excess = p_[k] > q[k] ? p_[k] - q[k] : 0.0f;
      weights_[k] = at_ + k == decision_.token ? 0.0f : excess;
      sum += valid ? weights_[k] : NAN;
      p_sum += p_[k];
    }
    return {static_cast<double>(sum), static_cast<double>(p_sum)};
  }

  // Publishes the sums of a tile. True in the last block of the chain.
  __device__ bool is_last(const DrawSums& sums) const {
    return block_broadcast(shared_.last, [&] {
      double* mine = tile_sums(tile_);
      mine[0] = sums.weights;
      mine[1] = sums.p;
      __threadfence();
      const bool last =
          atomicAdd(a_.finished_draws + b_, 1u) == static_cast<unsigned>(a_.tiles) - 1;
      __threadfence();
      return last;
    });
  }
  __device__ double* tile_sums(int tile) const {
    return a_.tile_sums + 2 * (static_cast<std::int64_t>(b_) * a_.tiles + tile);
  }

  // Draws the token from the sums of all tiles. Each thread has as many consecutive tiles as
  // needed, mostly one or none.
  __device__ void draw() {
    const int each = (a_.tiles + int{kDrawThreads} - 1) / int{kDrawThreads};
    const int begin = static_cast<int>(threadIdx.x) * each;
    const int end = begin + each < a_.tiles ? begin + each : a_.tiles;
    DrawSums mine;
    for (int tile = begin; tile < end; ++tile) {
      mine = AddSums{}(mine, {__ldcg(tile_sums(tile)), __ldcg(tile_sums(tile) + 1)});
    }
    const DrawSums total = block_reduce(mine, shared_.totals, AddSums{});
    const bool from_p = total.weights == 0.0 && (subtracts_q_ || excludes());
    const double mass = from_p ? total.p : total.weights;
    if (!(mass > 0.0 && mass < INFINITY)) return write_invalid();

    const double threshold = u_ * mass;
    const double of_tiles = from_p ? mine.p : mine.weights;
    double prefix = block_exclusive_sum(of_tiles, shared_.prefixes[0]);
    if (wins(of_tiles, prefix, threshold, shared_.threads[0], shared_.threads[1])) {
      InverseCdf tiles(threshold, prefix);
      for (int tile = begin; tile < end; ++tile) {
        tiles.add(tile, __ldcg(tile_sums(tile) + int{from_p}));
      }
      shared_.tile = tiles.index();
      shared_.prefix = tiles.prefix();
    }
    __syncthreads();

    const DrawSums of_thread = load_weights(shared_.tile);
    const double weight = from_p ? of_thread.p : of_thread.weights;
    prefix = shared_.prefix + block_exclusive_sum(weight, shared_.prefixes[1]);
    if (wins(weight, prefix, threshold, shared_.threads[2], shared_.threads[3])) {
      InverseCdf entries(threshold, prefix);
#pragma unroll
      for (int k = 0; k < kVectorSize; ++k) {
        entries.add(at_ + k, static_cast<double>(from_p ? p_[k] : weights_[k]));
      }
      shared_.token = entries.index();
    }
    __syncthreads();
    write(shared_.token);
  }

  // Whether the running sum passes the threshold in this thread first; if it does in none, whether
  // this is the last thread with weight. All threads must call it.
  __device__ static bool wins(double weight, double prefix, double threshold,
                              WarpPartials<int>& passing, WarpPartials<int>& weighty) {
    const int thread = static_cast<int>(threadIdx.x);
    constexpr int kNone = kDrawThreads;
    const bool passes = weight > 0.0 && threshold < prefix + weight;
    const int first = block_reduce(passes ? thread : kNone, passing, Min{});
    if (first != kNone) return thread == first;
    return thread == -block_reduce(weight > 0.0 ? -thread : 0, weighty, Min{});
  }

  DrawShared& shared_;
  int tile_;
  Stop stop_;
  float scale_;
  Decision decision_;
  double u_ = 0.0;
  std::int64_t p_row_ = 0;
  std::int64_t q_row_ = 0;
  bool subtracts_q_ = false;
  int shift_ = 0;  // columns of the first tile before the row
  int at_ = 0;     // the column of the thread's first entry
  float weights_[kVectorSize];
  float p_[kVectorSize];
};

__global__ void __launch_bounds__(kDrawThreads, 2)
    draw_last_tokens(const __grid_constant__ VerifyArguments arguments) {
  Draw(arguments, shared_memory<DrawShared>()).run();
}

}  // namespace tokentiming::cuda
