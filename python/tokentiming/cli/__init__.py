"""The command line: ``tokentiming generate``, ``demo``, ``bench``, ``align`` and ``models``.

- ``commands``, ``bench``, ``options`` and ``errors``: options, exit codes, one-line errors.
- ``demo``: the comparison that ``tokentiming demo`` shows.
- ``views``: what the terminal shows.
- ``demo_models``: models known by name, for the demo, the tests and the benchmarks.
"""

from tokentiming.cli.commands import app, main

__all__ = ["app", "main"]
