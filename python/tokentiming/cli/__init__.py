"""The command line: ``tokentiming generate``, ``demo``, ``align`` and ``models``."""

from tokentiming.cli.commands import app, main

__all__ = ["app", "main"]
