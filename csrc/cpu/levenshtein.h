// Levenshtein distances between byte strings, bit-parallel.
//
// Myers, "A fast bit-vector algorithm for approximate string matching based on dynamic
// programming", 1999, in Hyyro's form for the distance between whole strings, "A bit-vector
// algorithm for computing Levenshtein and Damerau edit distances", 2003. One word holds a column of
// the edit matrix, one bit for each byte of the pattern. The names are theirs:
//
//   Peq[c]  the positions of byte c in the pattern
//   VP, VN  the matrix grows, shrinks by one from the row above to this row
//   HP, HN  the matrix grows, shrinks by one from the previous column to this column
//   D0      the matrix does not grow along the diagonal
//   Score   the entry in the last row of the current column
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace tokentiming {

// The distances from eight patterns to any number of texts, all eight at a time: O(|text|).
//
// A pattern has at most 32 bytes. The words of the eight patterns are the lanes of one vector, and
// the loop has no branch that depends on data.
class LevenshteinBatch {
 public:
  static constexpr std::size_t kCount = 8;
  static constexpr std::size_t kMaxPatternBytes = 32;
  using Words [[gnu::vector_size(kCount * 4)]] = std::uint32_t;

  // One table for all eight patterns; a pattern's last byte is in the highest bit. It is all 0
  // except while a LevenshteinBatch uses it.
  using Peq = std::array<Words, 256>;

  // Borrows up to eight patterns. Longer patterns are treated as empty.
  LevenshteinBatch(std::span<const std::span<const std::uint8_t>> patterns, Peq& peq)
      : patterns_(patterns), Peq_(peq), first_bit_(Words{} + 1) {
    for (std::size_t p = 0; p < patterns.size(); ++p) {
      const auto pattern = patterns[p];
      if (pattern.empty() || pattern.size() > kMaxPatternBytes) continue;
      std::uint32_t bit = std::uint32_t{1} << (kMaxPatternBytes - pattern.size());
      lengths_[p] = static_cast<std::uint32_t>(pattern.size());
      first_bit_[p] = bit;
      all_bits_[p] = ~(bit - 1);
      for (const std::uint8_t byte : pattern) {
        Peq_[byte][p] |= bit;
        bit <<= 1;
      }
    }
  }
  ~LevenshteinBatch() {
    for (const auto pattern : patterns_) {
      for (const std::uint8_t byte : pattern) Peq_[byte] = Words{};
    }
  }
  LevenshteinBatch(const LevenshteinBatch&) = delete;
  LevenshteinBatch& operator=(const LevenshteinBatch&) = delete;

  // Writes kCount distances. Bits below a pattern's first bit stay 0 in VN, D0 and HN.
  void distances(std::span<const std::uint8_t> text, std::uint32_t* out) const {
    Words Score = lengths_;
    Words VP = all_bits_;
    Words VN{};
    for (const std::uint8_t byte : text) {
      const Words Eq = Peq_[byte];
      const Words D0 = (((Eq & VP) + VP) ^ VP) | Eq | VN;
      Words HP = VN | ~(D0 | VP);
      Words HN = VP & D0;
      Score += HP >> (kMaxPatternBytes - 1);
      Score -= HN >> (kMaxPatternBytes - 1);
      HP = (HP << 1) | first_bit_;  // row 0 grows by one with every byte of text
      HN <<= 1;
      VP = HN | ~(D0 | HP);
      VN = HP & D0;
    }
    __builtin_memcpy(out, &Score, sizeof(Score));
  }

 private:
  std::span<const std::span<const std::uint8_t>> patterns_;
  Peq& Peq_;
  Words lengths_{};
  Words first_bit_;   // of each pattern's first byte; 1 for an empty pattern
  Words all_bits_{};  // of all its bytes
};

// The distances from one pattern of any length to any number of texts: bit-parallel up to 64 bytes,
// by the plain recurrence for longer patterns, O(|pattern| * |text|).
class Levenshtein {
 public:
  void set_pattern(std::span<const std::uint8_t> pattern) {
    // Clears the old pattern's entries one by one: it is far shorter than the table.
    if (fits_word()) {
      for (std::uint8_t byte : pattern_) Peq_[byte] = 0;
    }
    pattern_ = pattern;
    if (fits_word()) {
      for (std::size_t k = 0; k < pattern.size(); ++k) {
        Peq_[pattern[k]] |= std::uint64_t{1} << k;
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

  std::int64_t bit_parallel(std::span<const std::uint8_t> text) const {
    const auto last_row = pattern_.size() - 1;
    std::int64_t Score = static_cast<std::int64_t>(pattern_.size());
    std::uint64_t VP = ~std::uint64_t{0};
    std::uint64_t VN = 0;
    for (std::uint8_t byte : text) {
      const std::uint64_t Eq = Peq_[byte];
      const std::uint64_t D0 = (((Eq & VP) + VP) ^ VP) | Eq | VN;
      std::uint64_t HP = VN | ~(D0 | VP);
      std::uint64_t HN = VP & D0;
      Score += static_cast<std::int64_t>((HP >> last_row) & 1);
      Score -= static_cast<std::int64_t>((HN >> last_row) & 1);
      HP = (HP << 1) | 1;  // row 0 grows by one with every byte of text
      HN <<= 1;
      VP = HN | ~(D0 | HP);
      VN = HP & D0;
    }
    return Score;
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
  std::array<std::uint64_t, 256> Peq_{};
  std::vector<std::int64_t> row_;
};

}  // namespace tokentiming
