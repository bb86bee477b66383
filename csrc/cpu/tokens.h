// Ragged batches of tokens and their bytes, with checks.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "refuse.h"
#include "tokentiming/align.h"

namespace tokentiming {

template <class Id>
void check_offsets(const Ragged<Id>& side, const char* function, const std::string& offsets_name,
                   const std::string& ids_name) {
  const auto& offsets = side.offsets;
  if (offsets.empty() || offsets.front() != 0 || !std::ranges::is_sorted(offsets) ||
      offsets.back() != static_cast<std::int64_t>(side.ids.size())) {
    refuse(function, offsets_name + " must rise from 0 to the number of " + ids_name + " (" +
                         std::to_string(side.ids.size()) + ")");
  }
}

inline void check_id(std::int64_t id, std::int64_t size, const char* function,
                     const std::string& ids_name, std::size_t k) {
  if (id >= 0 && id < size) return;
  refuse(function, ids_name + "[" + std::to_string(k) + "] is " + std::to_string(id) +
                       ", outside a vocabulary of " + std::to_string(size) + " tokens");
}

// Looks up the bytes of every token of one side, called `name` in error messages. Checks the
// entries that it looks up and not the whole table: a table has 10^5 entries and a pair has 10.
template <class Id>
void look_up(const Ragged<Id>& side, const ByteTable& table, const char* function,
             const std::string& name, std::vector<Token>& tokens) {
  tokens.clear();
  for (std::size_t k = 0; k < side.ids.size(); ++k) {
    const std::int64_t id = side.ids[k];
    if (id < 0 || id >= table.size()) check_id(id, table.size(), function, name + "_ids", k);
    const std::int64_t begin = table.offsets[static_cast<std::size_t>(id)];
    const std::int64_t end = table.offsets[static_cast<std::size_t>(id) + 1];
    if (begin < 0 || begin > end || end > static_cast<std::int64_t>(table.bytes.size())) {
      refuse(function, name + "_table.offsets of token " + std::to_string(id) + " are " +
                           std::to_string(begin) + ".." + std::to_string(end) +
                           ", not a range of its " + std::to_string(table.bytes.size()) + " bytes");
    }
    tokens.push_back(table.bytes.subspan(static_cast<std::size_t>(begin),
                                         static_cast<std::size_t>(end - begin)));
  }
}

}  // namespace tokentiming
