// Looks tokens up in byte tables of arbitrary offsets: throws if an id or an entry is out of range,
// else returns each token's bytes.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "input.h"
#include "tokens.h"

using tokentiming::ByteTable;

namespace {

bool is_token(const ByteTable& table, std::int64_t id) {
  if (id < 0 || id >= table.size()) return false;
  const std::int64_t begin = table.offsets[static_cast<std::size_t>(id)];
  const std::int64_t end = table.offsets[static_cast<std::size_t>(id) + 1];
  return 0 <= begin && begin <= end && end <= std::ssize(table.bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const auto ids = input.numbers();
  const auto starts = input.numbers();
  const auto bytes = input.rest();
  const ByteTable table{bytes, starts};
  const std::vector<std::int64_t> whole{0, std::ssize(ids)};
  const bool all_tokens =
      std::ranges::all_of(ids, [&](std::int64_t id) { return is_token(table, id); });

  std::vector<tokentiming::Token> tokens;
  try {
    tokentiming::look_up<std::int64_t>({ids, whole}, table, "fuzz", "draft", tokens);
  } catch (const std::invalid_argument&) {
    require(!all_tokens);
    return 0;
  }
  require(all_tokens && tokens.size() == ids.size());
  for (std::size_t k = 0; k < ids.size(); ++k) {
    const auto id = static_cast<std::size_t>(ids[k]);
    const std::vector<std::uint8_t> expected(bytes.begin() + starts[id],
                                             bytes.begin() + starts[id + 1]);
    require(std::ranges::equal(tokens[k], expected));
  }
  return 0;
}
