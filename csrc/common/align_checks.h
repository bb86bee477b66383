// What the host can check of the arguments of `align`, for CPU and CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "refuse.h"

namespace tokentiming {

// For sequence `b`, one side of which has no tokens.
[[noreturn]] inline void refuse_half_pair(bool no_draft, std::size_t b) {
  refuse("align", std::string(no_draft ? "draft_ids" : "target_ids") + " of sequence " +
                      std::to_string(b) +
                      " is empty and the other side is not; no path joins them");
}

inline void check_align_sizes(std::int64_t band, std::size_t drafts, std::size_t targets,
                              std::size_t target_ids, std::size_t target_spans, std::size_t costs) {
  constexpr const char* kAlign = "align";
  if (band < 0) refuse(kAlign, "band is " + std::to_string(band) + "; it must be 0 or more");
  if (targets != drafts) {
    refuse(kAlign, "target_offsets has " + std::to_string(targets) +
                       " sequences, draft_offsets has " + std::to_string(drafts));
  }
  if (target_spans != 2 * target_ids) {
    refuse(kAlign, "target_spans must have 2 entries for each of the " +
                       std::to_string(target_ids) + " target_ids");
  }
  if (costs != drafts) {
    refuse(kAlign, "cost must have " + std::to_string(drafts) + " entries, one a sequence");
  }
}

}  // namespace tokentiming
