#include "tokentiming/align.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "align_checks.h"
#include "levenshtein.h"
#include "parallel.h"
#include "tokens.h"

namespace tokentiming {
namespace {

constexpr const char* kAlign = "align";

// A pair takes microseconds; waking a thread does not pay for fewer pairs than this.
constexpr std::size_t kPairsPerTask = 16;

enum Step : std::uint8_t { kDiagonal, kDraft, kTarget };

// Above any cost, and small enough that adding a cost does not overflow.
constexpr std::int64_t kUnreachable = std::numeric_limits<std::int64_t>::max() / 4;

// Aligns one pair at a time. A thread keeps its working memory from pair to pair and from call to
// call.
class PairAligner {
 public:
  // Writes 2 * M entries of `spans` and returns C[K - 1, M - 1].
  std::int64_t operator()(std::span<const Token> draft, std::span<const Token> target,
                          std::int64_t band, std::int32_t* spans) {
    if (draft.empty()) return 0;
    const auto K = static_cast<std::int64_t>(draft.size());
    const auto M = static_cast<std::int64_t>(target.size());
    const std::int64_t radius = std::min(std::max(band, std::abs(K - M)), std::max(K, M) - 1);
    const std::int64_t cost = compute_costs(draft, target, radius);
    trace_back(K, M, radius, spans);
    return cost;
  }

 private:
  // Computes C row by row and stores the step to each cell. One row is kept, indexed by the
  // diagonal d = j - i + radius: while row i is written in place, C_row[d] still is C[i-1, j-1],
  // C_row[d + 1] is C[i-1, j], and C_row[d - 1] already is C[i, j-1]. Entries that no row has
  // written are outside the matrix or the band.
  std::int64_t compute_costs(std::span<const Token> draft, std::span<const Token> target,
                             std::int64_t radius) {
    const auto K = static_cast<std::int64_t>(draft.size());
    const auto M = static_cast<std::int64_t>(target.size());
    const std::int64_t width = 2 * radius + 1;
    costs_.assign(static_cast<std::size_t>(width + 2), kUnreachable);
    steps_.resize(static_cast<std::size_t>(K * width));
    std::int64_t* C_row = costs_.data() + 1;
    C_row[radius] = 0;  // the diagonal predecessor of (0, 0)
    for (std::int64_t i = 0; i < K; ++i) {
      if (i % kRows == 0) compute_distances(draft, target, i, radius);
      const std::uint32_t* const distances = distances_.data() + i % kRows;
      const std::int64_t begin = std::max<std::int64_t>(0, i - radius);
      const std::int64_t end = std::min(M, i + radius + 1);
      std::int64_t left = C_row[begin - i + radius - 1];  // C[i, j-1]
      std::int64_t diagonal = C_row[begin - i + radius];  // C[i-1, j-1]
      for (std::int64_t j = begin; j < end; ++j) {
        const std::int64_t d = j - i + radius;
        const std::int64_t above = C_row[d + 1];  // C[i-1, j]
        const std::int64_t upper = std::min(diagonal, above);
        const Step upper_step = above < diagonal ? kDraft : kDiagonal;
        steps_[static_cast<std::size_t>(i * width + d)] = left < upper ? kTarget : upper_step;
        left = std::min(left, upper) + distances[(j - first_column_) * kRows];
        C_row[d] = left;
        diagonal = above;
      }
    }
    return C_row[M - K + radius];
  }

  // Computes the distances of eight rows from `i` on, in all columns that the band of one of them
  // contains.
  void compute_distances(std::span<const Token> draft, std::span<const Token> target,
                         std::int64_t i, std::int64_t radius) {
    const auto rows = std::min(kRows, static_cast<std::int64_t>(draft.size()) - i);
    const auto patterns =
        draft.subspan(static_cast<std::size_t>(i), static_cast<std::size_t>(rows));
    first_column_ = std::max<std::int64_t>(0, i - radius);
    const std::int64_t end = std::min(static_cast<std::int64_t>(target.size()), i + rows + radius);
    const auto texts = target.subspan(static_cast<std::size_t>(first_column_),
                                      static_cast<std::size_t>(end - first_column_));
    distances_.resize(texts.size() * kRows);
    const LevenshteinBatch batch(patterns, Peq_);
    for (std::size_t k = 0; k < texts.size(); ++k) {
      batch.distances(texts[k], distances_.data() + k * kRows);
    }
    for (std::size_t p = 0; p < patterns.size(); ++p) {
      if (patterns[p].size() <= LevenshteinBatch::kMaxPatternBytes) continue;
      Levenshtein levenshtein;
      levenshtein.set_pattern(patterns[p]);
      for (std::size_t k = 0; k < texts.size(); ++k) {
        distances_[k * kRows + p] = static_cast<std::uint32_t>(levenshtein.distance(texts[k]));
      }
    }
  }

  void trace_back(std::int64_t K, std::int64_t M, std::int64_t radius, std::int32_t* spans) const {
    const std::int64_t width = 2 * radius + 1;
    std::int64_t i = K - 1;
    for (std::int64_t j = M - 1; j >= 0; --j) {
      spans[2 * j + 1] = static_cast<std::int32_t>(i + 1);
      const auto step = [&] {
        return steps_[static_cast<std::size_t>(i * width + j - i + radius)];
      };
      while (step() == kDraft) --i;
      spans[2 * j] = static_cast<std::int32_t>(i);
      if (step() == kDiagonal) --i;
    }
  }

  static constexpr std::int64_t kRows = LevenshteinBatch::kCount;

  LevenshteinBatch::Peq Peq_{};
  std::vector<std::uint32_t> distances_;  // [columns from first_column_ on, kRows]
  std::int64_t first_column_ = 0;
  std::vector<std::int64_t> costs_;
  std::vector<std::uint8_t> steps_;
};

template <class Id>
std::span<const Token> sequence(const std::vector<Token>& tokens, const Ragged<Id>& side,
                                std::size_t b) {
  const auto begin = static_cast<std::size_t>(side.offsets[b]);
  return std::span(tokens).subspan(begin, static_cast<std::size_t>(side.offsets[b + 1]) - begin);
}

}  // namespace

template <class Id>
void align(const Ragged<Id>& draft, const Ragged<Id>& target, const ByteTable& draft_table,
           const ByteTable& target_table, std::int64_t band, std::span<std::int32_t> target_spans,
           std::span<std::int64_t> costs) {
  check_offsets(draft, kAlign, "draft_offsets", "draft_ids");
  check_offsets(target, kAlign, "target_offsets", "target_ids");
  const std::size_t batch = draft.offsets.size() - 1;
  check_align_sizes(band, batch, target.offsets.size() - 1, target.ids.size(), target_spans.size(),
                    costs.size());

  thread_local std::vector<Token> draft_tokens;
  thread_local std::vector<Token> target_tokens;
  look_up(draft, draft_table, kAlign, "draft", draft_tokens);
  look_up(target, target_table, kAlign, "target", target_tokens);
  for (std::size_t b = 0; b < batch; ++b) {
    const bool no_draft = draft.offsets[b] == draft.offsets[b + 1];
    const bool no_target = target.offsets[b] == target.offsets[b + 1];
    if (no_draft != no_target) refuse_half_pair(no_draft, b);
  }

  // References to this thread's vectors: inside the loop, the thread_local names would refer to the
  // empty vectors of each worker.
  const std::vector<Token>& draft_bytes = draft_tokens;
  const std::vector<Token>& target_bytes = target_tokens;
  parallel_for(batch, kPairsPerTask, [&](std::size_t b) {
    thread_local PairAligner aligner;
    costs[b] = aligner(sequence(draft_bytes, draft, b), sequence(target_bytes, target, b), band,
                       target_spans.data() + 2 * target.offsets[b]);
  });
}

template void align(const Ragged<std::int32_t>&, const Ragged<std::int32_t>&, const ByteTable&,
                    const ByteTable&, std::int64_t, std::span<std::int32_t>,
                    std::span<std::int64_t>);
template void align(const Ragged<std::int64_t>&, const Ragged<std::int64_t>&, const ByteTable&,
                    const ByteTable&, std::int64_t, std::span<std::int32_t>,
                    std::span<std::int64_t>);

}  // namespace tokentiming
