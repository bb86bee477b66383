#!/usr/bin/env bash
# Everything that needs a GPU, each call in under nine minutes.
#
#   bench/gpu.sh        builds with CUDA, compares the kernels with the CPU, runs the GPU tests and
#                       the benchmarks against their peers, and compares once more under
#                       compute-sanitizer (memcheck, racecheck): gpu.json, gpu.log
#   bench/gpu.sh speed  builds, and generates with the models TARGET and DRAFT by both loops and by
#                       transformers' own: gpu_speed.json, gpu_speed.log
#
# The files go to $OUT or bench/results; the JSON is written anew before and after each step. A step
# that fails does not stop the others; the exit status tells of it. Nothing is downloaded.
#
# Needs nvcc, a C++20 compiler, CMake, Ninja, and a Python with torch >= 2.10 (CUDA), transformers,
# pytest, hypothesis, typer, rich, scikit-build-core and pybind11 >= 3.0.2. The C++ comparisons need
# doctest: from Debian's doctest-dev, or, where none can be installed, from build/carry, filled
# elsewhere by
#   mkdir -p build/carry && cp -r --parents /usr/include/doctest /usr/lib/cmake/doctest build/carry
#
# TARGET and DRAFT are folders as save_pretrained writes them, or .gguf files, which are smaller and
# need the packages gguf and accelerate; their paths are from the repository's root. Where models
# cannot be fetched and are too large to be sent at once, send them in parts to a folder that stays,
# and put them together there:
#   split --bytes 50M --numeric-suffixes model.safetensors part.      here
#   cat part.* >model.safetensors && sha256sum model.safetensors      there
# What was built stays in build/gpu, so that a second call on the same machine starts sooner.
set -uo pipefail
what=${1:-all}
[[ $# -le 1 && $what =~ ^(all|speed)$ ]] || { echo "usage: bench/gpu.sh [speed]" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit
name=gpu
if [ "$what" = speed ]; then
  name=gpu_speed
  : "${TARGET:?bench/gpu.sh speed: set TARGET and DRAFT to models}" "${DRAFT:?set DRAFT to a model}"
fi
out=${OUT:-bench/results}
work=$PWD/build/gpu
python=${PYTHON:-python3}
export PATH=$PATH:/usr/local/cuda/bin PYTHONPATH=$work/site PYTHONUNBUFFERED=1
SECONDS=0
all=520 # seconds, for all steps

gpu=$(nvidia-smi --query-gpu=compute_cap,name,driver_version --format=csv,noheader | head -n 1)
architecture=$(tr -d . <<<"${gpu%%,*}")
[[ $architecture =~ ^[0-9]+$ ]] || { echo "bench/gpu.sh: nvidia-smi shows no GPU" >&2; exit 2; }
mkdir -p "$out" "$work/include/dlpack"
rm -rf "$work/site" "$work"/*.json "$work/steps"
: >"$out/$name.log"

# report: the JSON as it stands; fails if a step has.
report() {
  "$python" bench/python/gpu_report.py "$gpu" "$out/$name.json" "$work/steps" "$work/measured.json"
}

# step NAME SECONDS COMMAND...: its outcome is its exit status, 124 or 137 if it took too long.
step() {
  local limit=$2 start=$SECONDS status line
  line="$(printf '== %s (after %d s) ==' "$1" "$SECONDS")"
  printf '\n%s\n' "$line" | tee -a "$out/$name.log"
  [ "$limit" -le $((all - SECONDS)) ] || limit=$((all - SECONDS))
  echo "$1 running 0" >>"$work/steps"
  report >/dev/null
  if [ "$limit" -gt 0 ]; then
    timeout --kill-after 5 "$limit" "${@:3}" >"$work/log" 2>&1
    status=$?
  else
    echo "no time left" >"$work/log"
    status=124
  fi
  cat "$work/log" >>"$out/$name.log"
  tail -n 15 "$work/log"
  echo "$1: exit status $status after $((SECONDS - start)) s"
  sed -i "\$s/.*/$1 $status $((SECONDS - start))/" "$work/steps"
  report >/dev/null
}

# DLPack's header as the build looks for it: the one that torch brings.
ln -sf "$("$python" -c 'import torch; print(torch.__path__[0])')/include/ATen/dlpack.h" \
  "$work/include/dlpack/dlpack.h"
step build-python 150 "$python" -m pip install --no-build-isolation --no-deps --no-index \
  --target "$work/site" -Cbuild-dir="$work/python" -Ccmake.define.TOKENTIMING_CUDA=ON \
  -Ccmake.define.CMAKE_CUDA_ARCHITECTURES="$architecture" \
  -Ccmake.define.DLPack_INCLUDE_DIR="$work/include" .
step installed 60 "$python" -c "
import sys, tokentiming as tt, torch
if not tt.__file__.startswith('$work/site/'):
    sys.exit(f'{tt.__file__} comes before what was built here: uninstall that tokentiming first')
if not (tt.ops.has_cuda() and torch.cuda.is_available()):
    sys.exit('tokentiming was built without CUDA, or torch sees no CUDA device')"

if [ "$what" = speed ]; then
  step speed 480 "$python" bench/python/speed.py --target "$TARGET" --draft "$DRAFT" --device cuda \
    --with-assisted --retries 0 --json "$work/measured.json"
else
  # Warnings are errors in the preset; here they are to be read and keep nothing back.
  step build-tests 120 bash -c "
    cmake --fresh --preset cuda -DCMAKE_CUDA_ARCHITECTURES=$architecture \
      -DCMAKE_CUDA_FLAGS=-Xptxas=-v -DCMAKE_PREFIX_PATH='$PWD/build/carry/usr' &&
    cmake --build --preset cuda --target tokentiming_gpu_tests"
  kernels=build/cuda/tests/cuda/tokentiming_gpu_tests
  step kernels 40 "$kernels"
  step tests 100 "$python" -m pytest -q -m gpu -W default -p no:cacheprovider \
    tests/python/test_cuda.py tests/python/test_graphed_model.py \
    tests/python/test_decoder_on_gpu.py
  step benchmarks 100 "$python" bench/python/gpu_ops.py --json "$work/measured.json"
  step memcheck 90 compute-sanitizer --tool memcheck --error-exitcode 1 "$kernels"
  step racecheck 90 compute-sanitizer --tool racecheck --error-exitcode 1 "$kernels"
fi
printf '\n'
report
