"""Maps between vocabularies, turned round."""

from __future__ import annotations

import pytest
import torch

from tokentiming import VocabularyMap, ops

DTYPES = pytest.mark.parametrize("dtype", [torch.int32, torch.int64])


@DTYPES
def test_every_draft_token_is_where_it_goes(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        size = int(torch.randint(0, 60, (), generator=generator))
        targets = torch.randint(-1, 20, (size,), generator=generator).to(dtype)
        origins = ops.Origins.of(targets)
        assert origins.offsets.dtype == origins.draft_ids.dtype == torch.int32
        assert len(origins.offsets) == max(int(targets.max()) + 1 if size else 0, 0) + 1
        for t in range(len(origins.offsets) - 1):
            start, end = origins.offsets[t : t + 2].tolist()
            expected = [d for d, target in enumerate(targets.tolist()) if target == t]
            assert origins.draft_ids[start:end].tolist() == expected


def test_nothing_goes_anywhere() -> None:
    for targets in (torch.tensor([-1, -1]), torch.empty(0, dtype=torch.int32)):
        origins = ops.Origins.of(targets)
        assert origins.offsets.tolist() == [0]
        assert origins.draft_ids.tolist() == []


def test_a_vocabulary_map_has_its_own() -> None:
    first = torch.tensor([2, -1, 0, 2], dtype=torch.int32)
    exact = torch.tensor([-1, -1, 0, -1], dtype=torch.int32)
    offsets, ids = torch.tensor([0, 2, 2, 3, 4]), torch.tensor([2, 1, 0, 2], dtype=torch.int32)
    found = VocabularyMap(exact, first, offsets, ids)
    assert found.first_origins is found.first_origins
    assert found.first_origins.draft_ids.tolist() == [2, 0, 3]
    assert found.exact_origins.draft_ids.tolist() == [2]
    moved = found.on("meta")
    assert moved.first.is_meta
    assert moved.expansion_offsets.shape == offsets.shape


def test_on_the_cpu_they_change_nothing() -> None:
    exact = torch.tensor([1, -1, 0])
    probs = torch.tensor([[0.5, 0.25, 0.25]])
    plain = ops.restrict(probs, exact, columns=3)
    assert torch.equal(ops.restrict(probs, exact, columns=3, origins=ops.Origins.of(exact)), plain)
