#!/usr/bin/env bash
# Everything that needs a GPU, each call in under ten minutes.
#
#   bench/gpu.sh           builds with CUDA, compares the kernels with the CPU, runs the GPU tests
#                          and the benchmarks against their peers: gpu.json, gpu.log
#   bench/gpu.sh sanitize  builds the comparisons, and runs them under compute-sanitizer (memcheck,
#                          racecheck): gpu_sanitize.json, gpu_sanitize.log
#   bench/gpu.sh speed     builds, and generates with the models TARGET and DRAFT by both loops and
#                          by transformers' own: gpu_speed.json, gpu_speed.log
#   bench/gpu.sh carry     where packages can be fetched: fills build/carry with what a machine that
#                          reaches nothing lacks
#
# The files go to $OUT or bench/results; the JSON is written anew before and after each step. A step
# that fails does not stop the others; the exit status tells of it. Only `carry` downloads anything.
#
# Needs nvcc, a C++20 compiler, CMake, Ninja, and a Python with torch >= 2.10 (CUDA), transformers
# >= 5.23, pytest, pytest-xdist, hypothesis, typer, rich, scikit-build-core and pybind11 >= 3.0.2.
# The C++ comparisons need doctest, the benchmarks FlashInfer for one of their peers.
#
# To a machine that reaches nothing travel the files that git tracks, and build/carry, which git
# ignores and which has to be named: doctest of Debian's doctest-dev, and wheels for Python 3.12 of
# transformers, FlashInfer, apache-tvm-ffi, pybind11, scikit-build-core, pytest-xdist and execnet,
# 24 MB in all. They come before packages of the same name that are there; what else they import has
# to be there.
#
# TARGET and DRAFT are folders as save_pretrained writes them, or .gguf files, which are smaller and
# need the packages gguf and accelerate; their paths are from the repository's root. Where models
# cannot be fetched and are too large to be sent at once, send them in parts to a folder that stays,
# and put them together there:
#   split --bytes 50M --numeric-suffixes model.safetensors part.      here
#   cat part.* >model.safetensors && sha256sum model.safetensors      there
# What was built stays in build/gpu, so that a second call on the same machine starts sooner.
set -uo pipefail
what=${1:-test}
[[ $# -le 1 && $what =~ ^(test|sanitize|speed|carry)$ ]] ||
  { echo "usage: bench/gpu.sh [sanitize|speed|carry]" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit
carry=$PWD/build/carry
python=${PYTHON:-python3}

if [ "$what" = carry ]; then
  set -e
  rm -rf "$carry"
  mkdir -p "$carry/wheels"
  cp -r --parents /usr/include/doctest /usr/lib/cmake/doctest "$carry" ||
    { echo "bench/gpu.sh: install Debian's doctest-dev first" >&2; exit 1; }
  # The versions are those of constraints.txt.
  "$python" -m pip download -q --no-deps --only-binary=:all: -d "$carry/wheels" \
    --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
    -c constraints.txt transformers apache-tvm-ffi pybind11 scikit-build-core \
    flashinfer-python==0.5.3 pytest-xdist==3.8.0 execnet==2.1.2
  du -ch "$carry"/wheels/* "$carry/usr"
  exit
fi

name=gpu
[ "$what" = test ] || name=gpu_$what
if [ "$what" = speed ]; then
  : "${TARGET:?bench/gpu.sh speed: set TARGET and DRAFT to models}" "${DRAFT:?set DRAFT to a model}"
fi
out=${OUT:-bench/results}
work=$PWD/build/gpu
kernels=build/cuda/tests/cuda/tokentiming_gpu_tests
all=540 # seconds, for the steps of a call; a device machine ends a call after 600
export PATH=$PATH:/usr/local/cuda/bin PYTHONUNBUFFERED=1
# What was built here, and what was carried, come before what the caller names.
export PYTHONPATH=$work/site:$work/carried${PYTHONPATH:+:$PYTHONPATH}

# steps: those of this call; `step` is what to do with each.
steps() {
  if [ "$what" != sanitize ]; then
    [ ! -d "$carry/wheels" ] || step carried 20 "$python" -m pip install -q --no-index --no-deps \
      --no-compile --no-cache-dir --upgrade --target "$work/carried" "$carry"/wheels/*.whl
    step build-python 100 "$python" -m pip install --no-build-isolation --no-deps --no-index \
      --target "$work/site" -Cbuild-dir="$work/python" -Ccmake.define.TOKENTIMING_CUDA=ON \
      -Ccmake.define.CMAKE_CUDA_ARCHITECTURES="$architecture" \
      -Ccmake.define.DLPack_INCLUDE_DIR="$work/include" .
    step installed 30 "$python" -c "
import sys, tokentiming as tt, torch
if not tt.__file__.startswith('$work/site/'):
    sys.exit(f'{tt.__file__} comes before what was built here: uninstall that tokentiming first')
if not (tt.ops.has_cuda() and torch.cuda.is_available()):
    sys.exit('tokentiming was built without CUDA, or torch sees no CUDA device')"
  fi
  if [ "$what" = speed ]; then
    step speed 390 "$python" bench/python/speed.py --target "$TARGET" --draft "$DRAFT" \
      --device cuda --with-assisted --retries 0 --json "$work/measured.json"
    return
  fi
  # Warnings are errors in the preset; here they are to be read and keep nothing back.
  step build-tests 100 bash -c "
    cmake --fresh --preset cuda -DCMAKE_CUDA_ARCHITECTURES=$architecture \
      -DCMAKE_CUDA_FLAGS=-Xptxas=-v -DCMAKE_PREFIX_PATH='$carry/usr' &&
    cmake --build --preset cuda --target tokentiming_gpu_tests"
  if [ "$what" = sanitize ]; then
    step memcheck 220 compute-sanitizer --tool memcheck --error-exitcode 1 "$kernels"
    step racecheck 220 compute-sanitizer --tool racecheck --error-exitcode 1 "$kernels"
    return
  fi
  step kernels 30 "$kernels"
  # Each test is named as it ends, so that a step cut short still tells what failed.
  step tests 80 "$python" -m pytest -v --tb=short -n 4 -m gpu -W default -p no:cacheprovider \
    tests/python/test_cuda.py tests/python/test_cuda_graph_runner.py \
    tests/python/test_decoder_on_gpu.py
  # FlashInfer compiles its kernels at the first call, which takes longer than the benchmarks.
  step peers 90 "$python" bench/python/ops.py --device cuda --peers-only
  step benchmarks 90 "$python" bench/python/ops.py --device cuda --json "$work/measured.json"
}

# Limits that add up to more than the whole would let an early step eat a later one's time.
architecture=
total=0
step() { total=$((total + $2)); }
steps
[ "$total" -le "$all" ] ||
  { echo "bench/gpu.sh: the steps may take $total s, more than the $all s of a call" >&2; exit 2; }

gpu=$(nvidia-smi --query-gpu=compute_cap,name,driver_version --format=csv,noheader | head -n 1)
architecture=$(tr -d . <<<"${gpu%%,*}")
[[ $architecture =~ ^[0-9]+$ ]] || { echo "bench/gpu.sh: nvidia-smi shows no GPU" >&2; exit 2; }
mkdir -p "$out" "$work/include/dlpack"
rm -rf "$work/site" "$work"/*.json "$work/steps"
: >"$out/$name.log"
# DLPack's header as the build looks for it: the one that torch brings.
ln -sf "$("$python" -c 'import torch; print(torch.__path__[0])')/include/ATen/dlpack.h" \
  "$work/include/dlpack/dlpack.h"

# report: the JSON as it stands; fails if a step has.
report() {
  "$python" bench/python/gpu_report.py "$gpu" "$out/$name.json" "$work/steps" "$work/measured.json"
}

# step NAME SECONDS COMMAND...: its outcome is its exit status, 124 or 137 if it took too long.
step() {
  local start=$SECONDS status line
  line="$(printf '== %s (after %d s, for %d s at most) ==' "$1" "$SECONDS" "$2")"
  printf '\n%s\n' "$line" | tee -a "$out/$name.log"
  echo "$1 running 0" >>"$work/steps"
  report >/dev/null
  timeout --kill-after 5 "$2" "${@:3}" >"$work/log" 2>&1
  status=$?
  cat "$work/log" >>"$out/$name.log"
  tail -n 15 "$work/log"
  echo "$1: exit status $status after $((SECONDS - start)) s"
  sed -i "\$s/.*/$1 $status $((SECONDS - start))/" "$work/steps"
  report >/dev/null
}

SECONDS=0
steps
printf '\n'
report
