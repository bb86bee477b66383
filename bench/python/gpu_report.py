"""Write the results of ``bench/gpu.sh`` so far as one JSON: machine, steps and measurements.

    python bench/python/gpu_report.py "9.0, name, driver" gpu.json steps measured.json ncu.csv

``steps`` has a line for each step: its name, exit status or "running", and seconds. The files of
measurements, JSON or the CSV of ncu, become members of the names of the files. They may be missing
or truncated. The exit status is 1 if a step failed or still runs.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import hot_kernels

PACKAGES = ("torch", "transformers", "flashinfer-python", "vllm")


def step(line: str) -> dict[str, Any]:
    name, status, seconds = line.split()
    if status == "running":
        return {"name": name, "status": status}
    return {"name": name, "status": int(status), "seconds": int(seconds)}


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measurements(path: Path) -> Any:
    """What a file holds, or why it cannot be read."""
    try:
        return hot_kernels.profile(path) if path.suffix == ".csv" else json.loads(path.read_text())
    except ValueError as error:  # killed while writing
        return f"not readable: {error}"


def main(gpu: str, target: Path, steps: Path, *measured: Path) -> int:
    run: dict[str, Any] = {
        "gpu": gpu,
        "packages": {package: installed(package) for package in PACKAGES},
        "steps": [step(line) for line in steps.read_text().splitlines()],
    }
    run |= {path.stem: measurements(path) for path in measured if path.exists()}
    target.write_text(json.dumps(run, indent=1) + "\n")
    failed = [done["name"] for done in run["steps"] if done["status"] != 0]
    print("failed: " + ", ".join(failed) if failed else "all steps passed", f"({target})")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:])))
