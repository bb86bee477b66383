"""The core's operations against what one would use instead, in one process.

Every case first checks that all ways give one result, then times them in turn. A case that fails
does not stop the others; the exit status is 1 then. "x ours" is a way's median over ours. The floor
is the time for the bytes that must be read or written at least once, at the bandwidth of a large
copy in the same run (bytes read and written both counted): "x floor" is a way's median over it,
"of copy" its inverse. "of issue", where instructions are the bound on a GPU, is the time in which
all lanes could issue those counted, at the highest clock, over ours.

    python bench/python/ops.py --only verify,sample --json ops.json
    python bench/python/ops.py --device cuda --json ops.json
"""

from __future__ import annotations

import json
import platform
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from case import Case
from mapped_cases import mapped_verify_case
from race_cases import candidates_case, sample_case
from row_cases import call_case, verify_case
from timing import Seconds, copy_bandwidth, interleaved
from token_cases import align_case, restrict_case, transfer_case
from tokentiming import ops
from tree_cases import walk_case

console = Console(width=140)

HALF = torch.bfloat16
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Cases = dict[str, list[Callable[[], Case]]]
CASES: dict[str, Cases] = {
    "cpu": {
        "call": [call_case],
        "align": [align_case, partial(align_case, tokens=64, count=16)],
        "sample": [partial(sample_case, dtype=dtype) for dtype in DTYPES],
        "candidates": [candidates_case, partial(candidates_case, rows=1, columns=49_152)],
        "verify": [
            *(partial(verify_case, dtype=dtype) for dtype in DTYPES),
            partial(verify_case, rejected_at=4),
            *(partial(mapped_verify_case, rate=rate) for rate in (1.0, 0.0)),
        ],
        "transfer": [transfer_case],
        "restrict": [restrict_case],
        "walk": [walk_case, partial(walk_case, batch=64)],
    },
    "cuda": {
        "verify": [
            partial(verify_case, "cuda", HALF, 64, 7, rate=0.8, sets=3),
            partial(verify_case, "cuda", HALF, 1, 7, rate=0.8, sets=32),
            partial(mapped_verify_case, "cuda", 16, 7, rate=0.8, sets=3),
        ],
        "sample": [
            partial(sample_case, "cuda", HALF, 512, sets=2),
            partial(sample_case, "cuda", HALF, 8, sets=40),
        ],
        "candidates": [
            partial(candidates_case, "cuda", HALF, 512, sets=2),
            partial(candidates_case, "cuda", HALF, 8, sets=40),
        ],
        "align": [partial(align_case, "cuda", count=256)],
        "transfer": [partial(transfer_case, "cuda")],
        "restrict": [partial(restrict_case, "cuda", rows=64, sets=3)],
        "walk": [partial(walk_case, "cuda"), partial(walk_case, "cuda", batch=64)],
    },
}
# Runs every peer once: FlashInfer compiles its kernels at the first call, for a minute or more, and
# keeps them in the home directory.
PEERS: Cases = {"verify": [partial(verify_case, "cuda", HALF, 8, 2, 1000, rate=0.8, sets=1)]}
LANES = 128  # that a multiprocessor issues to in a cycle, four warps of 32


@dataclass(frozen=True)
class Row:
    """One way of one case; a peer that does not run has no seconds."""

    operation: str
    size: str
    way: str
    seconds: Seconds | None
    over_ours: float | None = None
    over_floor: float | None = None
    of_issue: float | None = None


def measure(case: Case, device: str, rounds: int, bandwidth: float, issue: float) -> list[Row]:
    """Time the ways of a case that has been checked."""
    times = interleaved(case, device, rounds)
    ours = next(iter(times.values())).median
    floor = case.least_bytes / bandwidth
    bound = case.instructions / issue if issue else 0.0
    rows = [
        Row(
            case.operation,
            case.size,
            way + (" (for scale)" if way in case.yardsticks else ""),
            seconds / case.count,
            seconds.median / ours,
            seconds.median / floor if floor else None,
            bound / seconds.median if bound and way.startswith("ours") else None,
        )
        for way, seconds in times.items()
    ]
    return rows + [Row(case.operation, case.size, name, None) for name in case.missing]


def instructions_a_second() -> float:
    """What all lanes issue at the highest clock; 0 if the driver does not tell it."""
    try:
        megahertz = subprocess.run(
            ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True,
        ).stdout.split()[0]  # fmt: skip
        processors = torch.cuda.get_device_properties().multi_processor_count
        return float(megahertz) * 1e6 * processors * LANES
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return 0.0


def show(rows: list[Row]) -> None:
    table = Table()
    for column in ("operation", "size", "way"):
        table.add_column(column)
    for column in ("median us", "quartiles us", "x ours", "x floor", "of copy", "of issue"):
        table.add_column(column, justify="right")
    before = None
    for row in rows:
        case = (row.operation, row.size)
        if before not in (None, case):
            table.add_section()
        median, low, high = (
            (1e6 * t for t in (row.seconds.median, row.seconds.low, row.seconds.high))
            if row.seconds
            else (None, None, None)
        )
        table.add_row(
            *(case if case != before else ("", "")),
            row.way,
            "" if median is None else f"{median:,.2f}",
            "" if low is None else f"{low:,.2f} .. {high:,.2f}",
            "" if row.over_ours is None else f"{row.over_ours:.2f}",
            "" if row.over_floor is None else f"{row.over_floor:.2f}",
            "" if row.over_floor is None else f"{1 / row.over_floor:.0%}",
            "" if row.of_issue is None else f"{row.of_issue:.0%}",
        )
        before = case
    console.print(table)


def machine(device: str) -> dict[str, Any]:
    if device == "cuda":
        gpu = torch.cuda.get_device_properties()
        return {"device": gpu.name, "multiprocessors": gpu.multi_processor_count}
    return {
        "processor": platform.processor() or platform.machine(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(CASES['cpu'])}.")] = "",
    rounds: Annotated[int, typer.Option(help="Samples of each way; 0: the default.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's default.", min=0)] = 0,
    check_only: Annotated[bool, typer.Option(help="Check equality, time nothing.")] = False,
    peers_only: Annotated[
        bool, typer.Option(help="With cuda: run each optional peer once, time nothing.")
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Check, time, and print a table."""
    if device not in CASES:
        raise typer.BadParameter("--device is cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("ops.py: torch sees no CUDA device")
    if device == "cuda" and not ops.has_cuda():
        raise SystemExit("ops.py: tokentiming was built without CUDA")
    if threads:
        torch.set_num_threads(threads)
    cases = PEERS if peers_only else CASES[device]
    names = only.split(",") if only else list(cases)
    if unknown := set(names) - set(cases):
        raise typer.BadParameter(f"--only: {device} has no case {', '.join(sorted(unknown))}")
    timed = not (check_only or peers_only)
    bandwidth = copy_bandwidth(device) if timed else 0.0
    issue = instructions_a_second() if timed and device == "cuda" else 0.0
    rounds = rounds or (31 if device == "cpu" else 45)
    rows: list[Row] = []
    failed: list[dict[str, str]] = []
    for operation, make in ((name, make) for name in names for make in cases[name]):
        try:
            if device == "cuda":
                torch.cuda.empty_cache()
            case = make()
            case.check()
            console.print(f"{case.operation}, {case.size}: all ways agree", highlight=False)
            for reason in case.missing:
                console.print(f"without {reason}", highlight=False)
            if timed:
                rows += measure(case, device, rounds, bandwidth, issue)
        except Exception as error:  # the other cases are still worth having
            traceback.print_exc()
            failed.append({"operation": operation, "error": f"{type(error).__name__}: {error}"})
        if json_path is not None:
            run = machine(device) | {
                "copy_bytes_per_second": bandwidth,
                "instructions_per_second": issue,
                "torch": torch.__version__,
                "rows": list(map(asdict, rows)),
                "failed": failed,
            }
            json_path.write_text(json.dumps(run, indent=1))
    if timed:
        show(rows)
        console.print(f"{machine(device)}, copy {bandwidth / 1e9:,.1f} GB/s")
    if failed:
        raise SystemExit("ops.py: failed: " + ", ".join(case["operation"] for case in failed))


if __name__ == "__main__":
    typer.run(main)
