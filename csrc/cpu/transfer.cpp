#include "tokentiming/transfer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.h"
#include "tokens.h"
#include "transfer_checks.h"

namespace tokentiming {
namespace {

constexpr const char* kTransfer = "transfer";
constexpr const char* kRestrict = "restrict";

constexpr std::int64_t kNone = -1;  // an entry of the map without a target token

// Map entries of a task; waking a thread does not pay for fewer.
constexpr std::size_t kEntriesPerTask = 32768;

std::size_t rows_per_task(std::size_t columns) {
  return std::max<std::size_t>(1, kEntriesPerTask / std::max<std::size_t>(1, columns));
}

// Adds row[d] to out[to[d]] for every d with to[d] >= 0; returns the mass added.
template <class Number>
double scatter(const Number* row, std::span<const std::int32_t> to, std::span<Number> out,
               const char* function, const char* map_name, std::size_t row_index) {
  double mass = 0.0;
  double total = 0.0;
  bool bad_target = false;
  bool negative = false;
  for (std::size_t d = 0; d < to.size(); ++d) {
    const Number probability = row[d];
    total += static_cast<double>(probability);
    negative |= probability < 0;
    const std::int64_t t = to[d];
    if (static_cast<std::uint64_t>(t) < out.size()) {
      out[static_cast<std::size_t>(t)] += probability;
      mass += static_cast<double>(probability);
    } else {
      bad_target |= t != kNone;
    }
  }
  if (bad_target) {
    refuse(function, std::string(map_name) + " has an entry that is neither -1 nor one of the " +
                         std::to_string(out.size()) + " columns of out");
  }
  if (negative || !std::isfinite(total)) {
    refuse(function, "draft_probs[" + std::to_string(row_index) +
                         "] holds NaN, infinity or a negative probability");
  }
  return mass;
}

// Divides by a positive sum.
template <class Number>
void normalise(std::span<Number> out, double mass) {
  const double factor = 1.0 / mass;
  if (!std::isfinite(factor)) {  // for a mass below about 1e-308
    for (Number& q : out) q = static_cast<Number>(static_cast<double>(q) / mass);
    return;
  }
  for (Number& q : out) q = static_cast<Number>(static_cast<double>(q) * factor);
}

// The byte offset of each token of a sequence, and of the end of the last.
std::vector<std::int64_t> byte_offsets(std::span<const Token> tokens) {
  std::vector<std::int64_t> offsets{0};
  for (const Token& token : tokens) {
    offsets.push_back(offsets.back() + static_cast<std::int64_t>(token.size()));
  }
  return offsets;
}

// One sequence of the batch: its tokens and its rows.
template <class Number, class Id>
class Sequence {
 public:
  // `draft_tokens` and `target_tokens` are the bytes of the batch's tokens.
  Sequence(const Rows<const Number>& draft_probs, const VocabularyMap& map, const Ragged<Id>& draft,
           const Ragged<Id>& target, std::span<const std::int32_t> target_spans,
           std::span<const Token> draft_tokens, std::span<const Token> target_tokens, std::size_t b)
      : draft_probs_(draft_probs),
        map_(map),
        first_row_(static_cast<std::size_t>(draft.offsets[b])),
        first_proxy_(static_cast<std::size_t>(target.offsets[b])) {
    const auto part = [b](auto whole, const auto& offsets) {
      const auto begin = static_cast<std::size_t>(offsets[b]);
      return whole.subspan(begin, static_cast<std::size_t>(offsets[b + 1]) - begin);
    };
    draft_ = part(draft.ids, draft.offsets);
    target_ = part(target.ids, target.offsets);
    spans_ = target_spans.subspan(2 * first_proxy_, 2 * target_.size());
    draft_starts_ = byte_offsets(part(draft_tokens, draft.offsets));
    target_starts_ = byte_offsets(part(target_tokens, target.offsets));
    check_spans();
  }

  std::size_t size() const { return target_.size(); }
  std::size_t first_proxy() const { return first_proxy_; }

  // Writes the distribution of proxy token j.
  TransferCase operator()(std::size_t j, std::span<Number> out) const {
    std::ranges::fill(out, Number{0});
    TransferCase kind = transfer_case(j);
    double mass = 0.0;
    if (kind == TransferCase::kWithin) mass = push_forward(lo(j), out);
    if (kind == TransferCase::kMerge) mass = merge(j, out);
    if (kind == TransferCase::kInside) mass = inside(j, out);
    if (mass > 0.0) return kind;
    std::ranges::fill(out, Number{0});
    out[static_cast<std::size_t>(target_[j])] = 1;
    return TransferCase::kPointMass;
  }

 private:
  std::size_t lo(std::size_t j) const { return static_cast<std::size_t>(spans_[2 * j]); }
  std::size_t hi(std::size_t j) const { return static_cast<std::size_t>(spans_[2 * j + 1]); }
  const Number* row(std::size_t i) const { return draft_probs_[first_row_ + i]; }

  void check_spans() const {
    for (std::size_t j = 0; j < size(); ++j) {
      const std::int64_t lo = spans_[2 * j];
      const std::int64_t hi = spans_[2 * j + 1];
      if (lo >= 0 && lo <= hi && hi <= static_cast<std::int64_t>(draft_.size())) continue;
      refuse(kTransfer, "target_spans[" + std::to_string(first_proxy_ + j) + "] is " +
                            std::to_string(lo) + ".." + std::to_string(hi) +
                            ", not a range of the " + std::to_string(draft_.size()) +
                            " draft tokens of its sequence");
    }
  }

  TransferCase transfer_case(std::size_t j) const {
    const std::size_t count = hi(j) - lo(j);
    if (count == 0) return TransferCase::kPointMass;
    const std::int64_t start = target_starts_[j];
    const std::int64_t end = target_starts_[j + 1];
    const std::int64_t draft_start = draft_starts_[lo(j)];
    const std::int64_t draft_end = draft_starts_[hi(j)];
    const bool empty = start == end;
    if (count == 1) {
      if (start < draft_start || end > draft_end) return TransferCase::kPointMass;
      if (empty && draft_start < draft_end) return TransferCase::kPointMass;
      return start == draft_start ? TransferCase::kWithin : TransferCase::kInside;
    }
    const bool covers = start == draft_start && end == draft_end && !empty;
    return covers ? TransferCase::kMerge : TransferCase::kPointMass;
  }

  double push_forward(std::size_t i, std::span<Number> out) const {
    return scatter(row(i), map_.first, out, kTransfer, "first", first_row_ + i);
  }

  double merge(std::size_t j, std::span<Number> out) const {
    double mass = push_forward(lo(j), out);
    double moved = 1.0;
    for (std::size_t i = lo(j); i < hi(j); ++i) {
      moved *= static_cast<double>(row(i)[static_cast<std::size_t>(draft_[i])]);
    }
    if (!(moved >= 0.0 && std::isfinite(moved))) {
      refuse(kTransfer, "draft_probs of a merge hold NaN, infinity or a negative probability");
    }
    const std::int64_t source = map_.first[static_cast<std::size_t>(draft_[lo(j)])];
    if (source == kNone) {
      mass += moved;
    } else {
      Number& from = out[static_cast<std::size_t>(source)];
      from = std::max(Number{0}, from - static_cast<Number>(moved));
    }
    out[static_cast<std::size_t>(target_[j])] += static_cast<Number>(moved);
    return mass;
  }

  // Conditions row `lo` on the proxy tokens taken from it before j. They start at its byte offset.
  double inside(std::size_t j, std::span<Number> out) const {
    std::size_t begin = j;
    while (begin > 0 && target_starts_[begin] > draft_starts_[lo(j)]) --begin;
    if (target_starts_[begin] != draft_starts_[lo(j)]) return 0.0;
    const auto taken = target_.subspan(begin, j - begin);

    const std::int64_t opening = taken[0];
    const Number* probabilities = row(lo(j));
    double mass = 0.0;
    for (std::size_t d = 0; d < map_.first.size(); ++d) {
      if (map_.first[d] != opening) continue;
      const std::span<const std::int32_t> expansion = expansion_of(d);
      if (expansion.size() <= taken.size()) continue;
      if (!std::ranges::equal(taken, expansion.first(taken.size()))) continue;
      const std::int64_t next = expansion[taken.size()];
      check_id(next, static_cast<std::int64_t>(out.size()), kTransfer, "expansion of draft token",
               d);
      out[static_cast<std::size_t>(next)] += probabilities[d];
      mass += static_cast<double>(probabilities[d]);
      if (!(probabilities[d] >= 0 && std::isfinite(probabilities[d]))) {
        refuse(kTransfer, "draft_probs[" + std::to_string(first_row_ + lo(j)) +
                              "] holds NaN, infinity or a negative probability");
      }
    }
    if (mass > 0.0) normalise(out, mass);
    return mass;
  }

  std::span<const std::int32_t> expansion_of(std::size_t d) const {
    const std::int64_t begin = map_.expansion_offsets[d];
    const std::int64_t end = map_.expansion_offsets[d + 1];
    if (begin < 0 || begin > end || end > std::ssize(map_.expansion_ids)) {
      refuse(kTransfer, "expansion_offsets of draft token " + std::to_string(d) + " are " +
                            std::to_string(begin) + ".." + std::to_string(end) +
                            ", not a range of the " + std::to_string(map_.expansion_ids.size()) +
                            " expansion_ids");
    }
    return map_.expansion_ids.subspan(static_cast<std::size_t>(begin),
                                      static_cast<std::size_t>(end - begin));
  }

  const Rows<const Number>& draft_probs_;
  const VocabularyMap& map_;
  std::size_t first_row_;
  std::size_t first_proxy_;
  std::span<const Id> draft_;
  std::span<const Id> target_;
  std::span<const std::int32_t> spans_;
  std::vector<std::int64_t> draft_starts_;
  std::vector<std::int64_t> target_starts_;
};

template <class Number>
std::span<Number> whole(const Rows<Number>& rows, std::size_t row) {
  return {rows[row], rows.columns};
}

template <class Id>
void check_ids(const Ragged<Id>& side, std::size_t vocabulary, const char* ids_name) {
  for (std::size_t k = 0; k < side.ids.size(); ++k) {
    check_id(side.ids[k], static_cast<std::int64_t>(vocabulary), kTransfer, ids_name, k);
  }
}

}  // namespace

template <class Number, class Id>
void transfer(const Rows<const Number>& draft_probs, const Ragged<Id>& draft,
              const Ragged<Id>& target, std::span<const std::int32_t> target_spans,
              const ByteTable& draft_table, const ByteTable& target_table, const VocabularyMap& map,
              const Rows<Number>& probs, std::span<std::int8_t> cases) {
  check_offsets(draft, kTransfer, "draft_offsets", "draft_ids");
  check_offsets(target, kTransfer, "target_offsets", "target_ids");
  const std::size_t batch = draft.offsets.size() - 1;
  check_transfer_sizes(draft_probs, draft.ids.size(), target.ids.size(), target_spans.size(), map,
                       probs, cases.size(), batch, target.offsets.size() - 1);
  check_ids(draft, map.first.size(), "draft_ids");
  check_ids(target, probs.columns, "target_ids");
  std::vector<Token> draft_tokens;
  std::vector<Token> target_tokens;
  look_up(draft, draft_table, kTransfer, "draft", draft_tokens);
  look_up(target, target_table, kTransfer, "target", target_tokens);

  std::vector<Sequence<Number, Id>> sequences;
  std::vector<std::size_t> sequence_of;  // of each proxy token
  for (std::size_t b = 0; b < batch; ++b) {
    sequences.emplace_back(draft_probs, map, draft, target, target_spans, draft_tokens,
                           target_tokens, b);
    sequence_of.insert(sequence_of.end(), sequences.back().size(), b);
  }
  parallel_for(
      sequence_of.size(), rows_per_task(probs.columns + map.first.size()), [&](std::size_t t) {
        const Sequence<Number, Id>& sequence = sequences[sequence_of[t]];
        cases[t] = static_cast<std::int8_t>(sequence(t - sequence.first_proxy(), whole(probs, t)));
      });
}

template <class Number>
void restrict_to_shared(const Rows<const Number>& draft_probs, const VocabularyMap& map,
                        const Rows<Number>& probs) {
  check_restrict_sizes(draft_probs, map.exact.size(), probs);
  parallel_for(probs.rows, rows_per_task(probs.columns + map.exact.size()), [&](std::size_t r) {
    const std::span<Number> out = whole(probs, r);
    std::ranges::fill(out, Number{0});
    const double mass = scatter(draft_probs[r], map.exact, out, kRestrict, "exact", r);
    if (!(mass > 0.0)) {
      refuse(kRestrict, "draft_probs[" + std::to_string(r) +
                            "] has no mass on the tokens that both vocabularies have");
    }
    normalise(out, mass);
  });
}

#define TOKENTIMING_TRANSFER(Number, Id)                                                    \
  template void transfer(const Rows<const Number>&, const Ragged<Id>&, const Ragged<Id>&,   \
                         std::span<const std::int32_t>, const ByteTable&, const ByteTable&, \
                         const VocabularyMap&, const Rows<Number>&, std::span<std::int8_t>)
#define TOKENTIMING_INSTANTIATE(Number)                                             \
  TOKENTIMING_TRANSFER(Number, std::int32_t);                                       \
  TOKENTIMING_TRANSFER(Number, std::int64_t);                                       \
  template void restrict_to_shared(const Rows<const Number>&, const VocabularyMap&, \
                                   const Rows<Number>&)
TOKENTIMING_INSTANTIATE(float);
TOKENTIMING_INSTANTIATE(double);
#undef TOKENTIMING_INSTANTIATE
#undef TOKENTIMING_TRANSFER

}  // namespace tokentiming
