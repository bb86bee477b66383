// Verification by sampling, fused: the normaliser of each row that the rule needs, the decisions,
// and the draw that ends a chain.
//
// A row comes from memory once, for its normaliser; the rows of the position that a chain ends at
// are read again for the draw, shortly after and mostly from the L2 cache. The draw finds the part,
// then the step, then the entry in which the running sum passes its threshold.
#pragma once

#include "chains.cuh"

namespace tokentiming::cuda {

// The greatest of some logits, and the sum of 2^((x - maximum) * scale) over all of them.
struct Peak {
  float maximum = -kInfinity;
  double sum = 0.0;
};

__device__ inline Peak exchanged(const Peak& mine, unsigned other) {
  return {__shfl_xor_sync(kAllLanes, mine.maximum, other), exchanged(mine.sum, other)};
}

// On the greater maximum. NaN in a sum stays.
struct JoinPeaks {
  float scale;

  __device__ Peak operator()(const Peak& a, const Peak& b) const {
    const float maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
    return {maximum, a.sum * share(a.maximum, maximum) + b.sum * share(b.maximum, maximum)};
  }
  __device__ double share(float maximum, float common) const {
    return maximum == common ? 1.0 : static_cast<double>(exp2f((maximum - common) * scale));
  }
};

struct Lesser {
  __device__ int operator()(int a, int b) const { return a < b ? a : b; }
};

// A row of logits, normalised, or of probabilities.
struct Law {
  const DeviceLaws* laws;
  std::int64_t row;
  float scale;
  float shift = 0.0f;
  float factor = 1.0f;

  __device__ float probability(float entry) const {
    if (!laws->logits) return entry;
    const float z = (entry - shift) * scale;
    return z < -126.0f ? 0.0f : exp2f(z) * factor;
  }
  __device__ float operator()(int token) const { return probability(laws->entry(row, token)); }
  __device__ void read(int at, int end, float (&out)[kEntries]) const {
    laws->read(row, at, end, out);
#pragma unroll
    for (int k = 0; k < kEntries; ++k) out[k] = probability(out[k]);
  }
  __device__ static bool is_probability(float x) { return x >= 0.0f && x < kInfinity; }
};

// What a token is drawn from: p, max(p - q, 0), or p without a token.
struct Ending {
  Law p;
  Law q;
  bool from_difference;
  int without;  // -1: none

  // Writes eight weights; returns their sum, NaN if a probability is none.
  __device__ double weigh(int at, int end, float (&weights)[kEntries]) const {
    float other[kEntries] = {};
    p.read(at, end, weights);
    if (from_difference) q.read(at, end, other);
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kEntries; ++k) {
      const bool sound = Law::is_probability(weights[k]) && Law::is_probability(other[k]);
      const float excess = weights[k] > other[k] ? weights[k] - other[k] : 0.0f;
      weights[k] = at + k == without ? 0.0f : excess;
      sum += sound ? weights[k] : NAN;
    }
    return static_cast<double>(sum);
  }
};

struct VerifyShared {
  OfWarps<Peak> peaks[2];
  OfWarps<double> sums[2];
  OfWarps<double> before;
  OfWarps<int> places[2];
  double parts[kMostSlices];
  int token;
};

class SampledChain : public Chain {
 public:
  __device__ SampledChain(const VerifyArguments& a, VerifyShared& shared)
      : Chain(a), shared_(shared) {}

  __device__ void run() {
    if (!is_sound()) return write_invalid();
    for (;; ++position_) {
      const Verdict verdict = judge();
      if (verdict == Verdict::kAccepted) continue;
      if (verdict == Verdict::kInvalid) return write_invalid();
      return end_chain();
    }
  }

 private:
  enum class Verdict { kAccepted, kEnded, kInvalid };
  enum class Draw { kDone, kNothingLeft, kInvalid };

  __device__ double uniform(std::int64_t k) const {
    return a_.wide_uniforms ? static_cast<const double*>(a_.uniforms)[k]
                            : static_cast<double>(static_cast<const float*>(a_.uniforms)[k]);
  }
  __device__ static bool is_uniform(double u) { return u >= 0.0 && u < 1.0; }

  // Decides on the position's token, and sets what the chain would end with here.
  __device__ Verdict judge() {
    ending_ = {{&a_.targets, target_row(), a_.scale},
               {&a_.proposals, proposal_row(), a_.scale},
               a_.proposals.given && !at_end(),
               -1};
    if (!normalise()) return Verdict::kInvalid;
    if (at_end()) return Verdict::kEnded;
    const std::int64_t id = a_.ids[proposal_row()];
    const double u = uniform(target_row());
    if (!is_uniform(u)) return Verdict::kInvalid;
    if (id == kMissing && a_.proposals.given && !a_.proposals.logits) return Verdict::kEnded;
    if (id < 0 || id >= a_.columns) return Verdict::kInvalid;

    const int token = static_cast<int>(id);
    const float p = ending_.p(token);
    const float q = a_.proposals.given ? ending_.q(token) : 1.0f;
    if (!Law::is_probability(p) || !Law::is_probability(q)) return Verdict::kInvalid;
    // u < p / q, without a division by zero.
    if (u * static_cast<double>(q) < static_cast<double>(p)) return Verdict::kAccepted;
    if (!a_.proposals.given) ending_.without = token;
    return Verdict::kEnded;
  }

  // Reads those of the position's rows that hold logits; false if one has no law.
  __device__ bool normalise() {
    const bool of_p = a_.targets.logits;
    const bool of_q = ending_.from_difference && a_.proposals.logits;
    if (!of_p && !of_q) return true;
    const JoinPeaks join{a_.scale};
    const Peak p = of_p ? join_block(part_of(ending_.p), shared_.peaks[0], join) : Peak{};
    const Peak q = of_q ? join_block(part_of(ending_.q), shared_.peaks[1], join) : Peak{};
    if (threadIdx.x == 0) {
      double* mine = findings(slice_);
      mine[0] = static_cast<double>(p.maximum);
      mine[1] = p.sum;
      mine[2] = static_cast<double>(q.maximum);
      mine[3] = q.sum;
    }
    meet();
    return (!of_p || normalise(ending_.p, 0)) && (!of_q || normalise(ending_.q, 2));
  }

  // This thread's entries of a row.
  __device__ Peak part_of(const Law& law) const {
    const float scale = a_.scale;
    return law.laws->with_row(law.row, [&](const auto* row) -> Peak {
      float maximum = -kInfinity;
      float sum = 0.0f;
      for_each_eight(row, begin_, end_, [&](const auto& eight, int) {
        float x[kEntries];
        float greatest = maximum;
#pragma unroll
        for (int k = 0; k < kEntries; ++k) {
          x[k] = widen(eight[k]);
          greatest = fmaxf(greatest, x[k]);
        }
        if (greatest > maximum) {
          sum *= exp2f((maximum - greatest) * scale);
          maximum = greatest;
        }
        const float shift = maximum == -kInfinity ? 0.0f : maximum;
        float here = 0.0f;
#pragma unroll
        for (int k = 0; k < kEntries; ++k) here += exp2f((x[k] - shift) * scale);
        sum += here;
      });
      return {maximum, static_cast<double>(sum)};
    });
  }

  // Joins what all blocks have found of a row, in an order that is the same for all.
  __device__ bool normalise(Law& law, int finding) const {
    const JoinPeaks join{a_.scale};
    Peak peak;
    for (int s = static_cast<int>(threadIdx.x % kWarp); s < a_.slices;
         s += static_cast<int>(kWarp)) {
      const double* found = findings(s) + finding;
      peak = join(peak, {static_cast<float>(__ldcg(found)), __ldcg(found + 1)});
    }
    peak = join_warp(peak, join);
    if (!(peak.sum > 0.0 && peak.sum < INFINITY && peak.maximum < kInfinity)) return false;
    law.shift = peak.maximum;
    law.factor = static_cast<float>(1.0 / peak.sum);
    return true;
  }

  __device__ void end_chain() {
    const double u = uniform(a_.chains.end(b_) + b_);
    if (!is_uniform(u)) return write_invalid();
    Draw draw = draw_from(ending_, u, 0);
    if (draw == Draw::kNothingLeft && (ending_.from_difference || ending_.without >= 0)) {
      // Rounding has left nothing of the difference.
      draw = draw_from({ending_.p, ending_.q, false, -1}, u, 1);
    }
    if (draw != Draw::kDone) write_invalid();
  }

  // The block whose part holds the token writes it. `attempt` is 0 or 1.
  __device__ Draw draw_from(const Ending& ending, double u, int attempt) {
    float weights[kEntries];
    double part = 0.0;
    for (int at = begin_ + first_of_thread(); at < end_; at += kVerifyStep) {
      part += ending.weigh(at, end_, weights);
    }
    part = join_block(part, shared_.sums[0], Sum{});
    double* const masses = a_.masses + (2 * static_cast<std::int64_t>(b_) + attempt) * a_.slices;
    if (threadIdx.x == 0) masses[slice_] = part;
    meet();

    if (static_cast<int>(threadIdx.x) < a_.slices) {
      shared_.parts[threadIdx.x] = __ldcg(masses + threadIdx.x);
    }
    __syncthreads();
    double total = 0.0;
    for (int s = 0; s < a_.slices; ++s) total += shared_.parts[s];
    if (!(total >= 0.0 && total < INFINITY)) return Draw::kInvalid;
    if (total == 0.0) return Draw::kNothingLeft;
    Walk walk(u * total);
    for (int s = 0; s < a_.slices && !walk.arrived(); ++s) walk.pass(s, shared_.parts[s]);
    if (walk.place() == slice_) find(ending, walk);
    return Draw::kDone;
  }

  // A walk along weights to where their running sum passes the threshold. A threshold at or behind
  // the end of the rounded sums leads to the last place that has weight.
  class Walk {
   public:
    __device__ explicit Walk(double threshold, double before = 0.0)
        : threshold_(threshold), before_(before) {}

    __device__ void pass(int place, double weight) {
      if (weight <= 0.0) return;
      before_ += weight_;
      place_ = place;
      weight_ = weight;
      arrived_ = threshold_ < before_ + weight_;
    }
    __device__ bool arrived() const { return arrived_; }
    __device__ int place() const { return place_; }
    // The weight of all that lies before the place.
    __device__ double before() const { return before_; }
    __device__ double threshold() const { return threshold_; }

   private:
    double threshold_;
    double before_;
    double weight_ = 0.0;
    int place_ = -1;
    bool arrived_ = false;
  };

  // Finds the token in this block's part and writes it.
  __device__ void find(const Ending& ending, const Walk& parts) {
    float weights[kEntries];
    Walk steps(parts.threshold(), parts.before());
    int turn = 0;  // the barrier of one step lies between two uses of an array
    for (int step = begin_; step < end_ && !steps.arrived(); step += kVerifyStep) {
      const double mine = ending.weigh(step + first_of_thread(), end_, weights);
      steps.pass(step, join_block(mine, shared_.sums[turn], Sum{}));
      turn = 1 - turn;
    }
    const int at = steps.place() + first_of_thread();
    const double mine = ending.weigh(at, end_, weights);
    const double before = steps.before() + sum_before(mine, shared_.before);

    // The first thread whose entries pass the threshold; without any, the last that has weight.
    const int thread = static_cast<int>(threadIdx.x);
    constexpr int kNobody = kVerifyThreads;
    const bool passes = mine > 0.0 && steps.threshold() < before + mine;
    int finder = join_block(passes ? thread : kNobody, shared_.places[0], Lesser{});
    if (finder == kNobody) {
      finder = -join_block(mine > 0.0 ? -thread : 0, shared_.places[1], Lesser{});
    }
    if (thread == finder) {
      Walk entries(steps.threshold(), before);
#pragma unroll
      for (int k = 0; k < kEntries; ++k) {
        if (!entries.arrived()) entries.pass(at + k, static_cast<double>(weights[k]));
      }
      shared_.token = entries.place();
    }
    __syncthreads();
    write(shared_.token);
  }

  VerifyShared& shared_;
  Ending ending_;
};

__global__ void __launch_bounds__(kVerifyThreads, 3)
    verify_sampled(const __grid_constant__ VerifyArguments arguments) {
  SampledChain(arguments, shared_memory<VerifyShared>()).run();
}

}  // namespace tokentiming::cuda
