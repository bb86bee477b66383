"""The prompts of the benchmarks of generation, and how they are continued."""

from __future__ import annotations

from tokentiming.bench.prompts import given, read, sampling_at

__all__ = ["chosen", "given", "sampling_at"]


def chosen(only: str = "") -> list[dict[str, str]]:
    """The prompts as dicts with ``name`` and ``prompt``.

    Args:
        only: names, comma-separated; all prompts if it is empty.

    Raises:
        SystemExit: a name is unknown.
    """
    try:
        prompts = read(only=only.split(",") if only else ())
    except ValueError as error:
        raise SystemExit(f"--only: {error}") from error
    return [{"name": prompt.name, "prompt": prompt.text} for prompt in prompts]
