// What the host can check of the arguments of `walk`, for CPU and CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "refuse.h"
#include "tokentiming/walk.h"

namespace tokentiming {

template <class Id>
void check_walk_sizes(std::size_t picked, const Forest<Id>& forest, std::size_t tokens,
                      std::size_t nodes, std::size_t accepted) {
  constexpr const char* kWalk = "walk";
  // Nodes of a tree are counted in 32 bits, and so are the blocks of a launch.
  constexpr std::size_t kMaxRows = std::numeric_limits<std::int32_t>::max();
  if (forest.tokens.offsets.empty()) refuse(kWalk, "offsets must have B + 1 entries, got none");
  const std::size_t count = forest.tokens.ids.size();
  const std::size_t batch = forest.tokens.offsets.size() - 1;
  const auto require = [&](const char* name, std::size_t entries, std::size_t needed) {
    if (entries == needed) return;
    refuse(kWalk, std::string(name) + " has " + std::to_string(entries) + " entries; " +
                      std::to_string(count) + " tokens in " + std::to_string(batch) +
                      " trees need " + std::to_string(needed));
  };
  require("parents", forest.parents.size(), count);
  require("picked", picked, count + batch);
  require("out.tokens", tokens, count + batch);
  require("out.nodes", nodes, count);
  require("out.accepted", accepted, batch);
  if (picked > kMaxRows) {
    refuse(kWalk, "picked has " + std::to_string(picked) +
                      " entries, more than 2^31 - 1; split the batch");
  }
}

}  // namespace tokentiming
