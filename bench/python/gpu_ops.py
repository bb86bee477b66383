"""The operations on a GPU against what one would use instead, in one process.

Every case first checks that the ways agree, then times them in turn by CUDA events. A case that
fails does not stop the others; the exit status tells of it. "of copy" is
the rate at which a way gets through the bytes that must be read or written at least once, over that
of a large copy in the same run (bytes read and written both counted). "of issue" is, where
arithmetic is the bound, the time that all lanes would need to issue the counted instructions at the
highest clock, over the measured time.

    python bench/python/gpu_ops.py --json gpu_ops.json
"""

from __future__ import annotations

import json
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from gpu_case import GpuCase
from gpu_row_cases import sample_case, verify_case
from gpu_timing import copy_bandwidth, interleaved
from gpu_token_cases import align_case, restrict_case, transfer_case
from timing import Seconds
from tokentiming import ops

console = Console(width=140)

CASES: dict[str, list[Callable[[], GpuCase]]] = {
    "verify": [verify_case, lambda: verify_case(batch=1, sets=32)],
    "sample": [sample_case, lambda: sample_case(rows=8, sets=40)],
    "align": [align_case],
    "transfer": [transfer_case],
    "restrict": [restrict_case],
}
LANES = 128  # that a multiprocessor issues to in a cycle, four warps of 32


@dataclass(frozen=True)
class Row:
    """One way of one case; without seconds, a peer that does not run."""

    operation: str
    size: str
    way: str
    seconds: Seconds | None
    over_ours: float | None = None
    of_copy: float | None = None
    of_issue: float | None = None


def measure(case: GpuCase, rounds: int, bandwidth: float, issue: float | None) -> list[Row]:
    """Check that the ways of a case agree, then time them."""
    case.check()
    console.print(f"{case.operation}, {case.size}: all ways agree", highlight=False)
    times = interleaved(case.ways, case.sets, rounds)
    ours = next(iter(times.values())).median
    rows = []
    for way, seconds in times.items():
        bound = case.instructions and issue and way.startswith("ours")
        rows.append(
            Row(
                case.operation,
                case.size,
                way,
                seconds,
                seconds.median / ours,
                case.least_bytes / bandwidth / seconds.median if case.least_bytes else None,
                case.instructions / issue / seconds.median if bound and issue else None,
            )
        )
    return rows + [Row(case.operation, case.size, name, None) for name in case.missing]


def instructions_a_second() -> float | None:
    """Of all lanes at the highest clock; None where the driver does not tell it."""
    try:
        megahertz = subprocess.run(
            ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True,
        ).stdout.split()[0]  # fmt: skip
        processors = torch.cuda.get_device_properties().multi_processor_count
        return float(megahertz) * 1e6 * processors * LANES
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


def show(rows: list[Row]) -> None:
    table = Table()
    for column in ("operation", "size", "way"):
        table.add_column(column)
    for column in ("median us", "quartiles us", "x ours", "of copy", "of issue"):
        table.add_column(column, justify="right")
    for row in rows:
        us = row.seconds and [
            1e6 * t for t in (row.seconds.median, row.seconds.low, row.seconds.high)
        ]
        table.add_row(
            row.operation,
            row.size,
            row.way,
            f"{us[0]:,.1f}" if us else "",
            f"{us[1]:,.1f} .. {us[2]:,.1f}" if us else "",
            "" if row.over_ours is None else f"{row.over_ours:.2f}",
            "" if row.of_copy is None else f"{row.of_copy:.0%}",
            "" if row.of_issue is None else f"{row.of_issue:.0%}",
        )
    console.print(table)


def main(
    only: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(CASES)}.")] = "",
    rounds: Annotated[int, typer.Option(help="Samples of each way.", min=3)] = 45,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Check, time, and print a table."""
    if not torch.cuda.is_available():
        raise SystemExit("gpu_ops.py: torch sees no CUDA device")
    if not ops.has_cuda():
        raise SystemExit("gpu_ops.py: tokentiming was built without CUDA")
    names = only.split(",") if only else list(CASES)
    if unknown := set(names) - set(CASES):
        raise typer.BadParameter(f"--only knows no {', '.join(sorted(unknown))}")
    bandwidth, issue = copy_bandwidth(), instructions_a_second()
    device = torch.cuda.get_device_properties()
    rows: list[Row] = []
    failed: list[dict[str, str]] = []
    for operation, make in ((name, make) for name in names for make in CASES[name]):
        try:
            torch.cuda.empty_cache()
            rows += measure(make(), rounds, bandwidth, issue)
        except Exception as error:  # of whatever kind: the other cases are worth having
            traceback.print_exc()
            failed.append({"operation": operation, "error": f"{type(error).__name__}: {error}"})
        if json_path is not None:
            run = {
                "device": device.name,
                "multiprocessors": device.multi_processor_count,
                "copy_bytes_per_second": bandwidth,
                "instructions_per_second": issue,
                "torch": torch.__version__,
                "rows": list(map(asdict, rows)),
                "failed": failed,
            }
            json_path.write_text(json.dumps(run, indent=1))
    show(rows)
    console.print(f"{device.name}, copy {bandwidth / 1e9:,.0f} GB/s, torch {torch.__version__}")
    if failed:
        raise SystemExit("gpu_ops.py: failed: " + ", ".join(case["operation"] for case in failed))


if __name__ == "__main__":
    typer.run(main)
