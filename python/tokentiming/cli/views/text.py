"""Text of models and users made safe for a terminal: control characters become visible."""

from __future__ import annotations

import unicodedata

from rich.text import Text

# Left-to-right and right-to-left embeddings, overrides and isolates reorder the text after them.
# Joiners, variation selectors and direction marks are kept, since scripts and emoji need them.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_control(character: str) -> bool:
    """Whether a terminal would act on a character instead of showing it; not tab and newline."""
    if character in "\t\n":
        return False
    return character in _REORDERING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def escaped(character: str) -> str:
    r"""A character as a Python escape: ``\x1b`` for ESC."""
    return character.encode("unicode_escape").decode()


def safe(text: object) -> str:
    """The text with escapes for all characters that a terminal would act on."""
    return "".join(escaped(c) if is_control(c) else c for c in str(text))


def plain(text: object, style: str = "") -> Text:
    """Safe text without markup or emoji codes, folded at the end of a line."""
    return Text(safe(text), style, overflow="fold")
