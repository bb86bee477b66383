// An index of all substrings of texts that grow byte by byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tokentiming {

// The suffix automaton of one or more texts: the smallest automaton that accepts every substring of
// every text, and no other string.
//
// Each state stands for the substrings that end at the same positions of the texts; each is a
// suffix of the longest of them. Texts are appended one after another, and no substring extends
// over the end of a text.
//
// A text of n bytes has at most 2n states and 3n transitions, and appending takes amortized
// O(log 256) time a byte. A state takes 16 bytes and a transition 8; the transitions of a state lie
// in one block, sorted by their bytes, whose size is a power of two. Prose and code take 50 to 70
// bytes for each byte of text, those reserved for growth included (`memory`).
//
// Sources: Blumer et al., "The smallest automaton recognizing the subwords of a text", 1985; for
// several texts Blumer et al., "Complete inverted files for efficient text retrieval and analysis",
// 1987.
class SuffixAutomaton {
 public:
  using State = std::uint32_t;
  static constexpr State kRoot = 0;  // of the empty string

  // A substring of a text, given by its state and its length. Appending may move a string to
  // another state: `follow` finds it again.
  struct Match {
    State state = kRoot;
    std::uint32_t length = 0;

    bool operator==(const Match&) const = default;
  };

  // A byte that follows the strings of a state.
  //
  // The count is that of prediction by partial matching with update exclusion: appending a byte
  // raises the count of one state only, which has the longest suffix of the text that this byte had
  // followed before, and sets it to 1 for the longer suffixes. It is thus at least 1 and at most
  // the number of occurrences, and is not raised beyond 2^24 - 1.
  // Source: Moffat, "Implementing the PPM data compression scheme", 1990.
  struct Next {
    std::uint8_t byte;
    State state;  // of the strings with this byte appended
    std::uint32_t count;

    bool operator==(const Next&) const = default;
  };

  SuffixAutomaton();

  // Begins a new text; the text so far is complete.
  void begin_text();

  // Appends bytes to the current text. Throws std::invalid_argument, before anything is appended,
  // if there would be more than 2^28 bytes in all.
  void append(std::span<const std::uint8_t> bytes);

  // The longest suffix of the current text that occurs a second time, in this text or in an earlier
  // one. Occurrences may overlap.
  Match repeated() const;

  // The longest suffix of a string followed by some bytes that occurs in a text; amortized
  // O(log 256) time a byte. Throws std::invalid_argument if there is no such state or the length is
  // above that of its strings.
  Match follow(Match match, std::span<const std::uint8_t> bytes) const;

  // The longest suffix of the strings of a state that also ends at other positions; the empty string
  // for the root. Throws std::invalid_argument if there is no such state.
  Match shorter(State state) const;

  // The bytes that follow the strings of a state, in ascending order. Throws std::invalid_argument
  // if there is no such state.
  std::vector<Next> next(State state) const;

  std::size_t size() const { return size_; }  // bytes of all texts
  std::size_t states() const { return states_.size(); }
  std::size_t transitions() const { return transitions_; }
  std::size_t memory() const;  // bytes of memory, reserved ones included

 private:
  struct Transition {
    State state;
    std::uint32_t count : 24;
    std::uint32_t byte : 8;
  };
  struct Node {
    std::uint32_t length;  // of the longest string
    State link;            // of the longest suffix that ends at further positions
    std::uint32_t begin;   // of its block in pool_
    std::uint16_t degree;
    std::uint8_t log_capacity;
  };

  std::span<Transition> transitions_of(State state);
  std::span<const Transition> transitions_of(State state) const;
  const Transition* find(State state, std::uint8_t byte) const;
  Transition* find(State state, std::uint8_t byte);
  void insert(State state, std::uint8_t byte, State target);
  std::uint32_t allocate(unsigned log_capacity);
  void free(std::uint32_t begin, unsigned log_capacity);
  State add_state(std::uint32_t length, State link);
  State split(State before, std::uint8_t byte, State state);
  void append(std::uint8_t byte);
  void check_state(const char* function, State state) const;

  std::vector<Node> states_;
  std::vector<Transition> pool_;                // blocks of 1, 2, 4, .. 256 transitions
  std::array<std::uint32_t, 9> free_blocks_{};  // by log_capacity; linked by Transition::state
  State last_ = kRoot;                          // of the current text as a whole
  bool last_repeats_ = false;                   // whether it occurs in an earlier text as well
  std::size_t size_ = 0;
  std::size_t transitions_ = 0;
};

}  // namespace tokentiming
