// Verification by sampling in one kernel: the softmax of each row that the rule needs, the
// decisions, and the draw of the last token.
//
// A row is read from memory once, for its softmax. The rows of the last position are read again for
// the draw, shortly after and mostly from the L2 cache. The draw is an inverse-CDF search: over the
// chain's blocks, then over a block's tiles, then over the entries of a tile.
#pragma once

#include "chains.cuh"

namespace tokentiming::cuda {

// The state of an online softmax over some logits: their maximum, and the sum of
// 2^((x - maximum) * scale). Source: Milakov, Gimelshein, "Online normalizer calculation for
// softmax", arXiv 1805.02867.
struct SoftmaxState {
  float maximum = -kInfinity;
  double sum = 0.0;
};

// The states of a position's two rows.
struct SoftmaxPair {
  SoftmaxState p;
  SoftmaxState q;
};

__device__ inline SoftmaxState shuffle_xor(const SoftmaxState& mine, unsigned other) {
  return {__shfl_xor_sync(kAllLanes, mine.maximum, other), shuffle_xor(mine.sum, other)};
}
__device__ inline SoftmaxPair shuffle_xor(const SoftmaxPair& mine, unsigned other) {
  return {shuffle_xor(mine.p, other), shuffle_xor(mine.q, other)};
}

// Merges two states: rescales both sums to the greater maximum. NaN in a sum stays.
struct MergeSoftmax {
  float scale;

  __device__ SoftmaxPair operator()(const SoftmaxPair& a, const SoftmaxPair& b) const {
    return {(*this)(a.p, b.p), (*this)(a.q, b.q)};
  }
  __device__ SoftmaxState operator()(const SoftmaxState& a, const SoftmaxState& b) const {
    const float maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
    return {maximum, a.sum * rescale(a.maximum, maximum) + b.sum * rescale(b.maximum, maximum)};
  }
  __device__ double rescale(float maximum, float common) const {
    return maximum == common ? 1.0 : static_cast<double>(exp2_approx((maximum - common) * scale));
  }
};

struct Min {
  __device__ int operator()(int a, int b) const { return a < b ? a : b; }
};

// Normalises a row of logits: probability = 2^((x - shift) * scale) * factor.
struct Normaliser {
  float shift = 0.0f;
  float factor = 1.0f;

  // False if the logits have no distribution.
  __device__ bool set(const SoftmaxState& state) {
    if (!(state.sum > 0.0 && state.sum < INFINITY && state.maximum < kInfinity)) return false;
    shift = state.maximum;
    factor = static_cast<float>(1.0 / state.sum);
    return true;
  }
};

// A row of normalised logits or of probabilities.
struct Distribution {
  const DeviceDistributions* distributions;
  std::int64_t row;
  float scale;
  Normaliser norm;

  __device__ float probability(float entry) const {
    if (!distributions->is_logits) return entry;
    return exp2_approx((entry - norm.shift) * scale) * norm.factor;
  }
  __device__ void read(int at, int end, float (&out)[kVectorSize]) const {
    distributions->read(row, at, end, out);
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) out[k] = probability(out[k]);
  }
  __device__ static bool is_probability(float x) { return x >= 0.0f && x < kInfinity; }
};

// The weights that the last token is drawn from: p, max(p - q, 0), or p without one token.
struct ResidualSampler {
  Distribution p;
  Distribution q;
  bool subtract_q;
  int excluded;  // -1: none

  // Writes eight weights; returns their sum, or NaN if an entry is not a probability.
  __device__ double read_weights(int at, int end, float (&weights)[kVectorSize]) const {
    float other[kVectorSize] = {};
    p.read(at, end, weights);
    if (subtract_q) q.read(at, end, other);
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kVectorSize; ++k) {
      const bool valid =
          Distribution::is_probability(weights[k]) && Distribution::is_probability(other[k]);
      const float excess = weights[k] > other[k] ? weights[k] - other[k] : 0.0f;
      weights[k] = at + k == excluded ? 0.0f : excess;
      sum += valid ? weights[k] : NAN;
    }
    return static_cast<double>(sum);
  }
};

// The proposed token of a position, its uniform, and the entries of both rows at its id. The
// entries are 0 if the id is not a token.
struct ProposedToken {
  std::int64_t id;
  double u;
  float p_entry;
  float q_entry;
};

// The decision on a position's token, and what the draw needs if the chain stops there.
enum class Action { kAccept, kStop, kInvalid };
struct Decision {
  Action action;
  Normaliser p;
  Normaliser q;
  int excluded;  // the token rejected in a chain without proposals, or -1
};

// An inverse-CDF search: the first index at which the running sum of the weights exceeds the
// threshold. If rounding leaves the threshold at or above the total, the last index with weight.
class InverseCdf {
 public:
  __device__ explicit InverseCdf(double threshold = 0.0, double prefix = 0.0)
      : threshold_(threshold), prefix_(prefix) {}

  __device__ void add(int index, double weight) {
    if (weight <= 0.0) return;
    prefix_ += weight_;
    index_ = index;
    weight_ = weight;
    done_ = threshold_ < prefix_ + weight_;
  }
  __device__ bool done() const { return done_; }
  __device__ int index() const { return index_; }
  // The sum of the weights before the index.
  __device__ double prefix() const { return prefix_; }
  __device__ double threshold() const { return threshold_; }

 private:
  double threshold_;
  double prefix_;
  double weight_ = 0.0;
  int index_ = -1;
  bool done_ = false;
};

// The search over the blocks of a chain: which of them has the token.
enum class SearchStatus { kFound, kNoMass, kInvalid };
struct BlockSearch {
  SearchStatus status;
  InverseCdf blocks;
};

struct SampledShared {
  WarpPartials<SoftmaxState> states[2];
  ProposedToken proposed;
  Decision decisions[2];  // alternating: threads may read one while thread 0 writes the next
  WarpPartials<double> sums;
  WarpPartials<double> prefix;
  WarpPartials<int> thread_ids[2];
  double block_sums[kMaxBlocksPerChain];
  BlockSearch block_search;
  InverseCdf tile_search;
  int token;
};

class SampledChain : public Chain {
 public:
  __device__ SampledChain(const VerifyArguments& a, SampledShared& shared)
      : Chain(a), shared_(shared) {}

  __device__ void run() {
    if (!is_valid()) return write_invalid();
    for (;; ++position_) {
      decide();
      if (decision_.action == Action::kAccept) continue;
      if (decision_.action == Action::kInvalid) return write_invalid();
      return draw_last_token();
    }
  }

 private:
  __device__ double uniform(std::int64_t k) const {
    return a_.uniforms_are_double ? static_cast<const double*>(a_.uniforms)[k]
                                  : static_cast<double>(static_cast<const float*>(a_.uniforms)[k]);
  }
  __device__ static bool is_uniform(double u) { return u >= 0.0 && u < 1.0; }
  __device__ bool is_token(std::int64_t id) const { return id >= 0 && id < a_.columns; }

  __device__ ProposedToken load_proposed() const {
    if (at_end()) return {};
    ProposedToken proposed{a_.ids[proposal_row()], uniform(target_row()), 0.0f, 0.0f};
    if (!is_token(proposed.id)) return proposed;
    const int token = static_cast<int>(proposed.id);
    proposed.p_entry = a_.targets.entry(target_row(), token);
    if (a_.proposals.given) proposed.q_entry = a_.proposals.entry(proposal_row(), token);
    return proposed;
  }

  __device__ Distribution p(const Normaliser& norm) const {
    return {&a_.targets, target_row(), a_.scale, norm};
  }
  __device__ Distribution q(const Normaliser& norm) const {
    return {&a_.proposals, proposal_row(), a_.scale, norm};
  }
  __device__ bool subtract_q() const { return a_.proposals.given && !at_end(); }

  // Decides on the position's token. All blocks of a chain reach the same decision: their first
  // threads do the same arithmetic on the same numbers.
  __device__ void decide() {
    const bool of_p = a_.targets.is_logits;
    const bool of_q = subtract_q() && a_.proposals.is_logits;
    const bool reads = of_p || of_q;
    if (reads) reduce_rows(of_p, of_q);
    SoftmaxPair states;
    if (reads && threadIdx.x < kWarp) states = reduce_partials();
    decision_ = block_broadcast(shared_.decisions[position_ % 2], [&] {
      Decision decision{Action::kInvalid, {}, {}, -1};
      const bool valid = (!of_p || decision.p.set(states.p)) && (!of_q || decision.q.set(states.q));
      if (valid) apply_rule(reads ? shared_.proposed : load_proposed(), decision);
      return decision;
    });
  }

  __device__ void apply_rule(const ProposedToken& proposed, Decision& decision) const {
    const std::int64_t id = proposed.id;
    const double u = proposed.u;
    const auto stop = [&](int excluded) {
      decision.action = Action::kStop;
      decision.excluded = excluded;
    };
    if (at_end()) return stop(-1);
    if (!is_uniform(u)) return;
    if (id == kMissingMass && a_.proposals.given && !a_.proposals.is_logits) return stop(-1);
    if (!is_token(id)) return;

    const float p_token = p(decision.p).probability(proposed.p_entry);
    const float q_token = a_.proposals.given ? q(decision.q).probability(proposed.q_entry) : 1.0f;
    if (!Distribution::is_probability(p_token) || !Distribution::is_probability(q_token)) return;
    // u < p / q, without dividing by zero.
    if (u * static_cast<double>(q_token) < static_cast<double>(p_token)) {
      decision.action = Action::kAccept;
    } else {
      stop(a_.proposals.given ? -1 : static_cast<int>(id));
    }
  }

  // Reduces the position's rows of logits and loads the proposed token.
  __device__ void reduce_rows(bool of_p, bool of_q) {
    const auto reduce = [&](const DeviceDistributions& distributions, std::int64_t row,
                            WarpPartials<SoftmaxState>& warp_partials) {
      store_warp_partial(warp_reduce(thread_softmax(distributions, row), MergeSoftmax{a_.scale}),
                         warp_partials);
    };
    if (of_p) reduce(a_.targets, target_row(), shared_.states[0]);
    if (of_q) reduce(a_.proposals, proposal_row(), shared_.states[1]);
    __syncthreads();
    if (threadIdx.x < kWarp) publish_partials(of_p, of_q);
    if (threadIdx.x == kWarp) shared_.proposed = load_proposed();  // while thread 0 waits
    synchronize_blocks();
  }

  // Writes the block's partial results, reduced over its warps by the first warp.
  __device__ void publish_partials(bool of_p, bool of_q) const {
    const unsigned warp = threadIdx.x;
    SoftmaxPair states;
    if (of_p && warp < kVerifyThreads / kWarp) states.p = shared_.states[0][warp];
    if (of_q && warp < kVerifyThreads / kWarp) states.q = shared_.states[1][warp];
    states = warp_reduce(states, MergeSoftmax{a_.scale});
    if (threadIdx.x != 0) return;
    double* mine = partials(rank_);
    mine[0] = static_cast<double>(states.p.maximum);
    mine[1] = states.p.sum;
    mine[2] = static_cast<double>(states.q.maximum);
    mine[3] = states.q.sum;
  }

  // Reduces the partial results of all blocks of the chain. Called by one warp; its first lane has
  // the result.
  __device__ SoftmaxPair reduce_partials() const {
    const MergeSoftmax op{a_.scale};
    SoftmaxPair states;
    for (int rank = static_cast<int>(threadIdx.x % kWarp); rank < a_.blocks_per_chain;
         rank += static_cast<int>(kWarp)) {
      const double* block = partials(rank);
      states = op(states, {{static_cast<float>(__ldcg(block)), __ldcg(block + 1)},
                           {static_cast<float>(__ldcg(block + 2)), __ldcg(block + 3)}});
    }
    return warp_reduce(states, op);
  }

  // The online softmax of this thread's entries of a row.
  __device__ SoftmaxState thread_softmax(const DeviceDistributions& distributions,
                                         std::int64_t at_row) const {
    const float scale = a_.scale;
    return distributions.visit_row(at_row, [&](const auto* row) -> SoftmaxState {
      float maximum = -kInfinity;
      float sum = 0.0f;
      for_each_vector(row, begin_, end_, [&](const auto& vector, int) {
        float x[kVectorSize];
        float new_maximum = maximum;
#pragma unroll
        for (int k = 0; k < kVectorSize; ++k) {
          x[k] = widen(vector[k]);
          new_maximum = fmaxf(new_maximum, x[k]);
        }
        if (new_maximum > maximum) {
          sum *= exp2_approx((maximum - new_maximum) * scale);
          maximum = new_maximum;
        }
        const float shift = maximum == -kInfinity ? 0.0f : maximum;
        float vector_sum = 0.0f;
#pragma unroll
        for (int k = 0; k < kVectorSize; ++k) vector_sum += exp2_approx((x[k] - shift) * scale);
        sum += vector_sum;
      });
      return {maximum, static_cast<double>(sum)};
    });
  }

  __device__ void draw_last_token() {
    const double u = uniform(a_.chains.end(b_) + b_);
    if (!is_uniform(u)) return write_invalid();
    ResidualSampler sampler{p(decision_.p), q(decision_.q), subtract_q(), decision_.excluded};
    BlockSearch search = find_block(sampler, u, 0);
    if (search.status == SearchStatus::kNoMass && (sampler.subtract_q || sampler.excluded >= 0)) {
      // Rounding has left no mass in the difference.
      sampler.subtract_q = false;
      sampler.excluded = -1;
      search = find_block(sampler, u, 1);
    }
    if (search.status != SearchStatus::kFound) return write_invalid();
    if (search.blocks.index() == rank_) write(find_token(sampler, search.blocks));
  }

  // Finds the block that has the token. `attempt` is 0 or 1, and selects the memory of the sums.
  __device__ BlockSearch find_block(const ResidualSampler& sampler, double u, int attempt) {
    float weights[kVectorSize];
    double sum = 0.0;
    for (int at = begin_ + thread_offset(); at < end_; at += kVerifyTile) {
      sum += sampler.read_weights(at, end_, weights);
    }
    sum = block_reduce(sum, shared_.sums, Sum{});
    double* const block_sums =
        a_.block_sums + (2 * static_cast<std::int64_t>(b_) + attempt) * a_.blocks_per_chain;
    if (threadIdx.x == 0) block_sums[rank_] = sum;
    synchronize_blocks();

    if (static_cast<int>(threadIdx.x) < a_.blocks_per_chain) {
      shared_.block_sums[threadIdx.x] = __ldcg(block_sums + threadIdx.x);
    }
    __syncthreads();
    return block_broadcast(shared_.block_search, [&] { return search_blocks(u); });
  }

  __device__ BlockSearch search_blocks(double u) const {
    double total = 0.0;
    for (int rank = 0; rank < a_.blocks_per_chain; ++rank) total += shared_.block_sums[rank];
    if (!(total >= 0.0 && total < INFINITY)) return {SearchStatus::kInvalid, InverseCdf()};
    if (total == 0.0) return {SearchStatus::kNoMass, InverseCdf()};
    InverseCdf blocks(u * total);
    for (int rank = 0; rank < a_.blocks_per_chain && !blocks.done(); ++rank) {
      blocks.add(rank, shared_.block_sums[rank]);
    }
    return {SearchStatus::kFound, blocks};
  }

  // Finds the token among this block's columns.
  __device__ int find_token(const ResidualSampler& sampler, const InverseCdf& blocks) {
    float weights[kVectorSize];
    InverseCdf tile_search(blocks.threshold(), blocks.prefix());
    for (int tile = begin_; tile < end_ && !tile_search.done(); tile += kVerifyTile) {
      const double mine = sampler.read_weights(tile + thread_offset(), end_, weights);
      const double sum = block_reduce(mine, shared_.sums, Sum{});
      tile_search = block_broadcast(shared_.tile_search, [&] {
        tile_search.add(tile, sum);
        return tile_search;
      });
    }
    const int at = tile_search.index() + thread_offset();
    const double mine = sampler.read_weights(at, end_, weights);
    const double prefix = tile_search.prefix() + block_exclusive_sum(mine, shared_.prefix);

    // The first thread whose entries pass the threshold; if none does, the last that has weight.
    const int thread = static_cast<int>(threadIdx.x);
    constexpr int kNone = kVerifyThreads;
    const bool passes = mine > 0.0 && tile_search.threshold() < prefix + mine;
    int winner = block_reduce(passes ? thread : kNone, shared_.thread_ids[0], Min{});
    if (winner == kNone) {
      winner = -block_reduce(mine > 0.0 ? -thread : 0, shared_.thread_ids[1], Min{});
    }
    if (thread == winner) {
      InverseCdf entries(tile_search.threshold(), prefix);
#pragma unroll
      for (int k = 0; k < kVectorSize; ++k) {
        if (!entries.done()) entries.add(at + k, static_cast<double>(weights[k]));
      }
      shared_.token = entries.index();
    }
    __syncthreads();
    return shared_.token;
  }

  SampledShared& shared_;
  Decision decision_{};  // at position_
};

__global__ void __launch_bounds__(kVerifyThreads, 3)
    verify_sampled(const __grid_constant__ VerifyArguments arguments) {
  SampledChain(arguments, shared_memory<SampledShared>()).run();
}

}  // namespace tokentiming::cuda
