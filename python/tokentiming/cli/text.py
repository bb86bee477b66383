"""Text of models and of users, made fit for a terminal: what would drive it becomes visible."""

from __future__ import annotations

import unicodedata

from rich.text import Text

# Left-to-right and right-to-left embeddings, overrides and isolates: they reorder what follows.
# Joiners, variation selectors and direction marks stay, since scripts and emoji need them.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def drives_terminal(character: str) -> bool:
    """Whether a terminal would act on a character; tab and newline are text."""
    if character in "\t\n":
        return False
    return character in _REORDERING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def escaped(character: str) -> str:
    r"""A character as an escape of Python: ``\x1b`` for ESC."""
    return character.encode("unicode_escape").decode()


def safe(text: object) -> str:
    """The text with escapes for all characters that a terminal would act on."""
    return "".join(escaped(c) if drives_terminal(c) else c for c in str(text))


def plain(text: object, style: str = "") -> Text:
    """Safe text to print as it is: no markup, no emoji codes, folded where a line ends."""
    return Text(safe(text), style, overflow="fold")
