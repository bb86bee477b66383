// Aligns two tokenizations of one text and prints which draft tokens stand beside each target
// token.
#include <tokentiming/align.h>

#include <iostream>
#include <numeric>
#include <string>
#include <vector>

namespace {

// A vocabulary of its own for each side: token i is the i-th piece.
struct Side {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int64_t> starts{0};
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> offsets;

  explicit Side(const std::vector<std::string>& pieces) : ids(pieces.size()) {
    for (const std::string& piece : pieces) {
      bytes.insert(bytes.end(), piece.begin(), piece.end());
      starts.push_back(static_cast<std::int64_t>(bytes.size()));
    }
    std::iota(ids.begin(), ids.end(), 0);
    offsets = {0, static_cast<std::int64_t>(ids.size())};
  }
  tokentiming::Ragged<std::int64_t> sequence() const { return {ids, offsets}; }
  tokentiming::ByteTable table() const { return {bytes, starts}; }
};

}  // namespace

int main() {
  const std::vector<std::string> draft{"un", "believ", "able", " tim", "ing"};
  const std::vector<std::string> target{"unbeliev", "able", " t", "iming"};
  const Side draft_side(draft);
  const Side target_side(target);

  std::vector<std::int32_t> spans(2 * target.size());
  std::vector<std::int64_t> cost(1);
  tokentiming::align(draft_side.sequence(), target_side.sequence(), draft_side.table(),
                     target_side.table(), 8, spans, cost);

  for (std::size_t j = 0; j < target.size(); ++j) {
    std::cout << '"' << target[j] << "\" <-";
    for (std::int32_t i = spans[2 * j]; i < spans[2 * j + 1]; ++i) {
      std::cout << " \"" << draft[static_cast<std::size_t>(i)] << '"';
    }
    std::cout << '\n';
  }
  std::cout << "byte edits along the path: " << cost[0] << '\n';
}
