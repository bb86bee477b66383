// The draw of a chain's last token.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "distribution.h"

namespace tokentiming {

// Draws from weights over the vocabulary: p, max(p - q, 0), or p without one token.
template <class T>
class ResidualSampler {
 public:
  explicit ResidualSampler(Distribution<T> p) : p_(std::move(p)) {}
  ResidualSampler(Distribution<T> p, Distribution<T> q) : p_(std::move(p)), q_(std::move(q)) {}
  ResidualSampler(Distribution<T> p, std::size_t excluded)
      : p_(std::move(p)), excluded_(excluded) {}

  // The sum of a block's weights.
  double mass(std::size_t block) const {
    if (!q_ && !excludes_in(block)) return p_.mass(block);
    Block<T> weights;
    return compute_weights(block, weights.data());
  }

  // Draws a token by inverse-CDF search. `masses` are the sums of the weights of all blocks.
  std::size_t draw(std::span<const double> masses, double uniform) const {
    double total = 0.0;
    for (double mass : masses) total += mass;
    if (std::isnan(total)) refuse_probabilities();
    if (total > 0.0) return inverse_cdf(masses, uniform * total);
    if (!q_ && !excluded_) p_.refuse("has no mass");
    // Rounding has left no mass in the difference.
    const ResidualSampler all_of_p(p_);
    std::vector<double> p_masses(masses.size());
    for (std::size_t block = 0; block < masses.size(); ++block) {
      p_masses[block] = all_of_p.mass(block);
    }
    return all_of_p.draw(p_masses, uniform);
  }

 private:
  bool excludes_in(std::size_t block) const { return excluded_ && *excluded_ / kBlock == block; }

  // Writes a block's weights; returns their sum, or NaN if an entry is not a probability.
  double compute_weights(std::size_t block, T* weights) const {
    const std::size_t count = p_.count(block);
    const T* p = p_.probabilities(block, weights);
    if (q_) {
      Block<T> buffer;
      return p_.kernels().subtract(p, q_->probabilities(block, buffer.data()), count, weights);
    }
    if (p != weights) std::copy_n(p, count, weights);
    if (excludes_in(block)) weights[*excluded_ % kBlock] = 0;
    return p_.kernels().sum(weights, count);
  }

  // The first token at which the running sum of the weights exceeds `threshold`, or the last token
  // with weight if rounding leaves the threshold at or above the total.
  std::size_t inverse_cdf(std::span<const double> masses, double threshold) const {
    double prefix = 0.0;  // the sum of the weights before `selected`
    std::size_t selected = 0;
    for (std::size_t block = 0, nonempty = 0; block < masses.size(); ++block) {
      if (masses[block] <= 0.0) continue;
      if (nonempty++ > 0) prefix += masses[selected];
      selected = block;
      if (threshold < prefix + masses[block]) break;
    }
    Block<T> weights;
    compute_weights(selected, weights.data());
    std::size_t token = 0;
    for (std::size_t k = 0; k < p_.count(selected); ++k) {
      if (weights[k] <= 0) continue;
      token = k;
      prefix += static_cast<double>(weights[k]);
      if (threshold < prefix) break;
    }
    return selected * kBlock + token;
  }

  [[noreturn]] void refuse_probabilities() const {
    for (std::size_t block = 0; q_ && block < q_->blocks(); ++block) {
      if (std::isnan(q_->mass(block))) q_->refuse_probabilities();
    }
    p_.refuse_probabilities();
  }

  Distribution<T> p_;
  std::optional<Distribution<T>> q_;
  std::optional<std::size_t> excluded_;
};

}  // namespace tokentiming
