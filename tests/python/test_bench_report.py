"""Figures, tables and plots of a benchmark's runs."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tokentiming.bench.breakdown import REST, acceptance, budgets, sources, stages
from tokentiming.bench.cells import BASELINE
from tokentiming.bench.plots import plots
from tokentiming.bench.records import Line
from tokentiming.bench.report import figures
from tokentiming.cli.views.bench import tables

ARGUMENTS = {"target": "big[/x]", "draft": "small", "dtype": "float32", "length": 8}
HEADER = {"arguments": ARGUMENTS, "processor": "a processor"}


def line(system: str, prompt: str, seconds: float, **changes: Any) -> Line:
    plain = {
        "temperature": 0.0,
        "repeat": 0,
        "system": system,
        "prompts": [prompt],
        "category": prompt[0],
        "seconds": seconds,
        "tokens": 8,
        "forwards": 4,
        "loops": [False],
        "differences": [None],
        "stats": [],
    }
    return plain | changes


def stats(seconds: float = 4.0, **changes: Any) -> Line:
    parts = {"drafting": 1.0, "target": 2.0}
    rounds = {"0": 1, "2": 2, "3": 1}
    return {
        "exact": True, "seconds": seconds, "stage_seconds": parts, "accepted_per_round": rounds,
        "accepted_from": {"0": 7}, "proposed": 18,
    } | changes  # fmt: skip


ALONE = stats(accepted_per_round={"0": 8}, accepted_from={}, proposed=0)
LINES = [
    line("generate", "a1", 8.0),
    line("alone", "a1", 6.0, stats=[ALONE]),
    line("greedy/model", "a1", 3.0, stats=[stats()]),
    line("peer", "a1", 12.0, differences=[{"tie": False, "position": 3, "gap": 2.0}]),
    line("generate", "a2", 4.0),
    line("alone", "a2", 6.0),
    line("greedy/model", "a2", 0.5, loops=[True], differences=[{"tie": True, "position": 1}]),
    line("peer", "a2", 0.0, error="ValueError: no"),
    line("generate", "b1", 4.0),
    line("greedy/model", "b1", 4.0),
]


def test_ratios_are_over_the_faster_way_to_run_the_target_alone() -> None:
    # Over a1 and a2 it is generate, although alone is faster at a1.
    found = {one.system: one for one in figures(LINES)}
    assert list(found) == ["generate", "alone", "greedy/model", "peer"]
    ours = found["greedy/model"]
    assert ours.ratio is not None
    assert ours.ratio.mean == pytest.approx((8 / 3 * 4 / 0.5 * 4 / 4) ** (1 / 3))
    assert ours.ratio.low < ours.ratio.mean < ours.ratio.high
    assert ours.categories["a"].mean == pytest.approx((8 / 3 * 4 / 0.5) ** (1 / 2))
    assert ours.lowest == ("b", ours.categories["b"])
    assert ours.without_loops is not None
    assert ours.without_loops.mean == pytest.approx((8 / 3 * 4 / 4) ** (1 / 2))
    assert (ours.looping, ours.prompts, ours.ties, ours.differing) == (1, 3, 1, 0)
    assert ours.rate == pytest.approx((8 / 3 * 8 / 0.5 * 8 / 4) ** (1 / 3))
    assert (ours.tokens_per_forward, ours.proposed) == (2.0, 18 / 4)
    peer = found["peer"]
    assert (peer.prompts, peer.differing, peer.failures) == (1, 1, ["ValueError: no"])
    assert peer.proposed is None
    assert peer.ratio is not None
    assert (peer.ratio.mean, peer.ratio.low) == (pytest.approx(8 / 12), None)


def test_ratios_over_another_system() -> None:
    ours = next(one for one in figures(LINES, ["peer"]) if one.system == "greedy/model")
    assert ours.ratio is not None
    assert ours.ratio.mean == pytest.approx(12 / 3), "the only prompt that both continued"
    with pytest.raises(ValueError, match=r"^figures: over is nobody, .*; choose among generate"):
        figures(LINES, ["nobody"])


def test_systems_without_a_common_prompt_are_not_compared() -> None:
    lines = [line("generate", "a1", 4.0), line("alone", "b1", 1.0), line("alone", "b2", 1.0)]
    ratios = {one.system: one.ratio for one in figures(lines)}
    assert ratios["generate"] is None, "alone ran more prompts"
    assert ratios["alone"] is not None


def test_the_median_of_repeats_counts() -> None:
    lines = [line("generate", "a1", 4.0), line("alone", "a1", 4.0)]
    lines += [line("peer", "a1", seconds, repeat=i) for i, seconds in enumerate((1.0, 2.0, 99.0))]
    peer = figures(lines)[-1]
    assert peer.ratio is not None
    assert peer.ratio.mean == pytest.approx(2)


def test_a_system_that_only_failed_has_no_ratio() -> None:
    lines = [line("generate", "a1", 4.0), line("peer", "a1", 0.0, error="no")]
    peer = figures(lines)[-1]
    assert (peer.ratio, peer.lowest, peer.failures) == (None, None, ["no"])


def test_a_batch_counts_a_pass_for_each_text() -> None:
    both = {"prompts": ["a1", "a2"], "tokens": 16, "forwards": 4, "loops": [False, True]}
    found = figures([line("generate", "a1", 8.0, **both)])[0]
    assert found.tokens_per_forward == 2.0
    assert found.looping == 1


def test_stages_add_up_to_the_time_of_a_token() -> None:
    parts = stages(LINES)[0.0, "greedy/model"]
    per_token = (3 + 0.5 + 4) / 24
    assert parts == pytest.approx(
        {"drafting": per_token / 4, "target": per_token / 2, REST: per_token / 4}
    )
    batch = line("ours", "a1", 4.0, stats=[stats(), stats()], tokens=16)
    assert sum(stages([batch])[0.0, "ours"].values()) == pytest.approx(4 / 16)
    assert (0.0, "generate") not in stages(LINES)


def test_acceptance_by_depth() -> None:
    assert acceptance(LINES) == {(0.0, "greedy/model"): [0.75, 0.75, 0.25]}


def test_tokens_by_who_proposed_them() -> None:
    both = stats(accepted_per_round={"2": 2, "4": 2}, accepted_from={"0": 3, "1": 9})
    found = sources([*LINES, line("slem/suffix+model", "a1", 4.0, stats=[both])])
    assert found == {
        (0.0, "greedy/model"): {"target": 1.0, "model": 7 / 4},
        (0.0, "slem/suffix+model"): {"target": 1.0, "suffix": 3 / 4, "model": 9 / 4},
    }


def test_ratios_by_proposed_tokens() -> None:
    lines = [*LINES, line("alone", "b1", 4.0, stats=[stats(proposed=0)])]
    both = [stats(proposed=6), stats(proposed=10, accepted_per_round={"0": 2, "1": 2})]
    lines.append(line("slem/model", "a1", 4.0, stats=both, tokens=16))
    assert budgets(lines) == {
        (0.0, "greedy/model"): [(4.5, pytest.approx(8 / 3))],  # generate is faster over a1 and a2
        (0.0, "slem/model"): [(2.0, pytest.approx(4.0))],
    }


def rendered(lines: list[Line], over: tuple[str, ...] = BASELINE, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(tables(HEADER, figures(lines, over), over))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_tables() -> None:
    text = rendered(LINES)
    assert "big[/x] with small, float32, 8 tokens" in text
    assert "greedy/model: lowest category b, 1.00" in text
    assert "peer failed: ValueError: no" in text
    assert "1 by rounding" in text
    assert "1 differ" in text
    assert "1 of 3" in text
    assert "2.77 (" in text
    assert "speed over the target alone" in text
    assert "speed over peer" in rendered(LINES, ("peer",))


def test_approximate_methods_are_marked() -> None:
    sampled = {"temperature": 1.0}
    lines = [line("generate", "a1", 4.0, **sampled)]
    lines.append(line("tokentiming/model", "a1", 4.0, stats=[stats(exact=False)], **sampled))
    text = rendered(lines)
    assert "tokentiming/model (approximate)" in text
    assert "T = 1" in text
    assert "no loops" not in text


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = LINES + [one | {"temperature": 1.0} for one in LINES]
    found = plots(lines, tmp_path / "new", "pair")
    assert [path.name for path in found] == [
        "pair-ratios.png", "pair-stages.png", "pair-acceptance.png", "pair-sources.png",
        "pair-budgets.png"
    ]  # fmt: skip
    for path in found:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_plots_of_the_target_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert not plots(LINES[:1], tmp_path, "alone")
    for path in plots(LINES[:2], tmp_path, "alone"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_plots_name_the_missing_extra() -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from tokentiming.bench.plots import require_matplotlib; require_matplotlib()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip().endswith(
        "plots: matplotlib is missing; install it with: pip install 'tokentiming[bench]'"
    )
