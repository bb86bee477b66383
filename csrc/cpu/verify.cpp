#include "tokentiming/verify.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <span>

#include "mapped_row.h"
#include "parallel.h"
#include "residual_sampler.h"
#include "tokens.h"
#include "verify_checks.h"

namespace tokentiming {
namespace {

[[noreturn]] void refuse(const std::string& message) { tokentiming::refuse("verify", message); }

constexpr std::int64_t kMissingMass = -1;  // the id of a draft token drawn in missing mass

// Blocks of a task: with 32 KiB of floats, waking a thread, which takes microseconds, pays.
constexpr std::size_t kBlocksPerTask = 8;
// Chains of a task, once their rows are reduced.
constexpr std::size_t kChainsPerTask = 8;

// One chain's outcome.
struct Outcome {
  std::size_t accepted = 0;
  std::size_t token = 0;  // after the accepted ones
};

template <class Id>
double temperature_of(const Chains<Id>& chains, std::size_t b) {
  return chains.temperatures.empty() ? chains.temperature
                                     : static_cast<double>(chains.temperatures[b]);
}

// Memory for the one row of a chain that is needed over the target's vocabulary.
template <class T>
class DenseRow {
 public:
  template <class Id>
  Distribution<T> fill(const MappedRow<T, Id>& row, std::size_t columns) {
    entries_.assign(columns, T{0});
    row.write(entries_);
    distributions_ = {Rows<const T>{entries_.data(), 1, columns, 0}, false};
    return {distributions_, 0, 1.0, "draft_map"};
  }

 private:
  std::vector<T> entries_;
  Distributions distributions_;
};

// All chains advance position by position: threads share a row even if there is one chain, and no
// row after a rejection is read.
template <class T, class Id>
class Verifier {
 public:
  explicit Verifier(const Chains<Id>& chains)
      : chains_(chains),
        outcomes_(chains.draft.offsets.size() - 1),
        blocks_(Row<T>::blocks(chains.targets)),
        dense_rows_(chains.draft_map ? outcomes_.size() : 0) {}

  std::vector<Outcome> run() {
    const auto chains = [&](bool greedy) {
      std::vector<std::size_t> found;
      for (std::size_t b = 0; b < outcomes_.size(); ++b) {
        if ((temperature_of(chains_, b) == 0.0) == greedy) found.push_back(b);
      }
      return found;
    };
    active_ = chains(false);
    sample();
    active_ = chains(true);
    greedy();
    return std::move(outcomes_);
  }

 private:
  void sample() {
    const std::vector<std::size_t> sampled = active_;
    std::vector<std::optional<ResidualSampler<T>>> samplers(outcomes_.size());
    for (std::size_t position = 0; !active_.empty(); ++position) advance(position, samplers);
    std::vector<double> masses(sampled.size() * blocks_);
    parallel_for(masses.size(), kBlocksPerTask, [&](std::size_t k) {
      masses[k] = samplers[sampled[k / blocks_]]->mass(k % blocks_);
    });
    parallel_for(sampled.size(), kChainsPerTask, [&](std::size_t k) {
      const std::size_t b = sampled[k];
      const std::span of_chain(&masses[k * blocks_], blocks_);
      outcomes_[b].token = samplers[b]->draw(of_chain, uniform(end(b) + b));
    });
  }

  void greedy() {
    for (std::size_t position = 0; !active_.empty(); ++position) {
      std::vector<T> maxima(active_.size() * blocks_);
      parallel_for(maxima.size(), kBlocksPerTask, [&](std::size_t k) {
        Block<T> buffer;
        const Row<T> row = target_row(active_[k / blocks_], position);
        const std::size_t block = k % blocks_;
        maxima[k] = row.kernels().maximum(row.read(block, buffer.data()), row.count(block));
      });
      keep_active([&](std::size_t k) {
        const std::size_t b = active_[k];
        const std::size_t t = begin(b) + position;
        const std::size_t best = first_maximum(target_row(b, position), &maxima[k * blocks_]);
        if (t < end(b) && static_cast<std::int64_t>(best) == chains_.draft.ids[t]) return true;
        outcomes_[b] = {position, best};
        return false;
      });
    }
  }

  // Accepts or rejects the tokens of one position.
  void advance(std::size_t position, std::vector<std::optional<ResidualSampler<T>>>& samplers) {
    // The distributions of the targets, then those of the proposals. A chain at its end has no
    // proposal.
    std::vector<Distribution<T>> distributions;
    distributions.reserve(2 * active_.size());
    for (std::size_t b : active_) {
      distributions.emplace_back(chains_.targets, begin(b) + position + b,
                                 temperature_of(chains_, b), target_name(chains_.targets));
    }
    // The index of each chain's proposal in `distributions`.
    std::vector<std::size_t> q_index(chains_.proposals ? active_.size() : 0);
    for (std::size_t k = 0; k < q_index.size(); ++k) {
      const std::size_t t = begin(active_[k]) + position;
      if (t == end(active_[k])) continue;
      q_index[k] = distributions.size();
      distributions.emplace_back(*chains_.proposals, draft_row(t),
                                 temperature_of(chains_, active_[k]),
                                 draft_name(*chains_.proposals));
    }
    normalise_logits(distributions);
    keep_active([&](std::size_t k) {
      const std::size_t b = active_[k];
      const std::size_t t = begin(b) + position;
      Distribution<T>& p = distributions[k];
      outcomes_[b].accepted = position;
      if (t == end(b)) {
        samplers[b].emplace(std::move(p));
        return false;
      }
      const std::int64_t id = chains_.draft.ids[t];
      const auto token = static_cast<std::size_t>(id);
      // u < p / q, without dividing by zero.
      if (!chains_.proposals) {
        if (uniform(t + b) < static_cast<double>(p(token))) return true;
        samplers[b].emplace(std::move(p), token);
        return false;
      }
      Distribution<T>& q = distributions[q_index[k]];
      const auto accepts = [&](const auto& proposal) {
        return id != kMissingMass && uniform(t + b) * static_cast<double>(proposal(token)) <
                                         static_cast<double>(p(token));
      };
      if (chains_.draft_map == nullptr) {
        if (accepts(q)) return true;
        samplers[b].emplace(std::move(p), std::move(q));
        return false;
      }
      const MappedRow<T, Id> mapped(q, *chains_.draft_map, taken(b, t), p.columns());
      if (accepts(mapped)) return true;
      samplers[b].emplace(std::move(p), dense_rows_[b].fill(mapped, p.columns()));
      return false;
    });
  }

  // The row of proposals of a token.
  std::size_t draft_row(std::size_t t) const {
    return chains_.draft_rows ? static_cast<std::size_t>((*chains_.draft_rows)[t]) : t;
  }

  // The tokens before t in its chain that are of the same expansion.
  std::span<const Id> taken(std::size_t b, std::size_t t) const {
    std::size_t first = t;
    if (chains_.draft_rows) {
      while (first > begin(b) && draft_row(first - 1) == draft_row(t)) --first;
    }
    return chains_.draft.ids.subspan(first, t - first);
  }

  // Normalises the rows of logits. They are contiguous: all rows, the targets', or the proposals'.
  // With a map the latter have another width.
  void normalise_logits(std::vector<Distribution<T>>& distributions) const {
    const auto any = std::ranges::find_if(distributions, &Distribution<T>::is_logits);
    const std::span of_logits(
        any, std::find_if_not(any, distributions.end(), std::mem_fn(&Distribution<T>::is_logits)));
    std::size_t most = 0;
    for (const Distribution<T>& distribution : of_logits) {
      most = std::max(most, distribution.blocks());
    }
    parallel_for(of_logits.size() * most, kBlocksPerTask, [&](std::size_t k) {
      Distribution<T>& distribution = of_logits[k / most];
      if (k % most < distribution.blocks()) distribution.reduce_block(k % most);
    });
    for (Distribution<T>& distribution : of_logits) distribution.normalise();
  }

  // Removes the chains that do not continue. `continues` takes an index of active_.
  template <class Continues>
  void keep_active(const Continues& continues) {
    constexpr auto kFinished = static_cast<std::size_t>(-1);
    parallel_for(active_.size(), kChainsPerTask, [&](std::size_t k) {
      if (!continues(k)) active_[k] = kFinished;
    });
    std::erase(active_, kFinished);
  }

  Row<T> target_row(std::size_t b, std::size_t position) const {
    return {chains_.targets, begin(b) + position + b, target_name(chains_.targets)};
  }

  std::size_t first_maximum(const Row<T>& row, const T* maxima) const {
    const auto block =
        static_cast<std::size_t>(std::max_element(maxima, maxima + blocks_) - maxima);
    row.require_finite(maxima[block]);
    Block<T> buffer;
    const T* x = row.read(block, buffer.data());
    return block * kBlock +
           static_cast<std::size_t>(std::find(x, x + row.count(block), maxima[block]) - x);
  }

  std::size_t begin(std::size_t b) const {
    return static_cast<std::size_t>(chains_.draft.offsets[b]);
  }
  std::size_t end(std::size_t b) const { return begin(b + 1); }

  double uniform(std::size_t k) const {
    return std::visit([&](auto values) { return static_cast<double>(values[k]); },
                      chains_.uniforms);
  }

  const Chains<Id>& chains_;
  std::vector<Outcome> outcomes_;
  std::size_t blocks_;
  std::vector<std::size_t> active_;
  std::vector<DenseRow<T>> dense_rows_;  // of each chain, with a map
};

// The temperature and the uniforms of a chain.
template <class Id>
void check_chain(const Chains<Id>& chains, std::size_t b) {
  const double temperature = temperature_of(chains, b);
  if (!(temperature >= 0.0 && std::isfinite(temperature))) {
    refuse("temperatures[" + std::to_string(b) + "] is " + std::to_string(temperature) +
           "; it must be 0 or more");
  }
  if (temperature == 0.0) return;
  const std::size_t begin = static_cast<std::size_t>(chains.draft.offsets[b]) + b;
  const std::size_t end = static_cast<std::size_t>(chains.draft.offsets[b + 1]) + b;
  std::visit(
      [&](auto uniforms) {
        for (std::size_t k = begin; k <= end; ++k) {
          if (!(uniforms[k] >= 0 && uniforms[k] < 1)) {
            refuse("uniforms[" + std::to_string(k) + "] is " + std::to_string(uniforms[k]) +
                   ", not in [0, 1)");
          }
        }
      },
      chains.uniforms);
}

template <class Id>
void check(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
           std::span<std::int32_t> accepted) {
  const auto& offsets = chains.draft.offsets;
  const std::size_t drafted = chains.draft.ids.size();
  check_offsets(chains.draft, "verify", "offsets", "draft_ids");
  const std::size_t batch = offsets.size() - 1;
  check_verify_sizes(chains, batch, accepted.size());
  std::int64_t longest = 0;
  for (std::size_t b = 0; b < batch; ++b) longest = std::max(longest, offsets[b + 1] - offsets[b]);
  if (tokens.rows != batch ||
      (batch > 0 && tokens.columns < static_cast<std::size_t>(longest) + 1)) {
    refuse_tokens(batch, longest, tokens);
  }

  const std::size_t columns = columns_of(chains.targets);
  const bool missable = may_miss(chains);
  for (std::size_t t = 0; t < drafted; ++t) {
    const std::int64_t id = chains.draft.ids[t];
    if (id == kMissingMass && missable) continue;
    if (id < 0 || id >= static_cast<std::int64_t>(columns)) {
      refuse("draft_ids[" + std::to_string(t) + "] is " + std::to_string(id) +
             ", outside a vocabulary of " + std::to_string(columns) + " tokens" +
             (id == kMissingMass
                  ? "; only a draw from draft_probs, or with draft_map, can be missing mass"
                  : ""));
    }
  }
  for (std::size_t t = 0; chains.draft_rows && t < chains.draft_rows->size(); ++t) {
    const std::int64_t row = (*chains.draft_rows)[t];
    if (row >= 0 && row < static_cast<std::int64_t>(rows_of(*chains.proposals))) continue;
    refuse("draft_rows[" + std::to_string(t) + "] is " + std::to_string(row) + ", not one of the " +
           std::to_string(rows_of(*chains.proposals)) + " rows of " +
           draft_name(*chains.proposals));
  }
  for (std::size_t b = 0; b < batch; ++b) check_chain(chains, b);
}

bool is_double(const Distributions& distributions) {
  return std::holds_alternative<Rows<const double>>(distributions.rows);
}

}  // namespace

template <class Id>
void verify(const Chains<Id>& given, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted) {
  check(given, tokens, accepted);
  const Chains<Id> chains = without_padding(given);
  const auto run = [&]<class T>(T) { return Verifier<T, Id>(chains).run(); };
  const bool in_double =
      is_double(chains.targets) || (chains.proposals && is_double(*chains.proposals));
  const std::vector<Outcome> outcomes = in_double ? run(double{}) : run(float{});

  for (std::size_t b = 0; b < outcomes.size(); ++b) {
    const auto& drafted =
        chains.draft.ids.subspan(static_cast<std::size_t>(chains.draft.offsets[b]));
    const std::size_t count = outcomes[b].accepted;
    std::int32_t* row = tokens[b];
    for (std::size_t k = 0; k < count; ++k) row[k] = static_cast<std::int32_t>(drafted[k]);
    row[count] = static_cast<std::int32_t>(outcomes[b].token);
    std::fill(row + count + 1, row + tokens.columns, -1);
    accepted[b] = static_cast<std::int32_t>(count);
  }
}

template void verify(const Chains<std::int32_t>&, const Rows<std::int32_t>&,
                     std::span<std::int32_t>);
template void verify(const Chains<std::int64_t>&, const Rows<std::int32_t>&,
                     std::span<std::int32_t>);

}  // namespace tokentiming
