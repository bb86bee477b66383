"""``ops.transfer`` and ``ops.restrict`` against their naive twins, and what they refuse."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from tests.support import references
from tests.support.tables import exact_map, map_of, table_of
from tokentiming import ops

POINT_MASS, WITHIN, MERGE, INSIDE = range(4)


def encode(text: bytes, table: list[bytes]) -> list[int]:
    """Greedy longest match, up to bytes that no token spells."""
    ids = []
    while text:
        fits = [i for i, token in enumerate(table) if token and text.startswith(token)]
        if not fits:
            return []
        ids.append(max(fits, key=lambda i: len(table[i])))
        text = text[len(table[ids[-1]]) :]
    return ids


# Merges both ways, a token without bytes, tokens with equal bytes, and one (!) without expansion.
DRAFT = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"cab", b"", b"!", b"a", b"abca"]
TARGET = [b"a", b"b", b"c", b"bc", b"abcab", b"ca", b"", b"b", b"ab"]
EXPANSIONS = [encode(token, TARGET) for token in DRAFT]


def random_rows(count: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Distributions whose entries are multiples of 2^-6 with zeros among them."""
    picks = torch.randint(len(DRAFT), (count, 64), generator=generator)
    return torch.stack([p.bincount(minlength=len(DRAFT)) for p in picks]).to(dtype) / 64


def run(rows, draft, target, spans, *, ids=torch.int64, **options):
    return ops.transfer(
        rows,
        draft_ids=torch.tensor(draft, dtype=ids),
        target_ids=torch.tensor(target, dtype=ids),
        target_spans=torch.tensor(spans, dtype=torch.int32).view(-1, 2),
        draft_table=table_of(DRAFT),
        target_table=table_of(TARGET),
        vocabulary_map=map_of(EXPANSIONS),
        **options,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_equals_the_reference(dtype: torch.dtype, ids: torch.dtype) -> None:
    rng, generator = random.Random(1), torch.Generator().manual_seed(1)
    drafts, targets, spans = [], [], []
    for _ in range(400):
        draft = rng.choices(range(len(DRAFT)), k=rng.randint(1, 6))
        target = encode(b"".join(DRAFT[d] for d in draft), TARGET)
        if rng.random() < 0.2:
            target = rng.choices(range(len(TARGET)), k=rng.randint(1, 6))
        target = target or [6]
        aligned = ops.align(
            draft_ids=torch.tensor(draft),
            target_ids=torch.tensor(target),
            draft_table=table_of(DRAFT),
            target_table=table_of(TARGET),
        ).target_spans.tolist()
        if rng.random() < 0.2:
            aligned = [sorted(rng.choices(range(len(draft) + 1), k=2)) for _ in target]
        drafts.append(draft)
        targets.append(target)
        spans.append(aligned)
    rows = random_rows(sum(map(len, drafts)), dtype, generator)
    result = run(
        rows,
        list(itertools.chain(*drafts)),
        list(itertools.chain(*targets)),
        list(itertools.chain(*spans)),
        ids=ids,
        draft_offsets=torch.tensor([0, *itertools.accumulate(map(len, drafts))]),
        target_offsets=torch.tensor([0, *itertools.accumulate(map(len, targets))]),
    )
    assert result.probs.dtype == dtype
    assert result.cases.dtype == torch.int8
    row, proxy = 0, 0
    for draft, target, span in zip(drafts, targets, spans, strict=True):
        probs, cases = references.transfer(
            rows[row : row + len(draft)].tolist(), draft, target, span, DRAFT, TARGET, EXPANSIONS
        )
        part = slice(proxy, proxy + len(target))
        assert result.cases[part].tolist() == cases
        expected = torch.tensor(probs, dtype=torch.float64)
        assert torch.allclose(result.probs[part].double(), expected, rtol=0, atol=1e-6)
        row, proxy = row + len(draft), proxy + len(target)
    counts = result.cases.long().bincount(minlength=4)
    assert (counts >= 30).all()  # every case was met


def test_mass_is_kept_except_for_tokens_without_an_expansion() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = random_rows(2, torch.float64, generator)
    missing = rows[:, [d for d, e in enumerate(EXPANSIONS) if not e]].sum(1)
    assert (missing > 0).all()
    within = run(rows[:1], [3], [0], [[0, 1]])
    assert within.cases.tolist() == [WITHIN]
    assert within.probs.sum() == 1 - missing[0]
    merged = run(rows, [3, 6], [4], [[0, 2]])
    assert merged.cases.tolist() == [MERGE]
    assert abs(merged.probs.sum() - (1 - missing[0])) < 1e-15
    moved = merged.probs - run(rows[:1], [3], [0], [[0, 1]]).probs
    assert moved[0, 4] == rows[0, 3] * rows[1, 6]
    assert moved[0, 8] == -moved[0, 4]  # the mass came from `ab`, which is one target token


def test_inside_a_token_the_distribution_is_conditioned_on_further_tokens() -> None:
    draft = [b"xy", b"xyz", b"xw", b"x"]
    target = [b"x", b"y", b"z", b"w"]
    expansions = [encode(token, target) for token in draft]
    rows = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    result = ops.transfer(
        rows,
        draft_ids=torch.tensor([1]),
        target_ids=torch.tensor([0, 1, 2]),
        target_spans=torch.tensor([[0, 1]] * 3, dtype=torch.int32),
        draft_table=table_of(draft),
        target_table=table_of(target),
        vocabulary_map=map_of(expansions),
    )
    assert result.cases.tolist() == [WITHIN, INSIDE, INSIDE]
    expected = torch.tensor([[1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0]], dtype=torch.float64)
    assert torch.allclose(result.probs, expected, rtol=0, atol=1e-15)


def test_a_case_without_mass_is_a_point_mass() -> None:
    rows = torch.zeros(1, len(DRAFT))
    rows[0, 8] = 1.0  # all missing
    result = run(rows, [3], [8], [[0, 1]])
    assert result.cases.tolist() == [POINT_MASS]
    assert result.probs.tolist() == [[0.0] * 8 + [1.0]]


def test_equal_vocabularies_keep_the_rows() -> None:
    rows = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    table = table_of([b"a", b"b", b"c", b"d", b"ee"])
    ids = torch.tensor([4, 0, 2])
    spans = torch.tensor([[0, 1], [1, 2], [2, 3]], dtype=torch.int32)
    same = map_of([[i] for i in range(5)])
    result = ops.transfer(
        rows,
        draft_ids=ids,
        target_ids=ids,
        target_spans=spans,
        draft_table=table,
        target_table=table,
        vocabulary_map=same,
    )
    assert torch.equal(result.probs, rows)
    assert result.cases.tolist() == [WITHIN] * 3


def test_padded_heads_strides_out_and_empty() -> None:
    wide = torch.rand(4, 40, generator=torch.Generator().manual_seed(0))
    rows = wide[::2, 3 : 3 + len(DRAFT) + 4]
    expected = run(rows[:, : len(DRAFT)].contiguous(), [3, 6], [4], [[0, 2]])
    out = ops.Transfer(torch.full((1, 12), -1.0), torch.full((1,), -1, dtype=torch.int8))
    assert run(rows, [3, 6], [4], [[0, 2]], out=out) is out
    assert torch.equal(out.probs[:, :9], expected.probs)
    assert (out.probs[:, 9:] == 0).all()
    assert run(rows, [3, 6], [4], [[0, 2]], columns=12).probs.shape == (1, 12)
    assert run(rows[:0], [], [], []).probs.shape == (0, 9)


def test_threads_do_not_matter() -> None:
    size, count = 20_000, 12
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(count, size, generator=generator)
    table = table_of([b"x"] * size)
    tied = torch.randint(size, (size,), generator=generator, dtype=torch.int32)
    mapped = ops.VocabularyMap(tied, tied, torch.arange(size + 1), tied)
    ids = torch.randint(size, (count,), generator=generator)
    spans = torch.stack([torch.arange(count), torch.arange(count) + 1], 1).int()
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            result = ops.transfer(
                rows,
                draft_ids=ids,
                target_ids=ids,
                target_spans=spans,
                draft_table=table,
                target_table=table,
                vocabulary_map=mapped,
            )
            results.append(result.probs)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


ROWS = torch.full((2, len(DRAFT)), 1 / len(DRAFT))
GOOD = {
    "draft_probs": ROWS,
    "draft_ids": torch.tensor([3, 6]),
    "target_ids": torch.tensor([4]),
    "target_spans": torch.tensor([[0, 2]], dtype=torch.int32),
    "draft_table": table_of(DRAFT),
    "target_table": table_of(TARGET),
    "vocabulary_map": map_of(EXPANSIONS),
}


def changed_map(**changes: torch.Tensor) -> ops.VocabularyMap:
    """A map whose tensors have been changed after its construction."""
    changed = map_of(EXPANSIONS)
    for name, values in changes.items():
        getattr(changed, name).copy_(values)
    return changed


def with_entry(value: float) -> torch.Tensor:
    rows = ROWS.clone()
    rows[0, 2] = value
    return rows


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"draft_probs": ROWS.long()}, TypeError, "draft_probs must be float16, bfloat16, float32"),
        ({"draft_probs": ROWS[0]}, ValueError, r"draft_probs must have shape \[K, V_d\]"),
        ({"draft_probs": ROWS[:1]}, ValueError, "draft_probs has 1 rows, draft_ids 2"),
        ({"draft_probs": ROWS[:, :5]}, ValueError, "first has 11 entries, draft_probs only 5"),
        ({"draft_probs": ROWS.T.contiguous().T}, ValueError, "draft_probs must be contiguous"),
        ({"draft_probs": ROWS.clone().requires_grad_()}, ValueError, "draft_probs requires grad"),
        ({"draft_probs": with_entry(math.nan)}, ValueError, r"draft_probs\[0\] holds NaN"),
        ({"draft_probs": with_entry(-0.5)}, ValueError, r"draft_probs\[0\] holds NaN"),
        ({"draft_ids": torch.tensor([3, 11])}, ValueError, r"draft_ids\[1\] is 11, outside"),
        ({"target_ids": torch.tensor([9])}, ValueError, r"target_ids\[0\] is 9, outside"),
        ({"target_ids": torch.tensor([4]).int()}, TypeError, "target_ids must be int64"),
        (
            {"target_spans": torch.tensor([[0, 3]], dtype=torch.int32)},
            ValueError,
            r"target_spans\[0\] is 0..3, not a range of the 2",
        ),
        (
            {"target_spans": torch.tensor([[0, 2]] * 2, dtype=torch.int32)},
            ValueError,
            "target_spans must have 2 entries for each of the 1",
        ),
        ({"target_spans": torch.tensor([[0, 2]])}, TypeError, "target_spans must be int32"),
        ({"columns": -1}, ValueError, r"columns is -1; it must be in \[0, 2\*\*31\)"),
        ({"columns": 9.0}, TypeError, "columns must be an integer"),
        (
            {"vocabulary_map": [0]},
            TypeError,
            r"vocabulary_map must be an ops\.VocabularyMap, got list; give an ops\.VocabularyMap",
        ),
        ({"draft_offsets": torch.tensor([0, 2])}, ValueError, "target_offsets is missing"),
        (
            {"draft_offsets": torch.tensor([0, 1]), "target_offsets": torch.tensor([0, 1])},
            ValueError,
            "draft_offsets must rise from 0",
        ),
        (
            {"vocabulary_map": changed_map(first=torch.full((11,), 9))},
            ValueError,
            "first has an entry that is neither -1 nor one of the 9 columns",
        ),
        (
            {"out": ops.Transfer(torch.empty(2, 9), torch.empty(1, dtype=torch.int8))},
            ValueError,
            "out.probs has 2 rows, target_ids 1",
        ),
        (
            {"out": ops.Transfer(torch.empty(1, 9).double(), torch.empty(1, dtype=torch.int8))},
            TypeError,
            "out.probs must be float32",
        ),
    ],
)
def test_refusals(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^transfer: {message}"):
        ops.transfer(**GOOD | changes)


# An expansion of token 0 and a token that does not exist, and a map whose offsets have been changed
# after its construction.
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (map_of([[0, 9], *[[]] * 10]), "expansion of draft token"),
        (
            changed_map(first=torch.zeros(11), expansion_offsets=torch.full((12,), 99)),
            "expansion_offsets of draft token 0 are 99",
        ),
    ],
)
def test_a_broken_map_is_refused_where_it_is_read(broken: ops.VocabularyMap, message: str) -> None:
    arguments = GOOD | {
        "draft_probs": ROWS[:1],
        "draft_ids": torch.tensor([0]),
        "draft_table": table_of([b"aa", *DRAFT[1:]]),
        "target_ids": torch.tensor([0, 0]),
        "target_spans": torch.tensor([[0, 1]] * 2, dtype=torch.int32),
        "vocabulary_map": broken,
    }
    with pytest.raises(ValueError, match=f"^transfer: {message}"):
        ops.transfer(**arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_restrict_equals_the_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(7, 50, generator=generator, dtype=dtype)
    exact = torch.randint(-1, 30, (45,), generator=generator)
    mapped = exact_map(exact)
    result = ops.restrict(rows, mapped, columns=30)
    expected = [references.restrict(row, exact.tolist(), 30) for row in rows.tolist()]
    assert torch.allclose(result.double(), torch.tensor(expected).double(), rtol=0, atol=1e-6)
    assert torch.allclose(result.sum(1), torch.ones(7, dtype=dtype))
    out = torch.full((7, 30), -1, dtype=dtype)
    assert ops.restrict(rows, mapped, columns=30, out=out) is out
    assert torch.equal(out, result)


def of_exact(exact: torch.Tensor) -> dict[str, ops.VocabularyMap]:
    return {"vocabulary_map": exact_map(exact)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"draft_probs": ROWS.long()}, TypeError, "draft_probs must be float16, bfloat16, float32"),
        ({"draft_probs": with_entry(math.inf)}, ValueError, r"draft_probs\[0\] holds NaN, inf"),
        (of_exact(torch.full((11,), -1)), ValueError, r"draft_probs\[[01]\] has no mass on the"),
        (of_exact(torch.full((11,), 5)), ValueError, "exact has an entry that is neither -1"),
        (of_exact(torch.full((11,), -2)), ValueError, "exact has an entry that is neither -1"),
        (of_exact(torch.zeros(12)), ValueError, "exact has 12 entries, draft_probs only"),
        (
            {"vocabulary_map": torch.zeros(11, dtype=torch.int32)},
            TypeError,
            r"vocabulary_map must be an ops\.VocabularyMap, got Tensor; give",
        ),
        ({"columns": -1}, ValueError, "columns is -1"),
        ({"out": torch.empty(1, 5)}, ValueError, "out has 1 rows, draft_probs has 2"),
        ({"out": torch.empty(2, 6)}, ValueError, "out has 6 columns, columns is 5"),
    ],
)
def test_restrict_refusals(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    good = {"draft_probs": ROWS, "columns": 5} | of_exact(torch.zeros(11))
    with pytest.raises(error, match=f"^restrict: {message}"):
        ops.restrict(**good | changes)
