"""A wheel holds the package and nothing else, and works without a compiler in reach."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile

ALLOWED = re.compile(
    r"tokentiming/([a-z_]+/)*([a-z_]+\.pyi?|py\.typed)"
    r"|tokentiming/bench/prompts\.jsonl"
    r"|tokentiming/_(core|native)\.[\w.-]+\.so"
    r"|tokentiming-[\w.]+\.dist-info/.+"
)
ALIGN = """
import tokentiming
from tokentiming import ops
from tokentiming import _native  # a wheel holds it by default
import torch

table = ops.ByteTable(
    torch.tensor(list(b"abab"), dtype=torch.uint8), torch.tensor([0, 1, 2, 4])
)
found = ops.align(
    draft_ids=torch.tensor([0, 1]), target_ids=torch.tensor([2]),
    draft_table=table, target_table=table,
)
assert found.target_spans.tolist() == [[0, 2]], found
[runtime] = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
print(tokentiming.__file__, "with", runtime)
"""

strangers = [n for n in zipfile.ZipFile(sys.argv[1]).namelist() if not ALLOWED.fullmatch(n)]
if strangers:
    sys.exit(f"{sys.argv[1]} holds {', '.join(strangers)}")
# No PATH, hence no compiler; not from the checkout, which has a package of the same name.
subprocess.run([sys.executable, "-I", "-c", ALIGN], check=True, env={}, cwd="/")
