"""Inverses of maps between vocabularies."""

from __future__ import annotations

import pytest
import torch

from tokentiming import ops
from tokentiming.ops.inverse import inverse

DTYPES = pytest.mark.parametrize("dtype", [torch.int32, torch.int64])


@DTYPES
def test_every_draft_token_is_listed_under_its_target_token(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        size = int(torch.randint(0, 60, (), generator=generator))
        targets = torch.randint(-1, 20, (size,), generator=generator).to(dtype)
        offsets, draft_ids = inverse(targets, "first")
        assert offsets.dtype == draft_ids.dtype == torch.int32
        assert len(offsets) == max(int(targets.max()) + 1 if size else 0, 0) + 1
        for t in range(len(offsets) - 1):
            start, end = offsets[t : t + 2].tolist()
            expected = [d for d, target in enumerate(targets.tolist()) if target == t]
            assert draft_ids[start:end].tolist() == expected


def test_a_map_without_targets_has_an_empty_inverse() -> None:
    for targets in (torch.tensor([-1, -1]), torch.empty(0, dtype=torch.int32)):
        offsets, draft_ids = inverse(targets, "first")
        assert offsets.tolist() == [0]
        assert draft_ids.tolist() == []


def test_a_target_token_beyond_32_bits_is_refused() -> None:
    with pytest.raises(
        ops.ArgumentValueError, match=r"^VocabularyMap: exact has the entry 1099511627776"
    ):
        inverse(torch.tensor([0, 2**40]), "exact")
