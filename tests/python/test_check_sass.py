"""``.ci/check_sass.py``: it tells a loop that waits for each load from one that loads ahead."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "check_sass.py"
LOAD = "LDG.E.128.CONSTANT R4, desc[UR8][R2.64]"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_sass", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_sass"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def listing(body: Sequence[tuple[str, int, int]]) -> str:
    """A kernel with one loop as nvdisasm shows it: text, scoreboard set, scoreboards waited for."""
    lines = ['\t.section\t.text.kernel,"ax",@progbits', "\t.sectioninfo\t@x"]
    code = [("MOV R0, R1", 7, 0), *body, ("@P0 BRA `(.L_x_1)", 7, 0), ("EXIT", 7, 0)]
    for at, (text, sets, waits) in enumerate(code):
        if at == 1:
            lines.append(".L_x_1:")
        lines.append(f"  /*{16 * at:04x}*/  {text} ;  /* 0x{0:016x} */")
        lines.append(f"  /* 0x{sets << 46 | waits << 52:016x} */")
    return "\n".join([*lines, "", "\t.section\t.other"])


def measured(check: ModuleType, body: Sequence[tuple[str, int, int]]) -> list[tuple[int, ...]]:
    [code] = check.functions(listing(body)).values()
    kernel = check.Kernel("source", "kernel", bits=128, in_flight=4, distance=0)
    return [tuple(found) for found in check.measure(code, kernel)]


def test_waiting_for_each_load_keeps_one_in_flight(check: ModuleType) -> None:
    body = [(LOAD, 2, 0), ("FADD R0, R0, R8", 7, 0), ("FADD R0, R0, R4", 7, 0b100)]
    assert measured(check, body * 4) == [(4, 1, 1)]


def test_loads_before_the_first_wait_are_in_flight_together(check: ModuleType) -> None:
    loads = [(LOAD, scoreboard, 0) for scoreboard in (2, 3, 4, 4)]
    waits = [("FADD R0, R0, R4", 7, 1 << scoreboard) for scoreboard in (2, 3, 4)]
    assert measured(check, [*loads, *waits]) == [(4, 4, 2)]
    # The wait for the last batch comes after the next is issued.
    ahead = [(text, 5, waits) for text, _, waits in loads]
    assert measured(check, [*loads, ("FADD", 7, 0b100000), *ahead, *waits])[0][:2] == (8, 8)


def test_loads_of_another_width_and_without_a_wait(check: ModuleType) -> None:
    assert measured(check, [("LDG.E R4, desc[UR8][R2.64]", 2, 0)]) == []
    [(loads, in_flight, _)] = measured(check, [(LOAD, 2, 0)])
    assert (loads, in_flight) == (1, check.CAP)
