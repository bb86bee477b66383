"""What a call with four tensors costs through pybind11 and through nanobind.

Both libraries bind `sample` over next to nothing, with tensors taken in through DLPack's C exchange
API; nanobind also with its own `ndarray`. `tokentiming._core.sample` is what is shipped, all of its
checks included. Builds into a temporary folder; needs a compiler and the `bench` extra. The core is
built too, unless CMAKE_PREFIX_PATH leads to an installed one.

    python bench/bindings/measure.py
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import nanobind
import pybind11
import torch
from rich.console import Console
from rich.table import Table

from tokentiming import _core, ops

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "python"))
from timing import interleaved  # noqa: E402


def build(folder: Path) -> None:
    paths = ";".join((pybind11.get_cmake_dir(), nanobind.cmake_dir()))
    configure = ["cmake", "-S", HERE, "-B", folder, f"-DPython_EXECUTABLE={sys.executable}"]
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PREFIX_PATH={paths}"]
    for command in ([*configure, *options], ["cmake", "--build", folder, "--parallel"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        build(Path(name))
        sys.path.insert(0, name)
        with_pybind11 = importlib.import_module("with_pybind11")
        with_nanobind = importlib.import_module("with_nanobind")
    logits, keys = torch.randn(2, 4), torch.arange(4)
    states = torch.tensor([[0, 0, 0], [0, 1, 0]])
    out = torch.empty(2, dtype=torch.int64)
    functions = {
        "pybind11, nothing done": with_pybind11.nothing,
        "nanobind, nothing done": with_nanobind.nothing,
        "pybind11, exchange API": with_pybind11.sample,
        "nanobind, exchange API": with_nanobind.sample,
        "nanobind, ndarray": with_nanobind.sample_ndarray,
        "shipped (pybind11, exchange API, checks)": _core.sample,
    }
    expected = ops.sample(logits, keys, seed=3, states=states)
    for way, function in functions.items():
        out.fill_(-1)
        function(logits, keys, 3, states, out)
        if "nothing" not in way and not torch.equal(out, expected):
            sys.exit(f"{way}: drew {out.tolist()}, not {expected.tolist()}")

    times = interleaved(
        {
            way: lambda function=function: function(logits, keys, 3, states, out)
            for way, function in functions.items()
        },
        rounds=51,
    )
    table = Table("way", title="a call with four tensors")
    table.add_column("median ns", justify="right")
    table.add_column("quartiles ns", justify="right")
    for way, seconds in times.items():
        median, low, high = (1e9 * t for t in (seconds.median, seconds.low, seconds.high))
        table.add_row(way, f"{median:,.0f}", f"{low:,.0f} .. {high:,.0f}")
    Console().print(table)
    print(f"pybind11 {pybind11.__version__}, nanobind {nanobind.__version__}")


if __name__ == "__main__":
    main()
