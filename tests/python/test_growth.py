"""A million calls leave no more memory in use than a few do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support.growth import ALLOWED, CALLS, growth, needs_proc
from tests.support.tables import map_of, table_of
from tokentiming import ops

TABLE = table_of([b"a", b"b"])
MAP = map_of([[0], [1]], exact=[0, 1])
IDS = torch.tensor([0, 1])
PAIR = {"draft_ids": IDS, "target_ids": IDS, "draft_table": TABLE, "target_table": TABLE}
OFFSETS = torch.tensor([0, 1, 2])
SPANS = torch.tensor([[0, 1], [1, 2]], dtype=torch.int32)
ROWS = torch.full((1, 2, 2), 0.5)
TARGET, UNIFORMS = torch.full((1, 3, 2), 0.5), torch.full((1, 3), 0.5)
STATES = torch.zeros(2, 3, dtype=torch.int64)
ALIGNMENT = ops.Alignment(SPANS.clone(), torch.tensor(0))
BATCH = ops.Alignment(SPANS.clone(), torch.zeros(2, dtype=torch.int64))
VERIFICATION = ops.Verification(
    torch.zeros(1, 3, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
)
TRANSFER = ops.Transfer(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int8))
DRAWN = torch.zeros(2, dtype=torch.int64)
FOREST = {
    "picked": torch.tensor([0, 1, 0, 1]),
    "tokens": IDS,
    "parents": torch.tensor([-1, -1], dtype=torch.int32),
    "offsets": OFFSETS,
}
WALK = ops.Walk(FOREST["picked"].clone(), *torch.zeros(2, 2, dtype=torch.int32))
LED = ops.Candidates(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2))
ARRAY, KEYS = ROWS[0].numpy(), IDS.numpy()


def refused() -> None:
    with pytest.raises(ValueError, match=r"^align: band"):
        ops.align(**PAIR, band=-1, out=ALIGNMENT)
    with pytest.raises(TypeError, match=r"^sample: logits"):
        ops.sample(IDS[None], IDS, seed=0, states=STATES, out=DRAWN)


CASES: dict[str, tuple[int, Callable[[], object]]] = {
    "align": (CALLS, lambda: ops.align(**PAIR, out=ALIGNMENT)),
    "align a batch": (
        CALLS // 2,
        lambda: ops.align(**PAIR, draft_offsets=OFFSETS, target_offsets=OFFSETS, out=BATCH),
    ),
    "verify": (
        CALLS,
        lambda: ops.verify(
            IDS[None], target_logits=TARGET, draft_probs=ROWS, uniforms=UNIFORMS, out=VERIFICATION
        ),
    ),
    "transfer": (
        CALLS // 2,
        lambda: ops.transfer(ROWS[0], **PAIR, target_spans=SPANS, vocabulary_map=MAP, out=TRANSFER),
    ),
    "restrict": (CALLS, lambda: ops.restrict(ROWS[0], MAP, columns=2)),
    "sample": (CALLS, lambda: ops.sample(ROWS[0], IDS, seed=0, states=STATES, out=DRAWN)),
    "walk": (CALLS, lambda: ops.walk(**FOREST, out=WALK)),
    "candidates": (
        CALLS // 2,
        lambda: ops.candidates(ROWS[0], IDS, seed=0, states=STATES, count=2, out=LED),
    ),
    "NumPy arrays": (CALLS // 2, lambda: ops.sample(ARRAY, KEYS, seed=0, states=STATES, out=DRAWN)),
    "tables and maps": (CALLS // 20, lambda: (table_of([b"ab", b"c"]), map_of([[0], [1]]))),
    "refusals": (CALLS // 20, refused),
}


@needs_proc
@pytest.mark.parametrize("case", CASES)
def test_memory_does_not_grow_with_calls(case: str) -> None:
    calls, call = CASES[case]
    assert growth(call, calls) < ALLOWED
