"""Plots of a benchmark as PNG files; they need the extra ``tokentiming[bench]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokentiming.bench.breakdown import acceptance, budgets, sources, stages
from tokentiming.bench.cells import BASELINE
from tokentiming.bench.records import Line
from tokentiming.bench.report import Figures, figures

_Key = tuple[float, str]
"""A temperature and a system."""

_Drawer = Callable[[Any, dict[str, Any]], None]
"""Draws the values of all systems at one temperature."""

_WIDTH, _HEIGHT = 9.0, 4.0
"""Of one temperature, in inches."""


def require_matplotlib() -> None:
    """Raise before a long run if no plot could be drawn after it.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as missing:
        raise ImportError(
            "plots: matplotlib is missing; install it with: pip install 'tokentiming[bench]'"
        ) from missing


def plots(lines: Sequence[Line], folder: Path, name: str) -> list[Path]:
    """Draw all plots for which a file has figures, with a row for each temperature.

    Args:
        lines: runs of the file.
        folder: created if it does not exist.
        name: the beginning of each file name.

    Returns:
        The files: ratio by category with intervals, time per stage, acceptance by depth and
            by drafter, ratio by the number of proposed tokens.

    Raises:
        ImportError: matplotlib is missing.
        OSError: a file cannot be written.
    """
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    measured = [one for one in figures(lines) if one.system not in BASELINE]
    drawn: dict[str, tuple[_Drawer, dict[_Key, Any]]] = {
        "ratios": (_draw_ratios, {(one.temperature, one.system): one for one in measured}),
        "stages": (_draw_stages, stages(lines)),
        "acceptance": (_draw_acceptance, acceptance(lines)),
        "sources": (_draw_sources, sources(lines)),
        "budgets": (_draw_budgets, budgets(lines)),
    }
    paths = []
    for kind, (draw, values) in drawn.items():
        if not values:
            continue
        paths.append(folder / f"{name}-{kind}.png")
        _save(paths[-1], draw, values)
    return paths


def _save(path: Path, draw: _Drawer, values: dict[_Key, Any]) -> None:
    """Write a figure with axes for each temperature, without a window."""
    from matplotlib.figure import Figure

    temperatures = list(dict.fromkeys(temperature for temperature, _ in values))
    rows = max(len(temperatures), 1)
    figure = Figure(figsize=(_WIDTH, _HEIGHT * rows), layout="constrained")
    for index, temperature in enumerate(temperatures, 1):
        axes = figure.add_subplot(rows, 1, index)
        axes.set_title(f"T = {temperature:g}" if temperature else "greedy")
        draw(axes, {system: value for (t, system), value in values.items() if t == temperature})
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150)


def _draw_ratios(axes: Any, systems: dict[str, Figures]) -> None:
    """A group of bars for each category, and one for all prompts."""
    categories = list(dict.fromkeys(name for one in systems.values() for name in one.categories))
    width = 0.8 / len(systems)
    for index, one in enumerate(systems.values()):
        bars = {"all": one.ratio, **one.categories}
        for place, name in enumerate(["all", *categories]):
            interval = bars.get(name)
            if interval is None:
                continue
            mean, low, high = interval.mean, interval.low, interval.high
            spread = [[0], [0]] if low is None or high is None else [[mean - low], [high - mean]]
            axes.bar(
                place + (index - (len(systems) - 1) / 2) * width,
                mean,
                width,
                yerr=np.maximum(spread, 0),  # rounding may put a mean outside its interval
                color=f"C{index % 10}",
                error_kw={"linewidth": 0.8},
                label=one.system if name == "all" else None,
            )
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(categories) + 1), ["all", *categories], rotation=30, ha="right")
    axes.set_ylabel("speed over the target alone")


def _draw_stages(axes: Any, systems: dict[str, dict[str, float]]) -> None:
    _stack(axes, systems, scale=1000)
    axes.set_xlabel("milliseconds per token")


def _draw_sources(axes: Any, systems: dict[str, dict[str, float]]) -> None:
    _stack(axes, systems, scale=1)
    axes.set_xlabel("tokens per pass of the target, by who proposed them")


def _stack(axes: Any, systems: dict[str, dict[str, float]], *, scale: float) -> None:
    """A stacked bar for each system."""
    ends = dict.fromkeys(systems, 0.0)
    for part in dict.fromkeys(name for parts in systems.values() for name in parts):
        widths = {system: scale * parts.get(part, 0.0) for system, parts in systems.items()}
        axes.barh(list(systems), list(widths.values()), left=list(ends.values()), label=part)
        ends = {system: end + widths[system] for system, end in ends.items()}
    axes.invert_yaxis()


def _draw_budgets(axes: Any, systems: dict[str, list[tuple[float, float]]]) -> None:
    """A point for each prompt."""
    for system, points in systems.items():
        axes.scatter(*zip(*points, strict=True), s=12, label=system)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xlabel("proposed tokens per pass of the target and text")
    axes.set_ylabel("speed over the target alone")


def _draw_acceptance(axes: Any, systems: dict[str, list[float]]) -> None:
    """A line for each system."""
    for system, shares in systems.items():
        axes.plot(range(1, len(shares) + 1), shares, marker="o", label=system)
    axes.set_xticks(range(1, max(map(len, systems.values())) + 1))
    axes.set_ylim(0, 1)
    axes.set_xlabel("depth")
    axes.set_ylabel("rounds that accept so many tokens")
