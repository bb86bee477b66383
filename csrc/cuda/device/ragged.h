// Ragged batches in device memory: checks that the host can make without reading them, and the
// structs that kernels take.
#pragma once

#include <algorithm>
#include <string>

#include "refuse.h"
#include "tokens.cuh"
#include "tokentiming/align.h"

namespace tokentiming::cuda {

template <class Id>
AnyIds any_ids(std::span<const Id> ids) {
  return {ids.data(), sizeof(Id) == sizeof(std::int64_t)};
}

template <class Id>
Sequences sequences(const Ragged<Id>& side, std::size_t batch, const char* operation,
                    const char* ids_name) {
  const std::size_t total = side.ids.size();
  const bool even = side.offsets.empty();
  if (even && (batch == 0 ? total > 0 : total % batch != 0)) {
    refuse(operation, std::string(ids_name) + " has " + std::to_string(total) +
                          " entries, not equally many in " + std::to_string(batch) + " sequences");
  }
  return {even ? nullptr : side.offsets.data(),
          even && batch > 0 ? static_cast<std::int64_t>(total / batch) : 0,
          static_cast<std::int64_t>(total)};
}

inline DeviceTable device_table(const ByteTable& table) {
  return {table.bytes.data(), static_cast<std::int64_t>(table.bytes.size()), table.offsets.data(),
          table.size()};
}

// An upper bound of the tokens of a sequence, at most kMaxTokens. Throws if the host can see that
// sequences are longer than that.
inline std::size_t max_tokens(const Sequences& side, const char* operation, const char* ids_name) {
  if (side.offsets != nullptr) return static_cast<std::size_t>(std::min(side.total, kMaxTokens));
  if (side.length > kMaxTokens) {
    refuse(operation, std::string(ids_name) + " has sequences of " + std::to_string(side.length) +
                          " tokens; on a GPU it takes at most " + std::to_string(kMaxTokens) +
                          ", the CPU takes any");
  }
  return static_cast<std::size_t>(side.length);
}

}  // namespace tokentiming::cuda
