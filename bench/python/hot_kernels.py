"""Run the three hot kernels once each, to be profiled; and read what a profiler says of them.

    ncu --csv --metrics "$(python bench/python/hot_kernels.py metrics)" \
        --kernel-name "$(python bench/python/hot_kernels.py names)" --log-file ncu.csv \
        python bench/python/hot_kernels.py run

``gpu_report.py`` adds the profile to its JSON. Shares are of the bound of each kernel: the
bandwidth of memory for ``verify`` and ``transfer``, the pipe of integer operations for ``sample``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

SECONDS = "gpu__time_duration.sum"
MEMORY = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
INTEGERS = "sm__inst_executed_pipe_alu.avg.pct_of_peak_sustained_active"
ISSUE = "sm__inst_issued.avg.pct_of_peak_sustained_active"
OCCUPANCY = "sm__warps_active.avg.pct_of_peak_sustained_active"
METRICS = (SECONDS, MEMORY, INTEGERS, ISSUE, OCCUPANCY)
BOUNDS = {"verify_sampled": MEMORY, "gather_rows": MEMORY, "race": INTEGERS}
"""The metric of each kernel's bound."""


def run(device: str = "cuda", columns: int = 151_936) -> None:
    """Call ``verify``, ``sample`` and ``transfer`` once each, over the sizes of ``ops.py``."""
    import torch

    from race_cases import sample_case
    from row_cases import verify_case
    from token_cases import random_transfer_case

    half = torch.bfloat16
    for case in (
        verify_case(device, half, 64, 7, columns, rate=0.8, sets=1),
        sample_case(device, half, 512, columns, sets=1),
        random_transfer_case(device, sets=1),
    ):
        next(iter(case.ways.values()))(0)
        if device == "cuda":
            torch.cuda.synchronize()


def profile(path: Path) -> list[dict[str, object]]:
    """What ncu measured of each kernel, from its CSV, which follows lines of its own.

    Raises:
        ValueError: the file holds no measurement.
    """
    lines = path.read_text().splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    kernels: dict[str, dict[str, object]] = {}
    for row in csv.DictReader(lines[start:]):
        kernel = kernels.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        value = float(row["Metric Value"].replace(",", ""))
        kernel[row["Metric Name"]] = value
        kernel[row["Metric Name"] + " unit"] = row["Metric Unit"]
        for name, metric in BOUNDS.items():
            if name in row["Kernel Name"] and metric == row["Metric Name"]:
                kernel |= {"bound": metric, "percent_of_bound": value}
    if not kernels:
        raise ValueError(f"{path} holds no measurement of ncu")
    return list(kernels.values())


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        run()
    elif sys.argv[1:] == ["names"]:
        print("regex:" + "|".join(BOUNDS))
    elif sys.argv[1:] == ["metrics"]:
        print(",".join(METRICS))
    else:
        sys.exit("usage: hot_kernels.py run|names|metrics")
