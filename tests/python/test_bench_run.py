"""Runs of the benchmark, with systems and a clock that the tests control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.small_models import TOKENIZER, lively
from tokentiming.bench.difference import Difference
from tokentiming.bench.pair import Pair
from tokentiming.bench.prompts import Prompt
from tokentiming.bench.records import Line, Records, header
from tokentiming.bench.run import Bench, Plan, Step
from tokentiming.bench.systems import Generated

PROMPTS = [Prompt("one", "a", "ab"), Prompt("two", "a", "ba b"), Prompt("three", "b", "aab")]


@pytest.fixture(scope="module")
def pair() -> Pair:
    model = lively()
    return Pair(lambda: (model, TOKENIZER), lambda: pytest.fail("no draft is needed"))


class FakeClock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Fake:
    """Generates the target's own greedy ids, changed by ``edit``, in ``seconds`` a token."""

    def __init__(self, name, pair, clock, seconds=1.0, *, is_peer=False, edit=lambda ids: ids):
        self.name, self.is_peer = name, is_peer
        self._pair, self._clock, self._seconds, self._edit = pair, clock, seconds, edit
        self.calls: list[tuple[tuple[str, ...], int, float, int]] = []

    def runs_at(self, temperature: float) -> bool:
        return self.name != "greedy only" or not temperature

    def generate(
        self, texts: Sequence[str], *, length: int, temperature: float, seed: int
    ) -> Generated:
        self.calls.append((tuple(texts), length, temperature, seed))
        ids = [self._edit(self._greedy(text, length)) for text in texts]
        self._clock.seconds += self._seconds * sum(map(len, ids))
        return Generated(ids, length)

    def _greedy(self, text: str, length: int) -> list[int]:
        ids = torch.tensor([self._pair.prompt_ids(text)])
        options = {"do_sample": False, "max_new_tokens": length, "pad_token_id": 0}
        rows = self._pair.target[0].generate(ids, **options)
        return rows[0, ids.shape[1] :].tolist()


def bench(pair: Pair, path: Path, systems, clock, **changes) -> tuple[Bench, Records]:
    plan = Plan(systems, PROMPTS, **{"temperatures": [0.0], "length": 4} | changes)
    records = Records(path, header({}, torch.device("cpu")))
    return Bench(plan, pair, records, clock=clock), records


def test_systems_take_turns_and_their_seconds_are_measured(pair: Pair, tmp_path: Path) -> None:
    clock = FakeClock()
    systems = [Fake("generate", pair, clock, 2.0), Fake("greedy only", pair, clock, 0.5)]
    run, records = bench(
        pair, tmp_path / "runs", systems, clock, temperatures=[0.0, 1.0], repeats=2
    )
    seen: list[Step] = []
    run.run(seen.append)
    expected = [
        (temperature, name, repeat, system)
        for temperature, names in ((0.0, ["generate", "greedy only"]), (1.0, ["generate"]))
        for name in ("one", "two", "three")
        for repeat in range(2)
        for system in names
    ]
    found = [
        (line["temperature"], *line["prompts"], line["repeat"], line["system"])
        for line in records.lines
    ]
    assert found == expected
    assert len(seen) == len(expected)
    for line in records.lines:
        per_token = 2.0 if line["system"] == "generate" else 0.5
        assert line["seconds"] == pytest.approx(per_token * line["tokens"])
        assert line["tokens"] == len(line["ids"][0])
        assert line["differences"] == [None]
    # a warm-up at each temperature, of 8 tokens, and the repeats as seeds
    calls = systems[0].calls
    assert [call[1:] for call in calls[:3]] == [(8, 0.0, 0), (4, 0.0, 0), (4, 0.0, 1)]
    assert sum(length == 8 for _, length, *_ in calls) == 2


def test_prompts_run_in_batches(pair: Pair, tmp_path: Path) -> None:
    clock = FakeClock()
    systems = [Fake("generate", pair, clock), Fake("alone", pair, clock)]
    run, records = bench(pair, tmp_path / "runs", systems, clock, batch_size=2)
    run.run()
    groups = [(line["prompts"], line["category"]) for line in records.lines[::2]]
    assert groups == [(("one", "two"), "a"), (("three",), "b")]
    assert systems[0].calls[0][0] == ("Warm up.", "Warm up.")
    mixed = Step(0.0, 0, systems[0], PROMPTS)
    assert mixed.category == "mixed"


def test_a_killed_run_is_continued(pair: Pair, tmp_path: Path) -> None:
    """Interrupted before each run in turn, it measures every run once."""
    clock, path = FakeClock(), tmp_path / "runs"
    whole, systems = tmp_path / "whole", [Fake("generate", pair, clock), Fake("alone", pair, clock)]
    bench(pair, whole, systems, clock)[0].run()

    def kill_at(count: int):
        seen: list[Step] = []

        def watch(step: Step) -> None:
            seen.append(step)
            if len(seen) > count:
                raise KeyboardInterrupt

        return watch

    for _ in range(6):
        run, records = bench(pair, path, systems, clock)
        before = len(records.lines)
        try:
            run.run(kill_at(1))
        except KeyboardInterrupt:
            assert len(records.lines) == before + 1
    run, records = bench(pair, path, systems, clock)
    run.run(lambda step: pytest.fail("nothing is left to run"))
    assert [untimed(line) for line in records.lines] == [
        untimed(line) for line in Records(whole, header({}, torch.device("cpu"))).lines
    ]


def untimed(line: Line) -> Line:
    return {name: value for name, value in line.items() if name != "seconds"}


def test_other_greedy_ids_of_ours_are_an_error(pair: Pair, tmp_path: Path) -> None:
    clock = FakeClock()
    wrong = Fake("ours", pair, clock, edit=lambda ids: [*ids[:2], (ids[2] + 5) % 259, *ids[3:]])
    run, records = bench(pair, tmp_path / "runs", [Fake("generate", pair, clock), wrong], clock)
    with pytest.raises(
        RuntimeError, match=r"^ours on one: greedy ids .*: after 2 tokens the logits are \d"
    ):
        run.run()
    assert [line["system"] for line in records.lines] == ["generate"], "no time is recorded"


def test_a_text_of_ours_that_ends_early_is_an_error(pair: Pair, tmp_path: Path) -> None:
    clock = FakeClock()
    short = Fake("ours", pair, clock, edit=lambda ids: ids[:3])
    run, _ = bench(pair, tmp_path / "runs", [Fake("generate", pair, clock), short], clock)
    with pytest.raises(RuntimeError, match="one text ends before the other"):
        run.run()


def test_other_ids_of_a_peer_are_recorded(pair: Pair, tmp_path: Path) -> None:
    clock = FakeClock()
    options = {"is_peer": True, "edit": lambda ids: [*ids[:2], (ids[2] + 5) % 259, *ids[3:]]}
    peer = Fake("peer", pair, clock, **options)
    run, records = bench(pair, tmp_path / "runs", [Fake("generate", pair, clock), peer], clock)
    run.run()
    (found,) = records.lines[1]["differences"]
    assert found["position"] == 2
    assert found["tie"] is False
    assert found["gap"] > 0.001


def test_ids_that_rounding_explains_are_ties(pair: Pair, tmp_path: Path, monkeypatch) -> None:
    clock = FakeClock()
    other = Fake("ours", pair, clock, edit=lambda ids: [*ids[:2], (ids[2] + 5) % 259, *ids[3:]])
    monkeypatch.setattr(
        "tokentiming.bench.run.difference", lambda *_: Difference(position=2, gap=-0.0005)
    )
    run, records = bench(pair, tmp_path / "runs", [Fake("generate", pair, clock), other], clock)
    run.run()
    assert records.lines[1]["differences"] == [{"tie": True, "position": 2, "gap": -0.0005}]


@pytest.mark.parametrize(
    ("gap", "dtype", "tie"),
    [
        (-0.0005, torch.float32, True),
        (0.002, torch.float32, False),
        (0.4, torch.bfloat16, True),
        (-0.6, torch.bfloat16, False),
        (1e-9, torch.float64, False),
    ],
)
def test_ties_depend_on_the_dtype(gap: float, dtype: torch.dtype, tie: bool) -> None:
    assert Difference(0, gap).is_tie(dtype) is tie


def failing(ids: list[int]) -> list[int]:
    raise NotImplementedError("not for this model")


def test_a_peer_that_fails_is_recorded_and_ours_is_not(pair: Pair, tmp_path: Path) -> None:
    clock = FakeClock()
    peer = Fake("peer", pair, clock, is_peer=True, edit=failing)
    run, records = bench(pair, tmp_path / "runs", [Fake("generate", pair, clock), peer], clock)
    run.run()
    errors = [line["error"] for line in records.lines if line["system"] == "peer"]
    assert errors == ["NotImplementedError: not for this model"] * 3
    ours = Fake("ours", pair, clock, edit=failing)
    run, _ = bench(pair, tmp_path / "other", [Fake("generate", pair, clock), ours], clock)
    with pytest.raises(NotImplementedError):
        run.run()


def test_peers_do_not_run_in_batches(pair: Pair) -> None:
    peer = Fake("peer", pair, FakeClock(), is_peer=True)
    with pytest.raises(ValueError, match=r"^Plan: batch_size is 2, but peer .*; give a batch"):
        Plan([peer], PROMPTS, [0.0], length=4, batch_size=2)
    with pytest.raises(ValueError, match=r"^sampling_at: temperature is -1"):
        Plan([peer], PROMPTS, [-1.0], length=4)


def test_a_prompt_that_is_too_long_is_refused_before_the_first_run(
    pair: Pair, tmp_path: Path
) -> None:
    clock = FakeClock()
    run, records = bench(
        pair, tmp_path / "runs", [Fake("generate", pair, clock)], clock, length=300
    )
    with pytest.raises(ValueError, match=r"exceed the target's context .* \(prompt one\)$"):
        run.run()
    assert not records.lines
