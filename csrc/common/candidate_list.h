// What `candidates` keeps of a row on CPU and GPU: entries in order, and the denominator of shares.
#pragma once

#include <cstdint>
#include <limits>

namespace tokentiming {

// A token and its score. With no token the id is -1 and the score -inf.
struct Candidate {
  double score = -std::numeric_limits<double>::infinity();
  std::int64_t id = -1;

  // Of equal scores the lower id comes first.
  constexpr bool before(const Candidate& other) const {
    return score > other.score || (score == other.score && id < other.id);
  }
};

// The sum of exp(logit) / E, as sum * exp(maximum). `exp` is that of the host or of the device.
struct RaceTotal {
  double maximum = -std::numeric_limits<double>::infinity();  // of the logits
  double sum = 0.0;

  template <class Exp>
  constexpr void add(const RaceTotal& other, const Exp& exp) {
    if (!(other.maximum > -std::numeric_limits<double>::infinity())) return;
    if (other.maximum > maximum) {
      sum = sum * exp(maximum - other.maximum) + other.sum;
      maximum = other.maximum;
    } else {
      sum += other.sum * exp(other.maximum - maximum);
    }
  }

  // The share of a token with this logit. It is not computed from the score, which has no bits left
  // for log E if the logit is large.
  template <class Exp>
  constexpr float share(double logit, double log_exponential, const Exp& exp) const {
    const double share = exp(logit - maximum - log_exponential) / sum;
    return share < 1.0 ? static_cast<float>(share) : 1.0f;
  }
};

}  // namespace tokentiming
