// Appends texts of arbitrary bytes to a suffix automaton, and follows a string between: what it
// holds is what a search of the texts finds, and a wrong state or length is refused.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "input.h"
#include "tokentiming/suffix_automaton.h"

using tokentiming::SuffixAutomaton;

namespace {

std::vector<std::uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

std::size_t occurrences(const std::vector<std::string>& texts, const std::string& string) {
  std::size_t found = 0;
  for (const auto& text : texts) {
    for (auto at = text.find(string); at != std::string::npos; at = text.find(string, at + 1)) {
      ++found;
    }
  }
  return found;
}

// The longest suffix that occurs so many times; the empty one always does.
std::string longest_suffix(const std::vector<std::string>& texts, std::string string,
                           std::size_t times) {
  while (!string.empty() && occurrences(texts, string) < times) string.erase(0, 1);
  return string;
}

// Follows a string from a state that may not exist.
void follow_any(const SuffixAutomaton& automaton, std::uint32_t state, std::uint32_t length) {
  try {
    const auto match = automaton.follow({state, length}, {});
    require(match.length == length && match.state < automaton.states());
  } catch (const std::invalid_argument&) {
    require(state >= automaton.states() || length > 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  SuffixAutomaton automaton;
  std::vector<std::string> texts{""};
  SuffixAutomaton::Match match;
  std::string followed;
  for (std::size_t steps = input.count() + input.count(); steps > 0; --steps) {
    if (input.below(6) == 0) {
      automaton.begin_text();
      texts.emplace_back();
    }
    std::string appended;
    for (const auto byte : input.several_below(3)) appended += static_cast<char>(byte);
    automaton.append(bytes_of(appended));
    texts.back() += appended;

    const std::string repeated = longest_suffix(texts, texts.back(), 2);
    require(automaton.repeated() == automaton.follow({}, bytes_of(repeated)));
    require(automaton.repeated().length == repeated.size());

    const std::string byte(1, static_cast<char>(input.below(3)));
    match = automaton.follow(match, bytes_of(byte));
    followed = longest_suffix(texts, followed + byte, 1);
    require(match.length == followed.size());
    for (const auto& next : automaton.next(match.state)) {
      const auto times = occurrences(texts, followed + static_cast<char>(next.byte));
      require(1 <= next.count && next.count <= times);
    }
    follow_any(automaton, static_cast<std::uint32_t>(input.number()),
               static_cast<std::uint32_t>(input.number()));
  }
  require(automaton.states() <= std::max<std::size_t>(2 * automaton.size(), 1));
  require(automaton.transitions() <= 3 * automaton.size());
  return 0;
}
