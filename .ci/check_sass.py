"""The load loops of the hot kernels keep as many loads in flight as they are meant to.

    check_sass.py build/cuda/compile_commands.json [ARCHITECTURE ...]

Compiles the kernels with the build's own options, disassembles them with nvdisasm, and follows the
scoreboards: a load sets one when its data arrives, and an instruction names those that it waits
for. A loop that waits for each load before it issues the next reads memory at a fraction of its
bandwidth, and computes the right results.

nvdisasm is of the CUDA toolkit, or of the package nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CAP = 32  # loads counted on one scoreboard; a loop without a wait would count for ever


class Kernel(NamedTuple):
    """What is expected of the loops of a kernel that hold loads of some width."""

    source: str
    name: str
    bits: int
    in_flight: int
    distance: int
    """Instructions between a load and the first that waits for it."""
    whole: bool = False
    """Whether the kernel is meant as a whole, because its loads are in no loop."""


KERNELS = [
    Kernel("verify", "verify_sampled", bits=128, in_flight=4, distance=32),
    # The reduction is a few instructions, so that two batches are loaded one after the other.
    Kernel("verify", "verify_greedy", bits=128, in_flight=4, distance=0),
    # The rows of p and of q: two loads each in float32.
    Kernel("verify", "draw_last_tokens", bits=128, in_flight=4, distance=0, whole=True),
    # What is gathered through a map lies apart: single entries of eight rows and four columns,
    # twice the bytes of four loads of 128 bits.
    Kernel("transfer", "gather_rows<float>", bits=32, in_flight=32, distance=0, whole=True),
    Kernel("restrict", "gather_shared<float>", bits=32, in_flight=32, distance=0, whole=True),
    # The next row's logits are loaded before the present row's are raced: 16 bytes are eight logits
    # in half precision.
    Kernel("sample", "race<tokentiming::Half>", bits=128, in_flight=1, distance=200),
    Kernel("sample", "race<tokentiming::BFloat16>", bits=128, in_flight=1, distance=200),
    Kernel("sample", "race<float>", bits=128, in_flight=2, distance=200),
    Kernel("sample", "race<double>", bits=128, in_flight=4, distance=200),
]


@dataclass
class Instruction:
    text: str
    sets: int
    """The scoreboard that it sets when its result is there; 7 is none."""
    waits: int
    """The scoreboards that it waits for, one bit each."""
    followers: list[int] = field(default_factory=list)
    """The instructions that may run next."""

    def is_load(self, bits: int) -> bool:
        found = re.search(r"\bLDG\.E(?:\.(\d+))?\b", self.text)
        return bool(found) and int(found[1] or 32) == bits

    def waits_for(self, scoreboard: int) -> bool:
        return bool(self.waits >> scoreboard & 1)


def decode(lines: Iterable[str]) -> list[Instruction]:
    """The instructions of one function, given its part of the output of nvdisasm -hex.

    The upper half of an instruction (sm_80 to sm_90) holds in bits 46 to 48 the scoreboard it sets,
    and in bits 52 to 57 those it waits for.
    """
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    text = ""
    for line in lines:
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif first := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;\s*/\* 0x[0-9a-f]{16} \*/", line):
            text = first[1]
        elif text and (second := re.match(r"\s*/\* 0x([0-9a-f]{16}) \*/", line)):
            control = int(second[1], 16)
            code.append(Instruction(text, control >> 46 & 7, control >> 52 & 63))
            text = ""
    _connect(code, labels)
    return code


def _connect(code: list[Instruction], labels: dict[str, int]) -> None:
    """Set the followers of all that can be reached from the first instruction."""
    left: list[tuple[int, dict[str, int]]] = [(0, {})]
    seen: set[int] = set()
    while left:
        at, joins = left.pop()  # joins: where the threads of each convergence barrier meet
        if at in seen or at >= len(code):
            continue
        seen.add(at)
        followers = code[at].followers
        guard, operation, rest = re.match(r"(@\S+ )?(\S+) ?(.*)", code[at].text).groups()
        label = re.search(r"`\((\.L_x_\d+)\)", rest)
        leaves = operation.startswith(("EXIT", "RET", "BSYNC"))
        if label and operation.startswith("BRA"):
            followers.append(labels[label[1]])
            leaves = rest.startswith("`")
        elif label and operation.startswith("BSSY"):
            joins = {**joins, rest.split(",")[0]: labels[label[1]]}
        elif operation.startswith("BSYNC"):
            followers.append(joins[rest])
        if guard or not leaves:
            followers.append(at + 1)
        followers[:] = [f for f in followers if f < len(code)]
        left += [(follower, joins) for follower in followers]


def loops(code: list[Instruction]) -> list[set[int]]:
    """The instructions of each natural loop: all that reach a jump back, up to where it goes."""
    leaders: list[list[int]] = [[] for _ in code]
    for at, instruction in enumerate(code):
        for follower in instruction.followers:
            leaders[follower].append(at)
    found = []
    for at, instruction in enumerate(code):
        for head in instruction.followers:
            if head > at:
                continue
            body, left = {head}, [at]
            while left:
                one = left.pop()
                if one not in body:
                    body.add(one)
                    left += leaders[one]
            if 0 not in body:  # else the jump is no loop, but code that was moved out of line
                found.append(body)
    return found


def in_flight(code: list[Instruction], body: set[int], start: int, bits: int) -> int:
    """The most loads issued and not waited for at once, on any path through some instructions."""
    pending = {at: [0] * 6 for at in body}
    most, left = 0, [start]
    seen: set[int] = set()
    while left:
        at = left.pop()
        instruction = code[at]
        counts = [0 if instruction.waits_for(s) else n for s, n in enumerate(pending[at])]
        if instruction.is_load(bits):
            counts[instruction.sets] = min(counts[instruction.sets] + 1, CAP)
        most = max(most, sum(counts))
        seen.add(at)
        for follower in instruction.followers:
            if follower not in body:
                continue
            merged = [max(pair) for pair in zip(pending[follower], counts, strict=True)]
            if merged != pending[follower] or follower not in seen:
                pending[follower] = merged
                left.append(follower)
    return most


def distance(code: list[Instruction], load: int) -> int:
    """The least number of instructions from a load to one that waits for it."""
    steps, frontier, seen = 0, set(code[load].followers), {load}
    while frontier:
        if any(code[at].waits_for(code[load].sets) for at in frontier):
            return steps
        seen |= frontier
        frontier = {follower for at in frontier for follower in code[at].followers} - seen
        steps += 1
    return steps


class Finding(NamedTuple):
    loads: int
    in_flight: int
    distance: int


def measure(code: list[Instruction], kernel: Kernel) -> Iterator[Finding]:
    """Each innermost loop of the kernel that holds loads of its width."""
    every = {at for at, one in enumerate(code) if one.is_load(kernel.bits)}
    bodies = [set(range(len(code)))] if kernel.whole else [b for b in loops(code) if b & every]
    for body in bodies:
        loads = body & every
        if any(other < body and other & loads for other in bodies):
            continue
        yield Finding(
            len(loads),
            in_flight(code, body, min(body), kernel.bits),
            min(distance(code, at) for at in loads),
        )


def functions(listing: str) -> dict[str, list[Instruction]]:
    """The functions of an output of nvdisasm, by their mangled names."""
    parts = re.split(r"^\s*\.section\s+\.text\.([^,\s]+),.*$", listing, flags=re.MULTILINE)
    code = {}
    for name, part in zip(parts[1::2], parts[2::2], strict=True):
        code[name] = decode(re.split(r"\n\s*\.section\s", part, maxsplit=1)[0].splitlines())
    return code


def disassembled(command: dict[str, str], architecture: str) -> str:
    """The code of one source for an architecture, compiled by the command of the build."""
    arguments = shlex.split(command["command"])
    arguments = [a for a in arguments if not a.startswith("--generate-code")]
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernels.cubin")
        arguments[arguments.index("-c")] = "-cubin"
        arguments[arguments.index("-o") + 1] = cubin
        subprocess.run(
            [*arguments, f"-arch={architecture}"],
            check=True,
            cwd=command["directory"],
            capture_output=True,
        )
        return subprocess.run(
            [nvdisasm(), "-hex", cubin], check=True, capture_output=True, text=True
        ).stdout


def nvdisasm() -> str:
    packages = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvdisasm"))
    found = shutil.which("nvdisasm") or (packages and str(packages[-1]))
    return found or sys.exit("check_sass: no nvdisasm; pip install nvidia-cuda-nvdisasm")


def demangled(names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    shown = subprocess.run(["c++filt", *names], check=True, capture_output=True, text=True)
    return dict(zip(names, shown.stdout.splitlines(), strict=True))


def main(database: str, architectures: list[str]) -> int:
    commands = {
        Path(c["file"]).stem: c
        for c in json.loads(Path(database).read_text())
        if " -x cu " in c["command"]
    }
    failed = 0
    for architecture in architectures or ["sm_90"]:
        for source in dict.fromkeys(kernel.source for kernel in KERNELS):
            code = functions(disassembled(commands[source], architecture))
            names = demangled(code)
            for kernel in (k for k in KERNELS if k.source == source):
                found = [
                    f
                    for name, body in code.items()
                    if f"::{kernel.name}(" in names[name]
                    for f in measure(body, kernel)
                ]
                good = bool(found) and all(
                    f.in_flight >= kernel.in_flight and f.distance >= kernel.distance for f in found
                )
                failed += not good
                print(
                    f"{'ok  ' if good else 'FAIL'} {architecture} {kernel.name}:"
                    f" at least {kernel.in_flight} loads of {kernel.bits} bits in flight,"
                    f" {kernel.distance} instructions ahead;"
                    f" found {[tuple(f) for f in found] or 'no such loop'}"
                )
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(bool(main(sys.argv[1], sys.argv[2:])))
