"""Selects the tests that run by default, and prints a line about the others."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tokentiming import ops

_DESELECTED = {
    "slow": "long statistics and real weights; run them with -m slow",
    "matrix": "all prompts at full length; run them with -m matrix",
}


def _missing_gpu() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None if ops.has_cuda() else "tokentiming was built without CUDA"


class Selection:
    """Deselects tests by marker: those that take long unless ``-m`` names their marker, and those
    that need a GPU where there is none.
    """

    def __init__(self, expression: str) -> None:
        self._reasons = {
            marker: reason for marker, reason in _DESELECTED.items() if marker not in expression
        }
        missing = _missing_gpu()
        if missing is not None:
            self._reasons["gpu"] = missing
        self._counts: Counter[str] = Counter()

    def _reason(self, item: pytest.Item) -> str | None:
        return next((m for m in self._reasons if item.get_closest_marker(m)), None)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        kept: list[pytest.Item] = []
        deselected: list[pytest.Item] = []
        for item in items:
            marker = self._reason(item)
            (kept if marker is None else deselected).append(item)
            if marker is not None:
                self._counts[marker] += 1
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept

    def pytest_report_collectionfinish(self) -> list[str]:
        return [
            f"deselected: {count} marked {marker} ({self._reasons[marker]})"
            for marker, count in self._counts.items()
        ]
