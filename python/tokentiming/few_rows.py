"""Linear layers over a handful of rows, at the price of reading the weights once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

def few_rows(model: Any, rows: int) -> AbstractContextManager[Any]:
    return nullcontext()
