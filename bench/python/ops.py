"""The core's operations against what one would use instead, in one process.

Every case first checks that all ways give one result, then times them in turn. "x ours" is a way's
median over ours; "x floor" is over the time for the bytes that must be read or written at least
once, at the bandwidth of a large copy in the same run (bytes read and bytes written both counted).
Inputs of vocabulary size change from call to call, so that they come from memory.

    python bench/python/ops.py --only verify,sample --json ops.json
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from case import Case
from row_cases import call_case, sample_case, verify_case
from timing import Seconds, copy_bandwidth, interleaved
from token_cases import align_case, restrict_case, transfer_case

console = Console(width=130)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CASES: dict[str, list[Callable[[], Case]]] = {
    "call": [call_case],
    "align": [align_case, lambda: align_case(64, 8, 16)],
    "sample": [lambda dtype=dtype: sample_case(dtype) for dtype in DTYPES],
    "verify": [
        *(lambda dtype=dtype: verify_case(None, dtype) for dtype in DTYPES),
        lambda: verify_case(4),
    ],
    "transfer": [transfer_case],
    "restrict": [restrict_case],
}


@dataclass(frozen=True)
class Row:
    """One way of one case."""

    operation: str
    size: str
    way: str
    seconds: Seconds
    over_ours: float
    over_floor: float | None


def measure(case: Case, rounds: int, bandwidth: float) -> list[Row]:
    """Time the ways of a case that has been checked."""
    times = interleaved(case.ways, rounds)
    ours = next(iter(times.values())).median
    floor = case.least_bytes / bandwidth
    return [
        Row(
            case.operation,
            case.size,
            way + (" (for scale)" if way in case.yardsticks else ""),
            seconds / case.count,
            seconds.median / ours,
            seconds.median / floor if floor else None,
        )
        for way, seconds in times.items()
    ]


def show(rows: list[Row]) -> None:
    table = Table()
    for column in ("operation", "size", "way"):
        table.add_column(column)
    for column in ("median us", "quartiles us", "x ours", "x floor"):
        table.add_column(column, justify="right")
    before = None
    for row in rows:
        case = (row.operation, row.size)
        if before not in (None, case):
            table.add_section()
        us = [1e6 * t for t in (row.seconds.median, row.seconds.low, row.seconds.high)]
        table.add_row(
            *(case if case != before else ("", "")),
            row.way,
            f"{us[0]:,.2f}",
            f"{us[1]:,.2f} .. {us[2]:,.2f}",
            f"{row.over_ours:.2f}",
            "" if row.over_floor is None else f"{row.over_floor:.2f}",
        )
        before = case
    console.print(table)


def main(
    only: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(CASES)}.")] = "",
    rounds: Annotated[int, typer.Option(help="Samples of each way.", min=1)] = 31,
    threads: Annotated[int, typer.Option(help="Threads; 0: as torch likes.", min=0)] = 0,
    check_only: Annotated[bool, typer.Option(help="Check equality, time nothing.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Check, time, and print a table."""
    if threads:
        torch.set_num_threads(threads)
    names = only.split(",") if only else list(CASES)
    if unknown := set(names) - set(CASES):
        raise typer.BadParameter(f"--only knows no {', '.join(sorted(unknown))}")
    bandwidth = 0.0 if check_only else copy_bandwidth()
    rows: list[Row] = []
    for make in (make for name in names for make in CASES[name]):
        case = make()
        case.check()
        console.print(f"{case.operation}, {case.size}: all ways agree", highlight=False)
        if not check_only:
            rows += measure(case, rounds, bandwidth)
    if check_only:
        return
    show(rows)
    run = {
        "processor": platform.processor() or platform.machine(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "copy_bytes_per_second": bandwidth,
        "torch": torch.__version__,
    }
    console.print(
        f"copy {bandwidth / 1e9:.1f} GB/s, {run['threads']} threads, torch {run['torch']}"
    )
    if json_path is not None:
        json_path.write_text(json.dumps(run | {"rows": list(map(asdict, rows))}, indent=1))


if __name__ == "__main__":
    typer.run(main)
