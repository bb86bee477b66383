"""Comparison of systems that generate text with the same target: ``tokentiming bench``.

- ``prompts``: files of prompts, and how a model continues them.
- ``pair``, ``systems`` and ``selection``: the models, and what generates text with them.
- ``difference``: where two greedy texts part, and whether rounding explains it.
- ``records``: the file of runs, which an interrupted benchmark continues.
- ``run``: runs the systems prompt by prompt.
- ``cells``, ``statistics``, ``report``, ``breakdown``, ``plots``: what the file says.

The library does not import this package.
"""
