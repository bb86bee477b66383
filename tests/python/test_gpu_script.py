"""``bench/gpu.sh`` with fakes for all commands that it calls: what it runs, and what it keeps."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
PYTHON = f"""#!/bin/bash
echo "$PYTHONPATH | ${{*//$'\n'/ }}" >>"$CALLS"
case "$*" in
  "bench/python/gpu_report.py "*) exec {sys.executable} "$@" ;;
  "-c import torch"*) echo "$STUBS" ;;
  "-m pytest"*) echo "test_kernels[sample] FAILED"; sleep "${{PYTEST_SECONDS:-0}}" ;;
esac
"""
OTHERS = {
    "nvidia-smi": "echo 9.0, NVIDIA H100, 580.1",
    "cmake": "true",
    "compute-sanitizer": "true",
    "ncu": 'echo "ncu $*" >>"$CALLS"',
}


@pytest.fixture
def call(tmp_path):
    """A function that runs a copy of the script, changed by a substitution."""
    stubs, repository = tmp_path / "stubs", tmp_path / "repository"
    stubs.mkdir()
    for name, body in OTHERS.items():
        (stubs / name).write_text(f"#!/bin/bash\n{body}\n")
    (stubs / "python").write_text(PYTHON)
    for path in stubs.iterdir():
        path.chmod(0o755)
    (repository / "bench" / "python").mkdir(parents=True)
    for name in ("gpu_report.py", "hot_kernels.py"):
        shutil.copy(BENCH / "python" / name, repository / "bench" / "python")
    kernels = repository / "build/cuda/tests/cuda/tokentiming_gpu_tests"
    kernels.parent.mkdir(parents=True)
    kernels.write_text("#!/bin/bash\n")
    kernels.chmod(0o755)
    wheels = repository / "build/carry/wheels"
    wheels.mkdir(parents=True)
    (wheels / "one.whl").touch()

    def run(*arguments: str, change=("", ""), **environment: str):
        script = repository / "bench" / "gpu.sh"
        script.write_text(re.sub(*change, (BENCH / "gpu.sh").read_text(), count=1))
        found = subprocess.run(
            ["bash", script, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={
                "PATH": f"{stubs}:{os.environ['PATH']}", "PYTHON": str(stubs / "python"),
                "STUBS": str(stubs), "CALLS": str(tmp_path / "calls"), "OUT": str(tmp_path),
                **environment,
            },
        )  # fmt: skip
        calls = tmp_path / "calls"
        return found, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_carried_paths_come_first(call):
    found, calls = call(PYTHONPATH="/the/callers")
    assert found.returncode == 0, found.stdout + found.stderr
    paths = [line.split(" | ")[0].split(":") for line in calls]
    for site, carried, last in paths:
        assert site.endswith("build/gpu/site")
        assert carried.endswith("build/gpu/carried")
        assert last == "/the/callers"
    assert any("pip install" in line and "one.whl" in line for line in calls)
    assert any(" | -m pytest -v --tb=short -n 4 -m gpu" in line for line in calls)


def test_an_interrupted_step_keeps_its_output(call, tmp_path):
    found, _ = call(change=("step tests 80", "step tests 1"), PYTEST_SECONDS="20")
    assert found.returncode != 0
    assert "test_kernels[sample] FAILED" in (tmp_path / "gpu.log").read_text()
    assert (
        "ops.py --device cuda --json" in (tmp_path / "calls").read_text()
    )  # the steps after it ran
    json.loads((tmp_path / "gpu.json").read_text())


def test_limits_that_exceed_a_call_are_refused(call):
    found, calls = call(change=("step tests 80", "step tests 480"))
    assert found.returncode == 2
    assert "more than the 540 s of a call" in found.stderr
    assert not calls


@pytest.mark.parametrize("what", ["sanitize", "costs", "speed"])
def test_sanitizers_costs_and_speed_are_separate_calls(call, what, tmp_path):
    found, calls = call(what, TARGET="target", DRAFT="draft")
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / f"gpu_{what}.json").exists()
    assert not any(" | -m pytest" in line for line in calls)
    assert ("memcheck" in found.stdout) == (what == "sanitize")
    assert any("bench/python/passes.py --json" in line for line in calls) == (what == "costs")
    assert any(line.startswith("ncu --csv") for line in calls) == (what == "costs")
