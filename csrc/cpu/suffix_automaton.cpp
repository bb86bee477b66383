#include "tokentiming/suffix_automaton.h"

#include <algorithm>
#include <string>
#include <utility>

#include "refuse.h"

namespace tokentiming {
namespace {

constexpr std::uint32_t kNone = UINT32_MAX;               // no state, or no block
constexpr std::size_t kMostBytes = std::size_t{1} << 28;  // so that 32 bits number all transitions
constexpr std::uint32_t kHighestCount = (1U << 24) - 1;

}  // namespace

SuffixAutomaton::SuffixAutomaton() {
  free_blocks_.fill(kNone);
  add_state(0, kNone);
}

void SuffixAutomaton::begin_text() {
  last_ = kRoot;
  last_repeats_ = false;
}

void SuffixAutomaton::append(std::span<const std::uint8_t> bytes) {
  if (bytes.size() > kMostBytes - size_) {
    refuse("SuffixAutomaton.append", "data has " + std::to_string(bytes.size()) + " bytes after " +
                                         std::to_string(size_) +
                                         "; an automaton takes at most 2^28");
  }
  for (const std::uint8_t byte : bytes) append(byte);
}

void SuffixAutomaton::append(std::uint8_t byte) {
  ++size_;
  const std::uint32_t length = states_[last_].length + 1;
  if (Transition* known = find(last_, byte)) {  // an earlier text has this text as a substring
    if (known->count < kHighestCount) ++known->count;
    const State target = known->state;
    last_ = states_[target].length == length ? target : split(last_, byte, target);
    last_repeats_ = true;
    return;
  }
  const State whole = add_state(length, kRoot);
  State suffix = last_;
  Transition* known = nullptr;
  while (suffix != kNone && (known = find(suffix, byte)) == nullptr) {
    insert(suffix, byte, whole);
    suffix = states_[suffix].link;
  }
  if (suffix != kNone) {
    if (known->count < kHighestCount) ++known->count;
    const State target = known->state;
    const bool longest = states_[target].length == states_[suffix].length + 1;
    const State link = longest ? target : split(suffix, byte, target);
    states_[whole].link = link;
  }
  last_ = whole;
  last_repeats_ = false;
}

// Moves the strings of `state` that end with the byte and are at most one byte longer than those of
// `before` to a state of their own, which is returned: they now end at a further position.
SuffixAutomaton::State SuffixAutomaton::split(State before, std::uint8_t byte, State state) {
  const State shorter = add_state(states_[before].length + 1, states_[state].link);
  const unsigned log_capacity = states_[state].log_capacity;
  if (states_[state].degree != 0) {
    const std::uint32_t begin = allocate(log_capacity);
    std::ranges::copy(transitions_of(state), pool_.begin() + begin);
    states_[shorter].begin = begin;
    states_[shorter].degree = states_[state].degree;
    states_[shorter].log_capacity = static_cast<std::uint8_t>(log_capacity);
    transitions_ += states_[state].degree;
  }
  states_[state].link = shorter;
  for (State suffix = before; suffix != kNone; suffix = states_[suffix].link) {
    Transition* const known = find(suffix, byte);
    if (known->state != state) break;
    known->state = shorter;
  }
  return shorter;
}

SuffixAutomaton::Match SuffixAutomaton::repeated() const {
  const State state = last_repeats_ || last_ == kRoot ? last_ : states_[last_].link;
  return {state, states_[state].length};
}

SuffixAutomaton::Match SuffixAutomaton::follow(Match match,
                                               std::span<const std::uint8_t> bytes) const {
  check_state("SuffixAutomaton.follow", match.state);
  if (match.length > states_[match.state].length) {
    refuse("SuffixAutomaton.follow", "length is " + std::to_string(match.length) +
                                         "; the strings of state " + std::to_string(match.state) +
                                         " have at most " +
                                         std::to_string(states_[match.state].length) + " bytes");
  }
  auto [state, length] = match;
  // A state may have been split since the match was found.
  while (state != kRoot && length <= states_[states_[state].link].length) {
    state = states_[state].link;
  }
  for (const std::uint8_t byte : bytes) {
    const Transition* known = find(state, byte);
    while (known == nullptr && state != kRoot) {
      state = states_[state].link;
      length = states_[state].length;
      known = find(state, byte);
    }
    if (known == nullptr) continue;
    state = known->state;
    ++length;
  }
  return {state, length};
}

SuffixAutomaton::Match SuffixAutomaton::shorter(State state) const {
  check_state("SuffixAutomaton.shorter", state);
  const State suffix = state == kRoot ? kRoot : states_[state].link;
  return {suffix, states_[suffix].length};
}

std::vector<SuffixAutomaton::Next> SuffixAutomaton::next(State state) const {
  check_state("SuffixAutomaton.next", state);
  std::vector<Next> result;
  for (const Transition& known : transitions_of(state)) {
    result.push_back({static_cast<std::uint8_t>(known.byte), known.state, known.count});
  }
  return result;
}

std::size_t SuffixAutomaton::memory() const {
  return sizeof *this + states_.capacity() * sizeof(Node) + pool_.capacity() * sizeof(Transition);
}

void SuffixAutomaton::check_state(const char* function, State state) const {
  if (state < states_.size()) return;
  refuse(function, "state is " + std::to_string(state) + "; the automaton has states 0.." +
                       std::to_string(states_.size() - 1));
}

SuffixAutomaton::State SuffixAutomaton::add_state(std::uint32_t length, State link) {
  states_.push_back({length, link, kNone, 0, 0});
  return static_cast<State>(states_.size() - 1);
}

std::span<SuffixAutomaton::Transition> SuffixAutomaton::transitions_of(State state) {
  const Node& node = states_[state];
  if (node.degree == 0) return {};
  return std::span(pool_).subspan(node.begin, node.degree);
}

std::span<const SuffixAutomaton::Transition> SuffixAutomaton::transitions_of(State state) const {
  const Node& node = states_[state];
  if (node.degree == 0) return {};
  return std::span(pool_).subspan(node.begin, node.degree);
}

const SuffixAutomaton::Transition* SuffixAutomaton::find(State state, std::uint8_t byte) const {
  const auto known = transitions_of(state);
  const auto place = std::ranges::lower_bound(known, byte, {}, [](const Transition& transition) {
    return static_cast<std::uint8_t>(transition.byte);
  });
  return place != known.end() && place->byte == byte ? &*place : nullptr;
}

SuffixAutomaton::Transition* SuffixAutomaton::find(State state, std::uint8_t byte) {
  return const_cast<Transition*>(std::as_const(*this).find(state, byte));
}

// Adds a transition that the state does not have.
void SuffixAutomaton::insert(State state, std::uint8_t byte, State target) {
  Node& node = states_[state];
  if (node.degree == 0) {
    node.begin = allocate(0);
  } else if (node.degree == 1U << node.log_capacity) {
    const std::uint32_t larger = allocate(node.log_capacity + 1U);
    std::ranges::copy(transitions_of(state), pool_.begin() + larger);
    free(node.begin, node.log_capacity);
    node.begin = larger;
    ++node.log_capacity;
  }
  ++node.degree;
  ++transitions_;
  const auto known = transitions_of(state);
  std::size_t place = known.size() - 1;
  for (; place > 0 && known[place - 1].byte > byte; --place) known[place] = known[place - 1];
  known[place] = {target, 1, byte};
}

std::uint32_t SuffixAutomaton::allocate(unsigned log_capacity) {
  std::uint32_t& first_free = free_blocks_[log_capacity];
  if (first_free != kNone) {
    const std::uint32_t begin = first_free;
    first_free = pool_[begin].state;
    return begin;
  }
  const std::size_t begin = pool_.size();
  pool_.resize(begin + (std::size_t{1} << log_capacity));
  return static_cast<std::uint32_t>(begin);
}

void SuffixAutomaton::free(std::uint32_t begin, unsigned log_capacity) {
  pool_[begin].state = free_blocks_[log_capacity];
  free_blocks_[log_capacity] = begin;
}

}  // namespace tokentiming
