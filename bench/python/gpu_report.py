"""Write the results of ``bench/gpu.sh`` so far as one JSON: machine, steps and measurements.

    python bench/python/gpu_report.py "9.0, name, driver" gpu.json steps measured.json

``steps`` has a line for each step: its name, exit status or "running", and seconds.
``measured.json`` may be missing or truncated. The exit status is 1 if a step failed or still runs.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def main(gpu: str, target: Path, steps: Path, measured: Path) -> int:
    run: dict[str, Any] = {
        "gpu": gpu,
        "packages": {package: installed(package) for package in PACKAGES},
        "steps": [step(line) for line in steps.read_text().splitlines()],
    }
    if measured.exists():
        try:
            run["measured"] = json.loads(measured.read_text())
        except ValueError as error:  # killed while writing
            run["measured"] = f"not readable: {error}"
    target.write_text(json.dumps(run, indent=1) + "\n")
    failed = [done["name"] for done in run["steps"] if done["status"] != 0]
    print("failed: " + ", ".join(failed) if failed else "all steps passed", f"({target})")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:])))
