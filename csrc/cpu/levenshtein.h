// Levenshtein distance from one byte string to many.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace tokentiming {

// Holds one pattern and measures its distance to any number of texts.
//
// A pattern of at most 64 bytes keeps a whole column of the edit matrix in one machine word
// (Myers, "A fast bit-vector algorithm for approximate string matching based on dynamic
// programming", 1999, in Hyyro's form for the distance between whole strings, 2003): O(|text|).
// A longer one takes the plain recurrence: O(|pattern| * |text|).
class Levenshtein {
 public:
  void set_pattern(std::span<const std::uint8_t> pattern) {
    // The old pattern's bits are cleared one by one: it is far shorter than the table.
    if (fits_word()) {
      for (std::uint8_t byte : pattern_) positions_[byte] = 0;
    }
    pattern_ = pattern;
    if (fits_word()) {
      for (std::size_t k = 0; k < pattern.size(); ++k) {
        positions_[pattern[k]] |= std::uint64_t{1} << k;
      }
    }
  }

  std::int64_t distance(std::span<const std::uint8_t> text) {
    if (pattern_.empty()) return static_cast<std::int64_t>(text.size());
    if (std::ranges::equal(pattern_, text)) return 0;
    return fits_word() ? bit_parallel(text) : row_by_row(text);
  }

 private:
  bool fits_word() const { return pattern_.size() <= 64; }

  // `up` and `down` hold, a bit for each byte of the pattern, whether the edit matrix grows or
  // shrinks by one from the row above to this row in the current column.
  std::int64_t bit_parallel(std::span<const std::uint8_t> text) const {
    const auto last_row = pattern_.size() - 1;
    std::int64_t distance = static_cast<std::int64_t>(pattern_.size());
    std::uint64_t up = ~std::uint64_t{0};
    std::uint64_t down = 0;
    for (std::uint8_t byte : text) {
      const std::uint64_t match = positions_[byte];
      const std::uint64_t diagonal = (((match & up) + up) ^ up) | match | down;
      std::uint64_t right = down | ~(diagonal | up);
      std::uint64_t left = up & diagonal;
      distance += static_cast<std::int64_t>((right >> last_row) & 1);
      distance -= static_cast<std::int64_t>((left >> last_row) & 1);
      right = (right << 1) | 1;  // the top row of the matrix grows by one with every byte of text
      left <<= 1;
      up = left | ~(diagonal | right);
      down = right & diagonal;
    }
    return distance;
  }

  std::int64_t row_by_row(std::span<const std::uint8_t> text) {
    row_.resize(text.size() + 1);
    std::iota(row_.begin(), row_.end(), std::int64_t{0});
    for (std::uint8_t byte : pattern_) {
      std::int64_t diagonal = row_[0]++;
      for (std::size_t k = 0; k < text.size(); ++k) {
        const std::int64_t substituted = diagonal + (byte != text[k]);
        diagonal = row_[k + 1];
        row_[k + 1] = std::min({substituted, diagonal + 1, row_[k] + 1});
      }
    }
    return row_.back();
  }

  std::span<const std::uint8_t> pattern_;
  std::array<std::uint64_t, 256> positions_{};  // where each byte occurs in the pattern
  std::vector<std::int64_t> row_;
};

}  // namespace tokentiming
