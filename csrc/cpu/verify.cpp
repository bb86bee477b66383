#include "tokentiming/verify.h"

#include <cmath>

#include "law.h"
#include "tokens.h"

namespace tokentiming {
namespace {

[[noreturn]] void refuse(const std::string& message) { tokentiming::refuse("verify", message); }

constexpr std::int64_t kMissing = -1;  // the id of a draw that hit missing mass

const char* target_name(const Laws& laws) {
  return laws.statement == Statement::kLogits ? "target_logits" : "target_probs";
}
const char* draft_name(const Laws& laws) {
  return laws.statement == Statement::kLogits ? "draft_logits" : "draft_probs";
}

// Draws from weights that `fill(block, out)` gives block by block. Empty if there is no weight; an
// index at or behind the end of the rounded sums goes to the last entry that has weight.
template <class T, class Fill>
std::optional<std::size_t> draw(const Law<T>& p, double uniform, const Fill& fill) {
  const BlockKernels<T>& kernels = block_kernels<T>().front();
  std::vector<double> sums(p.blocks());
  parallel_for(p.blocks(), kBlocksPerTask, [&](std::size_t block) {
    Block<T> weights;
    fill(block, weights.data());
    sums[block] = kernels.sum(weights.data(), p.count(block));
  });
  double total = 0.0;
  for (double sum : sums) total += sum;
  if (std::isnan(total)) p.refuse_probabilities();
  if (!(total > 0.0)) return std::nullopt;

  const double index = uniform * total;
  double before = 0.0;  // the weight of all that lies before `chosen`
  std::size_t chosen = 0;
  for (std::size_t block = 0, seen = 0; block < sums.size(); ++block) {
    if (sums[block] <= 0.0) continue;
    if (seen++ > 0) before += sums[chosen];
    chosen = block;
    if (index < before + sums[block]) break;
  }
  Block<T> weights;
  fill(chosen, weights.data());
  std::size_t token = 0;
  for (std::size_t k = 0; k < p.count(chosen); ++k) {
    if (weights[k] <= 0) continue;
    token = k;
    before += static_cast<double>(weights[k]);
    if (index < before) break;
  }
  return chosen * kBlock + token;
}

template <class T>
std::size_t draw_from(const Law<T>& p, double uniform) {
  const auto token = draw(p, uniform, [&](std::size_t block, T* out) { p.read_block(block, out); });
  if (!token) p.refuse("has no mass");
  return *token;
}

// From max(p - q, 0).
template <class T>
std::size_t draw_residual(const Law<T>& p, const Law<T>& q, double uniform) {
  const BlockKernels<T>& kernels = block_kernels<T>().front();
  const auto token = draw(p, uniform, [&](std::size_t block, T* out) {
    Block<T> proposed;
    p.read_block(block, out);
    q.read_block(block, proposed.data());
    // NaN and negative entries must not vanish in the difference.
    if (std::isnan(kernels.sum(out, p.count(block)))) p.refuse_probabilities();
    if (std::isnan(kernels.sum(proposed.data(), p.count(block)))) q.refuse_probabilities();
    kernels.subtract(out, proposed.data(), p.count(block));
  });
  return token ? *token : draw_from(p, uniform);
}

// From p without `token`.
template <class T>
std::size_t draw_other(const Law<T>& p, std::size_t token, double uniform) {
  const auto other = draw(p, uniform, [&](std::size_t block, T* out) {
    p.read_block(block, out);
    if (token / kBlock == block) out[token % kBlock] = 0;
  });
  return other ? *other : draw_from(p, uniform);
}

// One chain's outcome.
struct Outcome {
  std::size_t accepted = 0;
  std::size_t token = 0;  // the one behind the accepted ones
};

template <class T, class Id>
class Verifier {
 public:
  explicit Verifier(const Chains<Id>& chains) : chains_(chains) {}

  Outcome sampled(std::size_t b) const {
    const auto begin = static_cast<std::size_t>(chains_.draft.offsets[b]);
    const auto end = static_cast<std::size_t>(chains_.draft.offsets[b + 1]);
    const double last = uniform(end + b);
    for (std::size_t t = begin; t < end; ++t) {
      const Law<T> p = target(t + b);
      const std::int64_t id = chains_.draft.ids[t];
      const auto token = static_cast<std::size_t>(id);
      // u < p / q, without a division by zero.
      if (!chains_.proposals) {
        if (uniform(t + b) < static_cast<double>(p(token))) continue;
        return {t - begin, draw_other(p, token, last)};
      }
      const Laws& proposals = *chains_.proposals;
      const Law<T> q(proposals, t, chains_.temperature, draft_name(proposals));
      if (id != kMissing &&
          uniform(t + b) * static_cast<double>(q(token)) < static_cast<double>(p(token))) {
        continue;
      }
      return {t - begin, draw_residual(p, q, last)};
    }
    return {end - begin, draw_from(target(end + b), last)};
  }

  Outcome greedy(std::size_t b) const {
    const auto begin = static_cast<std::size_t>(chains_.draft.offsets[b]);
    const auto end = static_cast<std::size_t>(chains_.draft.offsets[b + 1]);
    for (std::size_t t = begin;; ++t) {
      const std::size_t best = first_maximum(t + b);
      if (t == end || static_cast<std::int64_t>(best) != chains_.draft.ids[t]) {
        return {t - begin, best};
      }
    }
  }

 private:
  double uniform(std::size_t k) const {
    return std::visit([&](auto values) { return static_cast<double>(values[k]); },
                      chains_.uniforms);
  }

  Law<T> target(std::size_t row) const {
    return Law<T>(chains_.targets, row, chains_.temperature, target_name(chains_.targets));
  }

  std::size_t first_maximum(std::size_t row) const {
    return std::visit([&](const auto& rows) { return first_maximum_of(rows, row); },
                      chains_.targets.rows);
  }

  template <class Number>
  std::size_t first_maximum_of(const Rows<const Number>& rows, std::size_t row) const {
    const Number* logits = rows[row];
    const std::size_t blocks = (rows.columns + kBlock - 1) / kBlock;
    std::vector<T> maxima(blocks);
    const auto read = [&](std::size_t block, T* buffer) {
      const std::size_t count = std::min(kBlock, rows.columns - block * kBlock);
      for (std::size_t k = 0; k < count; ++k) {
        buffer[k] = static_cast<T>(widen(logits[block * kBlock + k]));
      }
      return count;
    };
    parallel_for(blocks, kBlocksPerTask, [&](std::size_t block) {
      Block<T> buffer;
      const std::size_t count = read(block, buffer.data());
      maxima[block] = block_kernels<T>().front().maximum(buffer.data(), count);
    });
    const std::size_t block =
        static_cast<std::size_t>(std::max_element(maxima.begin(), maxima.end()) - maxima.begin());
    const std::string where = "target_logits[" + std::to_string(row) + "] ";
    if (maxima[block] == std::numeric_limits<T>::infinity()) refuse(where + "holds NaN or +inf");
    if (maxima[block] == -std::numeric_limits<T>::infinity()) {
      refuse(where + "has no finite logit");
    }
    Block<T> buffer;
    const std::size_t count = read(block, buffer.data());
    return block * kBlock +
           static_cast<std::size_t>(
               std::find(buffer.begin(), buffer.begin() + count, maxima[block]) - buffer.begin());
  }

  const Chains<Id>& chains_;
};

template <class Id>
void check(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
           std::span<std::int32_t> accepted) {
  const auto& offsets = chains.draft.offsets;
  const std::size_t drafted = chains.draft.ids.size();
  check_offsets(chains.draft, "verify", "offsets", "draft_ids");
  const std::size_t batch = offsets.size() - 1;
  const auto row_count = [](const Laws& laws) {
    return std::visit([](const auto& rows) { return rows.rows; }, laws.rows);
  };
  const std::string target = target_name(chains.targets);
  const std::size_t columns = Law<double>::columns(chains.targets);
  if (row_count(chains.targets) != drafted + batch) {
    refuse(target + " has " + std::to_string(row_count(chains.targets)) + " rows; " +
           std::to_string(drafted) + " drafted tokens in " + std::to_string(batch) +
           " chains need " + std::to_string(drafted + batch));
  }
  if (columns == 0 && batch > 0) refuse(target + " has no columns");
  if (chains.proposals) {
    const std::string draft = draft_name(*chains.proposals);
    if (row_count(*chains.proposals) != drafted) {
      refuse(draft + " has " + std::to_string(row_count(*chains.proposals)) + " rows, draft_ids " +
             std::to_string(drafted) + " entries");
    }
    if (Law<double>::columns(*chains.proposals) != columns) {
      refuse(draft + " has " + std::to_string(Law<double>::columns(*chains.proposals)) +
             " columns, " + target + " has " + std::to_string(columns));
    }
  }
  const bool may_miss =
      chains.proposals && chains.proposals->statement == Statement::kProbabilities;
  for (std::size_t t = 0; t < drafted; ++t) {
    const std::int64_t id = chains.draft.ids[t];
    if (id == kMissing && may_miss) continue;
    if (id < 0 || id >= static_cast<std::int64_t>(columns)) {
      refuse("draft_ids[" + std::to_string(t) + "] is " + std::to_string(id) +
             ", outside a vocabulary of " + std::to_string(columns) + " tokens" +
             (id == kMissing ? "; only a draw from draft_probs can be missing mass" : ""));
    }
  }

  if (!(chains.temperature >= 0.0 && std::isfinite(chains.temperature))) {
    refuse("temperature is " + std::to_string(chains.temperature) + "; it must be 0 or more");
  }
  if (chains.temperature != 1.0 && chains.targets.statement == Statement::kProbabilities) {
    refuse("temperature applies to target_logits; target_probs are taken as they are");
  }
  if (chains.temperature > 0.0) {
    std::visit(
        [&](auto uniforms) {
          if (uniforms.size() != drafted + batch) {
            refuse("uniforms has " + std::to_string(uniforms.size()) +
                   " entries; one for each row of " + target + " is needed, " +
                   std::to_string(drafted + batch));
          }
          for (std::size_t k = 0; k < uniforms.size(); ++k) {
            if (!(uniforms[k] >= 0 && uniforms[k] < 1)) {
              refuse("uniforms[" + std::to_string(k) + "] is " + std::to_string(uniforms[k]) +
                     ", not in [0, 1)");
            }
          }
        },
        chains.uniforms);
  }

  std::int64_t longest = 0;
  for (std::size_t b = 0; b < batch; ++b) longest = std::max(longest, offsets[b + 1] - offsets[b]);
  if (tokens.rows != batch ||
      (batch > 0 && tokens.columns < static_cast<std::size_t>(longest) + 1)) {
    refuse("out.tokens must be [" + std::to_string(batch) + ", " + std::to_string(longest + 1) +
           "], got [" + std::to_string(tokens.rows) + ", " + std::to_string(tokens.columns) + "]");
  }
  if (accepted.size() != batch) {
    refuse("out.accepted must have " + std::to_string(batch) + " entries, one a chain");
  }
}

bool is_double(const Laws& laws) { return std::holds_alternative<Rows<const double>>(laws.rows); }

}  // namespace

template <class Id>
void verify(const Chains<Id>& chains, const Rows<std::int32_t>& tokens,
            std::span<std::int32_t> accepted) {
  check(chains, tokens, accepted);
  std::vector<Outcome> outcomes(accepted.size());
  const auto run = [&]<class T>(T) {
    const Verifier<T, Id> verifier(chains);
    const std::size_t columns = std::max<std::size_t>(1, Law<T>::columns(chains.targets));
    const std::size_t grain = std::max<std::size_t>(1, kBlocksPerTask * kBlock / columns);
    parallel_for(outcomes.size(), grain, [&](std::size_t b) {
      outcomes[b] = chains.temperature > 0.0 ? verifier.sampled(b) : verifier.greedy(b);
    });
  };
  const bool precise =
      is_double(chains.targets) || (chains.proposals && is_double(*chains.proposals));
  precise ? run(double{}) : run(float{});

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
