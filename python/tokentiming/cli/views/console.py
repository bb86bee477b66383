"""The two streams of the command line: output and messages."""

from __future__ import annotations

import sys

from rich.console import Console

from tokentiming.cli.views.text import plain


def output() -> Console:
    """Standard output."""
    return Console(highlight=False)


def messages() -> Console:
    """Standard error, for errors, notes and progress bars, so that the output can be piped."""
    return Console(file=sys.stderr, highlight=False)


def error(message: object) -> None:
    """Print an error as one line, whatever the message contains."""
    line = " ".join(part.strip() for part in str(message).splitlines())
    messages().print(plain(f"tokentiming: {line}", "bold red"), soft_wrap=True)


def note(message: object) -> None:
    """Print a message that is not an error."""
    messages().print(plain(message, "yellow"), soft_wrap=True)
