"""What the target expected after each token, as a table of its most probable tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

_BLOCK = 128
"""Columns whose maximum is computed at once."""
_ROWS = 4
"""Rows of a part on the CPU. Larger temporary tensors are returned to the system each time, and
then each of their pages faults again."""

_Scalar = TypeVar("_Scalar", bound=np.generic)


class Expected:
    """The most probable tokens after each token, with their log-probabilities.

    A token after which something is stored takes a row of ``4 + 8 * k`` bytes for k candidates, and
    the table grows by half when it is full. The row number of each token takes 4 bytes, whether
    anything is stored after it or not.

    Args:
        columns: of the target's logits.
        count: candidates after each token, at most ``columns``.
    """

    def __init__(self, columns: int, count: int) -> None:
        self.count = min(count, columns)
        self._row_of = np.full(columns, -1, np.int32)  # of each token; -1 if nothing is stored
        self._rows = 0
        self._tokens: npt.NDArray[np.int32] = np.empty(0, np.int32)  # of each row
        self._ids: npt.NDArray[np.int32] = np.empty((0, self.count), np.int32)
        self._log_probs: npt.NDArray[np.float32] = np.empty((0, self.count), np.float32)

    def __len__(self) -> int:
        """Number of tokens after which something is stored."""
        return self._rows

    def __contains__(self, token: int) -> bool:
        return bool(self._row_of[token] >= 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self._row_of, self._tokens, self._ids, self._log_probs)
        return sum(array.nbytes for array in arrays)

    @property
    def columns(self) -> int:
        """Of the target's logits."""
        return len(self._row_of)

    def after(self, tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The ids, int64 ``[R, k]``, and log-probabilities, float32 ``[R, k]``, after R tokens.

        Something must be stored after each of them.
        """
        rows = self._row_of[tokens]
        ids, log_probs = self._ids[rows], self._log_probs[rows]
        return torch.from_numpy(ids).long(), torch.from_numpy(log_probs)

    def all(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Copies of all tokens, int64 ``[N]``, and what is stored after them as in ``after``."""
        tokens = self._tokens[: self._rows]
        return torch.from_numpy(tokens).long(), *self.after(tokens.tolist())

    def store(self, tokens: Sequence[int], ids: torch.Tensor, log_probs: torch.Tensor) -> None:
        """Replace what is stored after R different tokens.

        Args:
            tokens: R ids.
            ids: ``[R, k]``, the most probable one first.
            log_probs: float ``[R, k]``.
        """
        indices = np.asarray(tokens, np.int64)
        new = indices[self._row_of[indices] < 0]
        end = self._rows + len(new)
        if end > len(self._tokens):
            size = max(end, len(self._tokens) * 3 // 2)
            self._tokens = _grown(self._tokens, size)
            self._ids = _grown(self._ids, size)
            self._log_probs = _grown(self._log_probs, size)
        self._row_of[new] = np.arange(self._rows, end)
        self._tokens[self._rows : end] = new
        self._rows = end
        rows = self._row_of[indices]
        self._ids[rows] = ids.cpu().numpy()
        self._log_probs[rows] = log_probs.cpu().numpy()


def _grown(array: npt.NDArray[_Scalar], size: int) -> npt.NDArray[_Scalar]:
    grown = np.empty((size, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def most_probable(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable tokens of each row, the most probable one first.

    Args:
        logits: float ``[R, V]``.
        count: at most V.

    Returns:
        Ids, int64 ``[R, count]``, and log-probabilities, float32 ``[R, count]``.
    """
    rows = _ROWS if logits.device.type == "cpu" else max(len(logits), 1)
    found = [
        _greatest(torch.log_softmax(part, 1, dtype=torch.float32), count)
        for part in torch.split(logits, rows)
    ]
    ids, log_probs = zip(*found, strict=True)
    return torch.cat(ids), torch.cat(log_probs)


def _greatest(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns and values ``[R, count]`` of the greatest scores ``[R, V]``, in descending order.

    They are in the ``count`` blocks of columns with the greatest maxima, or behind the last whole
    block. A pass over the maxima is faster than ``topk`` over the whole row.
    """
    blocks = scores.shape[1] // _BLOCK
    if blocks <= count:
        values, columns = scores.topk(count, 1)
        return columns, values
    end = blocks * _BLOCK
    maxima = scores[:, :end].view(len(scores), blocks, _BLOCK).amax(2)
    starts = maxima.topk(count, 1, sorted=False).indices * _BLOCK
    inside = starts[:, :, None] + torch.arange(_BLOCK, device=scores.device)
    behind = torch.arange(end, scores.shape[1], device=scores.device).expand(len(scores), -1)
    columns = torch.cat((inside.flatten(1), behind), 1)
    values, found = scores.gather(1, columns).topk(count, 1)
    return columns.gather(1, found), values
