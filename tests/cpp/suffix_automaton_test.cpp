#include "tokentiming/suffix_automaton.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using tokentiming::SuffixAutomaton;
using Match = SuffixAutomaton::Match;
using Next = SuffixAutomaton::Next;

namespace {

std::vector<std::uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

// The same by a search of all texts for each question.
class Plain {
 public:
  void begin_text() { texts_.emplace_back(); }

  void append(char byte) {
    const std::string text = texts_.back();
    for (std::size_t start = 0; start <= text.size(); ++start) {
      const std::string suffix = text.substr(start);
      if (ends(suffix + byte).empty()) {
        counts_[{suffix, byte}] = 1;
        continue;
      }
      const auto same = ends(suffix);  // the strings that end at the same positions
      for (std::size_t later = start; later <= text.size(); ++later) {
        if (ends(text.substr(later)) == same) ++counts_[{text.substr(later), byte}];
      }
      break;
    }
    texts_.back() += byte;
  }

  // Where a string ends: the text, and the position in it.
  std::set<std::pair<std::size_t, std::size_t>> ends(const std::string& string) const {
    std::set<std::pair<std::size_t, std::size_t>> found;
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      for (auto at = texts_[i].find(string); at != std::string::npos;
           at = texts_[i].find(string, at + 1)) {
        found.insert({i, at + string.size()});
      }
    }
    return found;
  }

  std::string repeated() const {
    std::string suffix = texts_.back();
    while (!suffix.empty() && ends(suffix).size() < 2) suffix.erase(0, 1);
    return suffix;
  }

  // The longest suffix that ends at further positions.
  std::string shorter(std::string string) const {
    const auto positions = ends(string);
    while (!string.empty() && ends(string) == positions) string.erase(0, 1);
    return string;
  }

  std::string longest_known_suffix(std::string string) const {
    while (ends(string).empty()) string.erase(0, 1);
    return string;
  }

  std::vector<std::pair<char, std::uint32_t>> next(const std::string& string) const {
    std::vector<std::pair<char, std::uint32_t>> found;
    for (const auto& [key, count] : counts_) {
      if (key.first == string) found.emplace_back(key.second, count);
    }
    return found;
  }

  std::set<std::string> substrings() const {
    std::set<std::string> found;
    for (const auto& text : texts_) {
      for (std::size_t start = 0; start <= text.size(); ++start) {
        for (std::size_t end = start; end <= text.size(); ++end) {
          found.insert(text.substr(start, end - start));
        }
      }
    }
    return found;
  }

 private:
  std::vector<std::string> texts_{""};
  std::map<std::pair<std::string, char>, std::uint32_t> counts_;
};

Match match_of(const SuffixAutomaton& automaton, const std::string& string) {
  return automaton.follow({}, bytes_of(string));
}

std::vector<std::pair<char, std::uint32_t>> next_of(const SuffixAutomaton& automaton,
                                                    const std::string& string) {
  std::vector<std::pair<char, std::uint32_t>> found;
  for (const auto& [byte, state, count] : automaton.next(match_of(automaton, string).state)) {
    REQUIRE(state == match_of(automaton, string + static_cast<char>(byte)).state);
    found.emplace_back(static_cast<char>(byte), count);
  }
  return found;
}

void require_equal(const SuffixAutomaton& automaton, const Plain& plain) {
  REQUIRE(automaton.repeated() == match_of(automaton, plain.repeated()));
  std::set<std::set<std::pair<std::size_t, std::size_t>>> classes;
  std::size_t transitions = 0;
  for (const auto& string : plain.substrings()) {
    REQUIRE(match_of(automaton, string).length == string.size());
    REQUIRE(next_of(automaton, string) == plain.next(string));
    REQUIRE(automaton.shorter(match_of(automaton, string).state) ==
            match_of(automaton, plain.shorter(string)));
    const bool added = classes.insert(plain.ends(string)).second;
    if (added) transitions += plain.next(string).size();
  }
  // It is the smallest one.
  REQUIRE(automaton.states() == classes.size());
  REQUIRE(automaton.transitions() == transitions);
}

SuffixAutomaton of_text(const std::string& text) {
  SuffixAutomaton automaton;
  automaton.append(bytes_of(text));
  return automaton;
}

}  // namespace

TEST_CASE("SuffixAutomaton: the longest repeated suffix") {
  const auto repeated = [](const std::string& text) { return of_text(text).repeated().length; };
  CHECK(repeated("") == 0);
  CHECK(repeated("abc") == 0);
  CHECK(repeated("abcab") == 2);
  CHECK(repeated("aaaa") == 3);
  CHECK(repeated("abcdbc") == 2);
}

TEST_CASE("SuffixAutomaton: bytes that follow a string, and how often") {
  const auto automaton = of_text("ab ab ac ab");
  CHECK(next_of(automaton, "a") == std::vector<std::pair<char, std::uint32_t>>{{'b', 2}, {'c', 1}});
  CHECK(next_of(automaton, "ac") == std::vector<std::pair<char, std::uint32_t>>{{' ', 1}});
  CHECK(next_of(automaton, "c ab").empty());
}

TEST_CASE("SuffixAutomaton: random texts equal a search") {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 150; ++repeat) {
    const std::size_t letters = 1 + random() % 3;
    const std::size_t length = random() % 24;
    SuffixAutomaton automaton;
    Plain plain;
    for (std::size_t i = 0; i < length; ++i) {
      if (random() % 8 == 0) {
        automaton.begin_text();
        plain.begin_text();
      }
      const auto byte = static_cast<std::uint8_t>('a' + random() % letters);
      automaton.append({&byte, 1});
      plain.append(static_cast<char>(byte));
      REQUIRE(automaton.repeated().length == plain.repeated().size());
    }
    CHECK(automaton.size() == length);
    require_equal(automaton, plain);
  }
}

TEST_CASE("SuffixAutomaton: a followed string is the longest one that occurs") {
  std::mt19937 random(2);
  const auto letter = [&] { return std::string(1, static_cast<char>('a' + random() % 2)); };
  for (int repeat = 0; repeat < 100; ++repeat) {
    SuffixAutomaton automaton;
    Plain plain;
    Match match;
    std::string string;
    for (int i = 0; i < 30; ++i) {
      const std::string appended = letter();  // between the steps, so that states are split
      automaton.append(bytes_of(appended));
      plain.append(appended[0]);
      const std::string byte = letter();
      match = automaton.follow(match, bytes_of(byte));
      string = plain.longest_known_suffix(string + byte);
      REQUIRE(match == match_of(automaton, string));
      REQUIRE(match.length == string.size());
    }
  }
}

TEST_CASE("SuffixAutomaton: states have a transition for every byte") {
  SuffixAutomaton automaton;
  for (int first = 255; first >= 0; --first) {
    const auto byte = static_cast<std::uint8_t>(first);
    automaton.append({&byte, 1});
    automaton.append(bytes_of("x"));
  }
  const auto next = automaton.next(SuffixAutomaton::kRoot);
  REQUIRE(next.size() == 256);
  for (std::size_t byte = 0; byte < 256; ++byte) CHECK(next[byte].byte == byte);
  CHECK(automaton.next(match_of(automaton, "x").state).size() == 255);  // all but the first one
}

TEST_CASE("SuffixAutomaton: size is linear in the text") {
  std::mt19937 random(3);
  for (const std::size_t letters : {1, 2, 4, 26, 256}) {
    for (const std::size_t length : {1000, 30000}) {
      CAPTURE(letters);
      CAPTURE(length);
      std::vector<std::uint8_t> text(length);
      for (auto& byte : text) byte = static_cast<std::uint8_t>(random() % letters);
      SuffixAutomaton automaton;
      automaton.append(text);
      CHECK(automaton.states() <= 2 * length);
      CHECK(automaton.transitions() <= 3 * length);
      CHECK(automaton.memory() <= 160 * length + 4096);
    }
  }
}

TEST_CASE("SuffixAutomaton: the worst texts have 2n states or 3n transitions") {
  const auto automaton = of_text("a" + std::string(999, 'b'));
  CHECK(automaton.states() > 1990);
  const auto other = of_text("a" + std::string(998, 'b') + "c");
  CHECK(other.transitions() > 2990);
}

TEST_CASE("SuffixAutomaton: errors name the argument") {
  const auto automaton = of_text("abab");
  const auto ab = match_of(automaton, "ab");
  CHECK_THROWS_WITH_AS(automaton.next(5),
                       "SuffixAutomaton.next: state is 5; the automaton has states 0..4",
                       std::invalid_argument);
  CHECK_THROWS_WITH(automaton.shorter(5),
                    "SuffixAutomaton.shorter: state is 5; the automaton has states 0..4");
  CHECK_THROWS_WITH(automaton.follow({5, 0}, {}),
                    "SuffixAutomaton.follow: state is 5; the automaton has states 0..4");
  const std::string message = "SuffixAutomaton.follow: length is 3; the strings of state " +
                              std::to_string(ab.state) + " have at most 2 bytes";
  CHECK_THROWS_WITH(automaton.follow({ab.state, 3}, {}), message.c_str());
}

TEST_CASE("SuffixAutomaton: more than 2^28 bytes are refused before any is appended") {
  SuffixAutomaton automaton = of_text("ab");
  const std::uint8_t byte = 0;
  CHECK_THROWS_WITH(automaton.append({&byte, std::size_t{1} << 28}),
                    "SuffixAutomaton.append: data has 268435456 bytes after 2; an automaton takes "
                    "at most 2^28");
  CHECK(automaton.size() == 2);
}
