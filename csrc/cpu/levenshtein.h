// Levenshtein distances between byte strings.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace tokentiming {

// The distances from eight patterns to any number of texts, all eight at a time.
//
// A pattern of at most 32 bytes keeps a whole column of the edit matrix in one word (Myers, "A fast
// bit-vector algorithm for approximate string matching based on dynamic programming", 1999, in
// Hyyro's form for the distance between whole strings, 2003): O(|text|). The words of eight
// patterns lie side by side in registers, which leaves no branch for the processor to guess.
class EightPatterns {
 public:
  static constexpr std::size_t kCount = 8;
  static constexpr std::size_t kLongest = 32;
  using Words [[gnu::vector_size(kCount * 4)]] = std::uint32_t;

  // Where each byte occurs in each pattern: a bit for each place, the pattern's last byte in the
  // highest. All 0 but while it is in use.
  using Positions = std::array<Words, 256>;

  // Borrows up to eight patterns, of which longer ones are taken for empty.
  EightPatterns(std::span<const std::span<const std::uint8_t>> patterns, Positions& positions)
      : patterns_(patterns), positions_(positions), first_(Words{} + 1) {
    for (std::size_t p = 0; p < patterns.size(); ++p) {
      const auto pattern = patterns[p];
      if (pattern.empty() || pattern.size() > kLongest) continue;
      std::uint32_t place = std::uint32_t{1} << (kLongest - pattern.size());
      lengths_[p] = static_cast<std::uint32_t>(pattern.size());
      first_[p] = place;
      occupied_[p] = ~(place - 1);
      for (const std::uint8_t byte : pattern) {
        positions_[byte][p] |= place;
        place <<= 1;
      }
    }
  }
  ~EightPatterns() {
    for (const auto pattern : patterns_) {
      for (const std::uint8_t byte : pattern) positions_[byte] = Words{};
    }
  }
  EightPatterns(const EightPatterns&) = delete;
  EightPatterns& operator=(const EightPatterns&) = delete;

  // Writes kCount distances. `up` and `down` hold, a bit for each byte of a pattern, whether the
  // edit matrix grows or shrinks by one from the row above to this row in the current column. Bits
  // below a pattern's first never turn on in `down`, `diagonal` and `left`.
  void distances(std::span<const std::uint8_t> text, std::uint32_t* out) const {
    Words distance = lengths_;
    Words up = occupied_;
    Words down{};
    for (const std::uint8_t byte : text) {
      const Words match = positions_[byte];
      const Words diagonal = (((match & up) + up) ^ up) | match | down;
      Words right = down | ~(diagonal | up);
      Words left = up & diagonal;
      distance += right >> (kLongest - 1);
      distance -= left >> (kLongest - 1);
      // The top row of the matrix grows by one with every byte of text.
      right = (right << 1) | first_;
      left <<= 1;
      up = left | ~(diagonal | right);
      down = right & diagonal;
    }
    __builtin_memcpy(out, &distance, sizeof(distance));
  }

 private:
  std::span<const std::span<const std::uint8_t>> patterns_;
  Positions& positions_;
  Words lengths_{};
  Words first_;       // the place of each pattern's first byte; of an empty one the lowest
  Words occupied_{};  // all its places
};

// The distances from one pattern of any length to any number of texts: bit-parallel up to 64 bytes,
// then by the plain recurrence, O(|pattern| * |text|).
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
