"""Extract vLLM's rejection sampler, and what it imports, from a wheel of vLLM.

    python bench/python/vllm_files.py vllm-0.32.0-cp38-abi3-manylinux1_x86_64.whl build/carry/vllm

These few files run without the rest of vLLM: ``verify_peers.py`` gives them Triton.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

SAMPLER = "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils"
GIVEN = "vllm.triton_utils"  # by verify_peers.py
IMPORT = re.compile(r"^from (vllm[\w.]*) import", re.MULTILINE)


def extract(wheel: Path, folder: Path) -> None:
    """Write the files, and the metadata that tells their version.

    Raises:
        ValueError: the wheel lacks one of them, as those before vLLM's current model runner do.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        found: set[str] = set()
        modules = [SAMPLER]
        while modules:
            name = modules.pop().replace(".", "/") + ".py"
            if name not in names:
                raise ValueError(f"{wheel} has no {name}; take another version of vLLM")
            if name not in found:
                found.add(name)
                modules += set(IMPORT.findall(archive.read(name).decode())) - {GIVEN}
        found |= {name for name in names if name.endswith(".dist-info/METADATA")}
        archive.extractall(folder, sorted(found))


if __name__ == "__main__":
    extract(*map(Path, sys.argv[1:]))
