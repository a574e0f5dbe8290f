#!/usr/bin/env bash
# Checks, times and profiles the CUDA backend on this machine's GPU: tests/gpu/run.sh [--help]
set -uo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'USAGE'
Usage: tests/gpu/run.sh [--bin DIR] [--out DIR] [--only PART] [--rebuild] [--quick]

Runs on a machine with an NVIDIA GPU, with or without our packages (then on the folder that
tests/gpu/bundle.sh made). Without a GPU it says so and exits with 77.

  --bin DIR    programs (default .gpu/bin when it is there, else build/release/bin)
  --out DIR    results (default $OUT when set, else gpu-results); RESULT.md tells it all
  --only PART  check, sanitize, time or profile
  --rebuild    builds the plug-in anew from this tree with the nvcc found here, for this GPU
  --quick      short: decode of the 1B shape only, one sanitizer

Parts, in this order, each with its own time limit; a part that fails does not stop the others, and
the exit code tells how many failed:
  check     the device's tests against the CPU engine on the real device, P2 among them
  sanitize  compute-sanitizer's memcheck, racecheck, synccheck on the smallest of them
  time      device_bench: products by weight type, attention and events, whole steps; each run
            measures the ceilings its floors come from
  profile   ncu on attention, event and product kernels, or nsys on a decode
USAGE
}

bin=
out=${OUT:-gpu-results}
only=
rebuild=0
quick=0
while [ $# -gt 0 ]; do
  case "$1" in
    --bin) bin=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --rebuild) rebuild=1; shift ;;
    --quick) quick=1; shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
done

if ! nvidia-smi -L > /dev/null 2>&1; then
  echo "SKIPPED: no NVIDIA GPU here (nvidia-smi finds none)"
  exit 77
fi
[ -n "$bin" ] || { [ -d .gpu/bin ] && bin=.gpu/bin || bin=build/release/bin; }
[ -x "$bin/device_bench" ] || { echo "$bin/device_bench: missing; run tests/gpu/bundle.sh" >&2; exit 2; }
mkdir -p "$out"
report=$out/RESULT.md
failed=0

# Libraries of the bundle, then cuBLAS where CUDA or a Python package has it.
libraries=$PWD/$bin/../lib
for place in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib \
  $(python3 -c 'import glob, site
for base in site.getsitepackages():
    print(*glob.glob(base + "/nvidia/*/lib"))' 2> /dev/null) /usr/local/nvidia/lib64; do
  [ -d "$place" ] && libraries=$libraries:$place
done
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LOLA_TEST_DEVICE=cuda

say() { echo "$*" | tee -a "$report"; }
wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }
# run NAME LIMIT COMMAND...: its output goes to a log, its last lines into the report.
run() {
  local name=$1 limit=$2 log rc
  shift 2
  log=$out/$name.log
  timeout "$limit" "$@" > "$log" 2>&1
  rc=$?
  if [ $rc = 0 ]; then
    say "- $name: passed"
  elif [ $rc = 77 ]; then
    say "- $name: SKIPPED: $(grep -m1 SKIPPED "$log")"
    failed=$((failed + 1))  # there is a GPU: nothing may skip
  else
    failed=$((failed + 1))
    say "- $name: FAILED (exit code $rc)"
    { echo '```'; grep -E 'FAILED|Failure|ERROR|error|Error' "$log" | head -20; tail -5 "$log"; echo '```'; } |
      tee -a "$report"
  fi
}

# bench NAME LIMIT OPTIONS...: device_bench, its table into the report.
bench() {
  local name=$1 limit=$2
  shift 2
  run "bench-$name" "$limit" "$bin/device_bench" "$@" --markdown "$out/$name.md" --json "$out/$name.json"
  [ -f "$out/$name.md" ] && { echo; grep '^|' "$out/$name.md"; echo; } | tee -a "$report"
}

: > "$report"
say "# CUDA backend on $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1)"
say ""
say "$(git rev-parse --short HEAD 2> /dev/null || echo 'no commit known'), $(date -u +%Y-%m-%dT%H:%MZ)," \
  "clocks $(nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu --format=csv,noheader | head -1)"

if [ $rebuild = 1 ]; then
  say ""
  say "## Build"
  arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  run build 300 nvcc -O3 -std=c++20 -I. --expt-relaxed-constexpr -fmad=false -arch="sm_$arch" -shared \
    -Xcompiler -fPIC kernels/cuda/cuda_device.cu kernels/cuda/cuda_gemm.cu kernels/core/check.cc \
    -L/usr/local/cuda/lib64 -lcublasLt -o "$bin/liblola_kernels_cuda.so"
fi

if wanted check; then
  say ""
  say "## Checks against the CPU engine"
  run agreement 300 "$bin/engine_device_agreement_test" --gtest_brief=1
  run stepper 300 "$bin/engine_device_stepper_test" --gtest_brief=1
  run products 120 "$bin/engine_device_products_test" --gtest_brief=1
fi

if wanted sanitize; then
  say ""
  say "## compute-sanitizer"
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null || true)
  if [ -z "$sanitizer" ]; then
    say "- not run: compute-sanitizer is not on this machine"
  else
    tools="memcheck racecheck synccheck"
    [ $quick = 1 ] && tools=memcheck
    for tool in $tools; do
      run "$tool" 200 "$sanitizer" --tool "$tool" --error-exitcode 3 \
        "$bin/engine_device_agreement_test" --gtest_brief=1 \
        --gtest_filter='*/adaptive_shared_sinks:*/d128_float8:*/hypothetical:*.Int8:*.Float8'
      run "$tool-products" 200 "$sanitizer" --tool "$tool" --error-exitcode 3 \
        "$bin/engine_device_products_test" --gtest_brief=1
    done
  fi
fi

if wanted time; then
  say ""
  say "## Times"
  # Each with the ceilings of its own run: floors come from them.
  bench products 200 --only products
  bench ops 300 --only ops
  for dtype in bfloat16 float8 int8; do
    bench "steps-1b-$dtype" 300 --only steps --geometry llama-3.2-1b --dtype "$dtype"
    [ $quick = 1 ] || bench "steps-8b-$dtype" 560 --only steps --geometry llama-3.1-8b --dtype "$dtype"
  done
fi

if wanted profile; then
  say ""
  say "## Profile"
  ncu=$(command -v ncu || ls -d /opt/nvidia/nsight-compute/*/ncu 2> /dev/null | tail -1 || true)
  nsys=$(command -v nsys || true)
  if [ -n "$ncu" ]; then
    run ncu 300 "$ncu" --clock-control none --set basic --launch-count 24 \
      -k 'regex:AttendKernel|CombineKernel|ScoreKernel|RedundancyKernel|SelectKernel|AbsorbKernel' \
      "$bin/device_bench" --only ops
    run ncu-products 300 "$ncu" --clock-control none --set basic --launch-count 24 \
      -k 'regex:Float8|Int8Gemm' "$bin/device_bench" --only products
    cat "$out/ncu.log" "$out/ncu-products.log" |
      grep -E 'Kernel|Float8|Int8|Duration|DRAM Throughput|Compute .SM. Throughput|Registers' |
      sed 's/^ */    /' | head -240 >> "$report"
  elif [ -n "$nsys" ]; then
    run nsys 300 "$nsys" profile --stats=true -o "$out/decode" --force-overwrite true \
      "$bin/device_bench" --only steps --geometry llama-3.2-1b --dtype bfloat16 --batches 8
  else
    say "- no profiler here: the figures above are what there is"
  fi
fi

say ""
say "$failed part(s) failed"
exit $((failed > 100 ? 100 : failed))
