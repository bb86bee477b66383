#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes: builds with CUDA, runs the GPU tests, the
# kernels' comparisons plain and under compute-sanitizer (memcheck, racecheck), and the benchmarks
# against their peers. Writes gpu.json, and a log of each step, to $OUT or bench/results.
#
# Needs nvcc, a C++20 compiler, CMake, Ninja, and a Python with torch >= 2.10 (CUDA), transformers,
# pytest, typer, rich, scikit-build-core and pybind11. The C++ comparisons need doctest: from Debian's
# doctest-dev, or, where none can be installed, from build/carry, filled elsewhere by
#   mkdir -p build/carry && cp -r --parents /usr/include/doctest /usr/lib/cmake/doctest build/carry
# TARGET and DRAFT, folders with models, add tokens per second of both loops and of transformers'.
# Nothing is downloaded. A step that fails does not stop the others; the exit status tells of it.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-bench/results}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$work/site PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
steps=()

# step NAME SECONDS COMMAND...: its outcome is its exit status, 124 if it took too long.
step() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  printf '\n== %s (after %d s) ==\n' "$name" "$SECONDS"
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  status=$?
  tail -n 15 "$out/$name.log"
  echo "$name: exit status $status after $((SECONDS - start)) s"
  steps+=("{\"name\": \"$name\", \"status\": $status, \"seconds\": $((SECONDS - start))}")
}

# DLPack's header as the build looks for it: the one that torch brings.
mkdir -p "$work/dlpack"
ln -s "$("$python" -c 'import torch; print(torch.__path__[0])')/include/ATen/dlpack.h" \
  "$work/dlpack/dlpack.h"
defines=(
  "TOKENTIMING_CUDA=ON" "CMAKE_CUDA_ARCHITECTURES=$architecture" "DLPack_INCLUDE_DIR=$work"
)

step build-python 120 "$python" -m pip install --no-build-isolation --no-deps --no-index \
  --target "$work/site" "${defines[@]/#/-Ccmake.define.}" .
step build-tests 90 bash -c "
  cmake --fresh --preset cuda -DCMAKE_CUDA_ARCHITECTURES=$architecture \
    -DCMAKE_PREFIX_PATH='$PWD/build/carry/usr' &&
  cmake --build --preset cuda --target tokentiming_gpu_tests"
gpu_tests=build/cuda/tests/cuda/tokentiming_gpu_tests
step kernels 30 "$gpu_tests"
step memcheck 70 compute-sanitizer --tool memcheck --error-exitcode 1 "$gpu_tests"
step racecheck 70 compute-sanitizer --tool racecheck --error-exitcode 1 "$gpu_tests"
step tests 60 "$python" -m pytest -q -m gpu -W default -p no:cacheprovider \
  tests/python/test_cuda.py tests/python/test_graphed_model.py tests/python/test_decoder_on_gpu.py
step benchmarks 90 "$python" bench/python/gpu_ops.py --json "$work/gpu_ops.json"
if [ -n "${TARGET:-}" ]; then
  step speed 150 "$python" bench/python/speed.py --target "$TARGET" --draft "$DRAFT" --device cuda \
    --with-assisted --repeats 1 --retries 0 --only writing,coding,qa
fi

"$python" - "$out/gpu.json" "$work/gpu_ops.json" "${steps[@]}" <<'PYTHON'
import json
import subprocess
import sys
from pathlib import Path

target, measured, *steps = sys.argv[1:]
driver = subprocess.run(
    ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
    capture_output=True, text=True,
).stdout.strip()
run = {"gpu": driver, "steps": [json.loads(step) for step in steps]}
if Path(measured).exists():
    run["measured"] = json.loads(Path(measured).read_text())
Path(target).write_text(json.dumps(run, indent=1) + "\n")
failed = [step["name"] for step in run["steps"] if step["status"]]
print("failed: " + ", ".join(failed) if failed else "all steps passed", f"({target})")
sys.exit(bool(failed))
PYTHON
