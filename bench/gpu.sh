#!/usr/bin/env bash
# Everything that needs a GPU. Each call takes less than ten minutes.
#
#   bench/gpu.sh           builds with CUDA, compares the kernels with the CPU, runs the GPU tests
#                          and the benchmarks against their peers: gpu.json, gpu.log
#   bench/gpu.sh sanitize  builds the comparisons and runs them under compute-sanitizer (memcheck,
#                          racecheck): gpu_sanitize.json, gpu_sanitize.log
#   bench/gpu.sh costs     builds, times passes of models of real shapes with random weights, and
#                          profiles the hot kernels if there is ncu: gpu_costs.json, gpu_costs.log
#   bench/gpu.sh speed     builds, then generates with the models TARGET and DRAFT, with both loops
#                          and with transformers' own: gpu_speed.json, gpu_speed.log
#   bench/gpu.sh carry     on a machine with a network: fills build/carry with the packages that a
#                          machine without one lacks
#
# The files go to $OUT or bench/results. The JSON is written again before and after each step. A
# failed step does not stop the others; the exit status is 1 then. Only `carry` downloads anything.
#
# Needs nvcc, a C++20 compiler, CMake, Ninja, and a Python with torch >= 2.10 (CUDA), transformers
# >= 5.23, pytest, pytest-xdist, hypothesis, typer, rich, scikit-build-core and pybind11 >= 3.0.2.
# The C++ comparisons need doctest; the benchmarks use FlashInfer for one of their peers.
#
# A machine without a network needs the files that git tracks, and build/carry, which git ignores
# and which must be named. build/carry has doctest (Debian's doctest-dev) and wheels for Python 3.12
# of transformers, FlashInfer, nvidia-ml-py, apache-tvm-ffi, pybind11, scikit-build-core,
# pytest-xdist and execnet, 25 MB in all. They take precedence over installed packages of the same
# name; their other dependencies must be installed. VLLM=<a wheel of vLLM> bench/gpu.sh carry adds
# the files of vLLM's rejection sampler, which need Triton alone; without them vLLM is compared if
# it is installed. The path of the wheel is relative to the repository's root.
#
# TARGET and DRAFT are folders as save_pretrained writes them, or .gguf files, which are smaller and
# need the packages gguf and accelerate. Their paths are relative to the repository's root. A model
# that is too large to be sent at once can be sent in parts to a folder that stays:
#   split --bytes 50M --numeric-suffixes model.safetensors part.      here
#   cat part.* >model.safetensors && sha256sum model.safetensors      there
# Builds stay in build/gpu, so that a second call on the same machine starts sooner.
set -uo pipefail
what=${1:-test}
[[ $# -le 1 && $what =~ ^(test|sanitize|costs|speed|carry)$ ]] ||
  { echo "usage: bench/gpu.sh [sanitize|costs|speed|carry]" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit
carry=$PWD/build/carry
python=${PYTHON:-python3}

if [ "$what" = carry ]; then
  set -e
  rm -rf "$carry"
  mkdir -p "$carry/wheels"
  cp -r --parents /usr/include/doctest /usr/lib/cmake/doctest "$carry" ||
    { echo "bench/gpu.sh: install Debian's doctest-dev first" >&2; exit 1; }
  # Versions that are not given here are those of constraints.txt.
  "$python" -m pip download -q --no-deps --only-binary=:all: -d "$carry/wheels" \
    --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
    -c constraints.txt transformers apache-tvm-ffi pybind11 scikit-build-core \
    flashinfer-python==0.6.6 nvidia-ml-py==13.615.71 \
    pytest-xdist==3.8.0 execnet==2.1.2
  [ -z "${VLLM:-}" ] || "$python" bench/python/vllm_files.py "$VLLM" "$carry/vllm"
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
all=540 # seconds for all steps of a call
export PATH=$PATH:/usr/local/cuda/bin PYTHONUNBUFFERED=1
# The build and the carried packages take precedence over the caller's PYTHONPATH.
export PYTHONPATH=$work/site:$work/carried${PYTHONPATH:+:$PYTHONPATH}
[ ! -d "$carry/vllm" ] || PYTHONPATH+=:$carry/vllm

# steps: calls `step` for each step of this call.
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
  if [ "$what" = costs ]; then
    step passes 240 "$python" bench/python/passes.py --json "$work/passes.json"
    if command -v ncu >/dev/null; then
      step profile 120 ncu --csv --metrics "$("$python" bench/python/hot_kernels.py metrics)" \
        --kernel-name "$("$python" bench/python/hot_kernels.py names)" --log-file "$work/ncu.csv" \
        "$python" bench/python/hot_kernels.py run
    fi
    return
  fi
  # The preset makes warnings errors; here they are printed and do not fail the build.
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
  # -v prints each test as it ends, so that the log of a step cut short still names failures.
  step tests 80 "$python" -m pytest -v --tb=short -n 4 -m gpu -W default -p no:cacheprovider \
    tests/python/test_cuda.py tests/python/test_cuda_graph_runner.py \
    tests/python/test_decoder_on_gpu.py
  # FlashInfer compiles its kernels at the first call, which takes longer than the benchmarks.
  step peers 90 "$python" bench/python/ops.py --device cuda --peers-only
  step benchmarks 90 "$python" bench/python/ops.py --device cuda --json "$work/measured.json"
}

# The limits of all steps must fit a call: else an early step could use the time of a later one.
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
rm -rf "$work/site" "$work"/*.json "$work/ncu.csv" "$work/steps"
: >"$out/$name.log"
# The build takes DLPack's header from torch.
ln -sf "$("$python" -c 'import torch; print(torch.__path__[0])')/include/ATen/dlpack.h" \
  "$work/include/dlpack/dlpack.h"

# report: writes the JSON; fails if a step has failed.
report() {
  "$python" bench/python/gpu_report.py "$gpu" "$out/$name.json" "$work/steps" \
    "$work"/{measured,passes}.json "$work/ncu.csv"
}

# step NAME SECONDS COMMAND...: runs it and records its exit status, 124 or 137 after a timeout.
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
