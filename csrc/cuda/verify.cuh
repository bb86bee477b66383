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

// Those of a position's two rows.
struct Peaks {
  Peak p;
  Peak q;
};

__device__ inline Peak exchanged(const Peak& mine, unsigned other) {
  return {__shfl_xor_sync(kAllLanes, mine.maximum, other), exchanged(mine.sum, other)};
}
__device__ inline Peaks exchanged(const Peaks& mine, unsigned other) {
  return {exchanged(mine.p, other), exchanged(mine.q, other)};
}

// On the greater maximum. NaN in a sum stays.
struct JoinPeaks {
  float scale;

  __device__ Peaks operator()(const Peaks& a, const Peaks& b) const {
    return {(*this)(a.p, b.p), (*this)(a.q, b.q)};
  }
  __device__ Peak operator()(const Peak& a, const Peak& b) const {
    const float maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
    return {maximum, a.sum * share(a.maximum, maximum) + b.sum * share(b.maximum, maximum)};
  }
  __device__ double share(float maximum, float common) const {
    return maximum == common ? 1.0 : static_cast<double>(power_of_two((maximum - common) * scale));
  }
};

struct Lesser {
  __device__ int operator()(int a, int b) const { return a < b ? a : b; }
};

// What makes probabilities of a row's powers of two: the greatest logit, and 1 by their sum.
struct Norm {
  float shift = 0.0f;
  float factor = 1.0f;

  // False if logits of this peak have no distribution.
  __device__ bool set(const Peak& peak) {
    if (!(peak.sum > 0.0 && peak.sum < INFINITY && peak.maximum < kInfinity)) return false;
    shift = peak.maximum;
    factor = static_cast<float>(1.0 / peak.sum);
    return true;
  }
};

// A row of logits, normalised, or of probabilities.
struct Distribution {
  const DeviceDistributions* distributions;
  std::int64_t row;
  float scale;
  Norm norm;

  __device__ float probability(float entry) const {
    if (!distributions->logits) return entry;
    return power_of_two((entry - norm.shift) * scale) * norm.factor;
  }
  __device__ void read(int at, int end, float (&out)[kEntries]) const {
    distributions->read(row, at, end, out);
#pragma unroll
    for (int k = 0; k < kEntries; ++k) out[k] = probability(out[k]);
  }
  __device__ static bool is_probability(float x) { return x >= 0.0f && x < kInfinity; }
};

// What a token is drawn from: p, max(p - q, 0), or p without a token.
struct Ending {
  Distribution p;
  Distribution q;
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
      const bool sound =
          Distribution::is_probability(weights[k]) && Distribution::is_probability(other[k]);
      const float excess = weights[k] > other[k] ? weights[k] - other[k] : 0.0f;
      weights[k] = at + k == without ? 0.0f : excess;
      sum += sound ? weights[k] : NAN;
    }
    return static_cast<double>(sum);
  }
};

// What the rule asks of a position besides its distributions. The entries are those of the rows for
// the id, if that is a token.
struct Proposed {
  std::int64_t id;
  double u;
  float p_entry;
  float q_entry;
};

// What becomes of a position's token, and what the draw has to know if it ends the chain.
enum class Verdict { kAccepted, kEnded, kInvalid };
struct Ruling {
  Verdict verdict;
  Norm p;
  Norm q;
  int without;  // the token that a chain without proposals ends at, or -1
};

// A walk along weights to where their running sum passes the threshold. A threshold at or behind
// the end of the rounded sums leads to the last place that has weight.
class Walk {
 public:
  __device__ explicit Walk(double threshold = 0.0, double before = 0.0)
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

// Which block's part of the row holds the token, if any does.
enum class Draw { kFound, kNothingLeft, kInvalid };
struct Found {
  Draw draw;
  Walk parts;
};

struct VerifyShared {
  OfWarps<Peak> peaks[2];
  Proposed proposed;
  Ruling rulings[2];  // in turn, as some threads read while others go on
  OfWarps<double> sums;
  OfWarps<double> before;
  OfWarps<int> places[2];
  double parts[kMostSlices];
  Found found;
  Walk steps;
  int token;
};

class SampledChain : public Chain {
 public:
  __device__ SampledChain(const VerifyArguments& a, VerifyShared& shared)
      : Chain(a), shared_(shared) {}

  __device__ void run() {
    if (!is_sound()) return write_invalid();
    for (;; ++position_) {
      judge();
      if (ruling_.verdict == Verdict::kAccepted) continue;
      if (ruling_.verdict == Verdict::kInvalid) return write_invalid();
      return end_chain();
    }
  }

 private:
  __device__ double uniform(std::int64_t k) const {
    return a_.wide_uniforms ? static_cast<const double*>(a_.uniforms)[k]
                            : static_cast<double>(static_cast<const float*>(a_.uniforms)[k]);
  }
  __device__ static bool is_uniform(double u) { return u >= 0.0 && u < 1.0; }
  __device__ bool is_token(std::int64_t id) const { return id >= 0 && id < a_.columns; }

  __device__ Proposed look_up() const {
    if (at_end()) return {};
    Proposed found{a_.ids[proposal_row()], uniform(target_row()), 0.0f, 0.0f};
    if (!is_token(found.id)) return found;
    const int token = static_cast<int>(found.id);
    found.p_entry = a_.targets.entry(target_row(), token);
    if (a_.proposals.given) found.q_entry = a_.proposals.entry(proposal_row(), token);
    return found;
  }

  __device__ Distribution p(const Norm& norm) const {
    return {&a_.targets, target_row(), a_.scale, norm};
  }
  __device__ Distribution q(const Norm& norm) const {
    return {&a_.proposals, proposal_row(), a_.scale, norm};
  }
  __device__ bool from_difference() const { return a_.proposals.given && !at_end(); }

  // Decides on the position's token. The blocks of a chain each decide, and alike: their first
  // threads do the same with the same numbers.
  __device__ void judge() {
    const bool of_p = a_.targets.logits;
    const bool of_q = from_difference() && a_.proposals.logits;
    const bool reads = of_p || of_q;
    if (reads) read_rows(of_p, of_q);
    Peaks peaks;
    if (reads && threadIdx.x < kWarp) peaks = join_findings();
    ruling_ = decide_once(shared_.rulings[position_ % 2], [&] {
      Ruling ruling{Verdict::kInvalid, {}, {}, -1};
      const bool normal = (!of_p || ruling.p.set(peaks.p)) && (!of_q || ruling.q.set(peaks.q));
      if (normal) rule(reads ? shared_.proposed : look_up(), ruling);
      return ruling;
    });
  }

  __device__ void rule(const Proposed& proposed, Ruling& ruling) const {
    const std::int64_t id = proposed.id;
    const double u = proposed.u;
    const auto end = [&](int without) {
      ruling.verdict = Verdict::kEnded;
      ruling.without = without;
    };
    if (at_end()) return end(-1);
    if (!is_uniform(u)) return;
    if (id == kMissing && a_.proposals.given && !a_.proposals.logits) return end(-1);
    if (!is_token(id)) return;

    const float p_token = p(ruling.p).probability(proposed.p_entry);
    const float q_token = a_.proposals.given ? q(ruling.q).probability(proposed.q_entry) : 1.0f;
    if (!Distribution::is_probability(p_token) || !Distribution::is_probability(q_token)) return;
    // u < p / q, without a division by zero.
    if (u * static_cast<double>(q_token) < static_cast<double>(p_token)) {
      ruling.verdict = Verdict::kAccepted;
    } else {
      end(a_.proposals.given ? -1 : static_cast<int>(id));
    }
  }

  // Reads those of the position's rows that hold logits, and what is proposed.
  __device__ void read_rows(bool of_p, bool of_q) {
    const auto leave = [&](const DeviceDistributions& distributions, std::int64_t row,
                           OfWarps<Peak>& of_warps) {
      leave_for_block(join_warp(part_of(distributions, row), JoinPeaks{a_.scale}), of_warps);
    };
    if (of_p) leave(a_.targets, target_row(), shared_.peaks[0]);
    if (of_q) leave(a_.proposals, proposal_row(), shared_.peaks[1]);
    __syncthreads();
    if (threadIdx.x < kWarp) publish(of_p, of_q);
    if (threadIdx.x == kWarp) shared_.proposed = look_up();  // while the first thread waits
    meet();
  }

  // What the block's warps have found, joined by the first of them.
  __device__ void publish(bool of_p, bool of_q) const {
    const unsigned warp = threadIdx.x;
    Peaks peaks;
    if (of_p && warp < kVerifyThreads / kWarp) peaks.p = shared_.peaks[0][warp];
    if (of_q && warp < kVerifyThreads / kWarp) peaks.q = shared_.peaks[1][warp];
    peaks = join_warp(peaks, JoinPeaks{a_.scale});
    if (threadIdx.x != 0) return;
    double* mine = findings(slice_);
    mine[0] = static_cast<double>(peaks.p.maximum);
    mine[1] = peaks.p.sum;
    mine[2] = static_cast<double>(peaks.q.maximum);
    mine[3] = peaks.q.sum;
  }

  // What all blocks have found, joined by a warp for its first lane.
  __device__ Peaks join_findings() const {
    const JoinPeaks join{a_.scale};
    Peaks peaks;
    for (int s = static_cast<int>(threadIdx.x % kWarp); s < a_.slices;
         s += static_cast<int>(kWarp)) {
      const double* found = findings(s);
      peaks = join(peaks, {{static_cast<float>(__ldcg(found)), __ldcg(found + 1)},
                           {static_cast<float>(__ldcg(found + 2)), __ldcg(found + 3)}});
    }
    return join_warp(peaks, join);
  }

  // This thread's entries of a row.
  __device__ Peak part_of(const DeviceDistributions& distributions, std::int64_t at_row) const {
    const float scale = a_.scale;
    return distributions.with_row(at_row, [&](const auto* row) -> Peak {
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
          sum *= power_of_two((maximum - greatest) * scale);
          maximum = greatest;
        }
        const float shift = maximum == -kInfinity ? 0.0f : maximum;
        float here = 0.0f;
#pragma unroll
        for (int k = 0; k < kEntries; ++k) here += power_of_two((x[k] - shift) * scale);
        sum += here;
      });
      return {maximum, static_cast<double>(sum)};
    });
  }

  __device__ void end_chain() {
    const double u = uniform(a_.chains.end(b_) + b_);
    if (!is_uniform(u)) return write_invalid();
    Ending ending{p(ruling_.p), q(ruling_.q), from_difference(), ruling_.without};
    Found found = find_part(ending, u, 0);
    if (found.draw == Draw::kNothingLeft && (ending.from_difference || ending.without >= 0)) {
      // Rounding has left nothing of the difference.
      ending.from_difference = false;
      ending.without = -1;
      found = find_part(ending, u, 1);
    }
    if (found.draw != Draw::kFound) return write_invalid();
    if (found.parts.place() == slice_) write(find(ending, found.parts));
  }

  // Finds the block whose part holds the token. `attempt` is 0 or 1.
  __device__ Found find_part(const Ending& ending, double u, int attempt) {
    float weights[kEntries];
    double part = 0.0;
    for (int at = begin_ + first_of_thread(); at < end_; at += kVerifyStep) {
      part += ending.weigh(at, end_, weights);
    }
    part = join_block(part, shared_.sums, Sum{});
    double* const masses = a_.masses + (2 * static_cast<std::int64_t>(b_) + attempt) * a_.slices;
    if (threadIdx.x == 0) masses[slice_] = part;
    meet();

    if (static_cast<int>(threadIdx.x) < a_.slices) {
      shared_.parts[threadIdx.x] = __ldcg(masses + threadIdx.x);
    }
    __syncthreads();
    return decide_once(shared_.found, [&] { return walk_parts(u); });
  }

  __device__ Found walk_parts(double u) const {
    double total = 0.0;
    for (int s = 0; s < a_.slices; ++s) total += shared_.parts[s];
    if (!(total >= 0.0 && total < INFINITY)) return {Draw::kInvalid, Walk()};
    if (total == 0.0) return {Draw::kNothingLeft, Walk()};
    Walk parts(u * total);
    for (int s = 0; s < a_.slices && !parts.arrived(); ++s) parts.pass(s, shared_.parts[s]);
    return {Draw::kFound, parts};
  }

  // Finds the token in this block's part.
  __device__ int find(const Ending& ending, const Walk& parts) {
    float weights[kEntries];
    Walk steps(parts.threshold(), parts.before());
    for (int step = begin_; step < end_ && !steps.arrived(); step += kVerifyStep) {
      const double mine = ending.weigh(step + first_of_thread(), end_, weights);
      const double sum = join_block(mine, shared_.sums, Sum{});
      steps = decide_once(shared_.steps, [&] {
        steps.pass(step, sum);
        return steps;
      });
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
    return shared_.token;
  }

  VerifyShared& shared_;
  Ruling ruling_{};  // of the position
};

__global__ void __launch_bounds__(kVerifyThreads, 3)
    verify_sampled(const __grid_constant__ VerifyArguments arguments) {
  SampledChain(arguments, shared_memory<VerifyShared>()).run();
}

}  // namespace tokentiming::cuda
