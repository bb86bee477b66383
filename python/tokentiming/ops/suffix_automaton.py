"""An index of all substrings of texts that grow byte by byte."""

from __future__ import annotations

from tokentiming._core import SuffixAutomaton

__all__ = ["SuffixAutomaton"]

SuffixAutomaton.__doc__ = """The suffix automaton of one or more texts that grow byte by byte.

Each state stands for the substrings that end at the same positions of the texts; state 0 holds the
empty string. Texts are appended one after another, and no substring extends over the end of a text.
A string is given by its state and its length in bytes. Appending may move a string to another
state, so use a state soon, or pass it through ``follow`` again.

A text of n bytes has at most 2n states of 16 bytes and 3n transitions of 8 bytes. ``append`` and
``follow`` take amortized constant time a byte. ``len()`` is the number of bytes of all texts. An
automaton serves one thread at a time.

- ``begin_text()`` begins a new text.
- ``append(data)`` appends bytes to the current text.
- ``repeated()`` returns the state and length of the longest suffix of the current text that occurs
  a second time, in this text or in an earlier one; occurrences may overlap.
- ``follow(state, length, data)`` returns the state and length of the longest suffix of a string
  followed by ``data`` that occurs in a text.
- ``shorter(state)`` returns the state and length of the longest suffix of a state's strings that
  also ends at other positions; (0, 0) for state 0.
- ``next(state)`` returns the bytes that follow the strings of a state, ascending, each as
  ``(byte, state, count)`` with the state of the strings with this byte appended. The count is at
  least 1 and at most the number of occurrences: appending a byte raises it in one state only, which
  has the longest suffix of the text that the byte had followed before (update exclusion).

Attributes:
    states: number of states.
    transitions: number of transitions.
    memory: bytes of memory, including those reserved for growth.

Raises:
    TypeError: ``data`` does not hold bytes, or a state or length is not an integer.
    ValueError: there is no such state, the length is above that of its strings, or there would be
        more than 2**28 bytes.

Sources: Blumer et al., "The smallest automaton recognizing the subwords of a text", 1985; the
counts after Moffat, "Implementing the PPM data compression scheme", 1990.

>>> automaton = SuffixAutomaton()
>>> automaton.append(b"to be or not to b")
>>> state, length = automaton.repeated()
>>> length  # "to b"
4
>>> [(chr(byte), count) for byte, _, count in automaton.next(state)]
[('e', 1)]
>>> automaton.follow(0, 0, b"want to be")[1]  # "to be"
5
"""
