#!/usr/bin/env bash
# Checks, times and profiles the CUDA backend on this machine's GPU: tests/gpu/run.sh [--help]
set -uo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'USAGE'
Usage: tests/gpu/run.sh [--bin DIR] [--out DIR] [--only PART,...] [--rebuild] [--quick]

Runs on a machine with an NVIDIA GPU, with or without our packages (then on the folder that
tests/gpu/bundle.sh made). Without a GPU it says so and exits with 77.

  --bin DIR    programs (default .gpu/bin when it is there, else build/release/bin)
  --out DIR    results (default $OUT when set, else gpu-results): RESULT.md tells it all, all.log
               holds what was printed, and every measurement is a .json file
  --only PARTS these parts only; a name stands for all parts that begin with it
  --rebuild    builds the plug-in anew from this tree with the nvcc found here, for this GPU
  --quick      short: the 1B shape only, one sanitizer

PYTHON names the interpreter of peers and report (default python3); the peers need PyTorch.

Parts, in this order, each with its own time limits; a part that fails does not stop the others, and
the exit code tells how many failed:
  check     the device's tests against the CPU engine on the real device, P2 among them
  sanitize  compute-sanitizer on the smallest of them: sanitize-memcheck, -racecheck, -synccheck
  time      device_bench, each run with the ceilings its floors come from: time-products (by weight
            type), time-ops (attention, events), time-1b, time-8b-bfloat16, -float8, -int8 (whole
            steps: decode at batches 1, 8, 64 and full, snapshots, prefill and its dense part)
  peers     what a user would run instead, in PyTorch (tests/gpu/peers --help): peers-event,
            peers-softmax-1b, -8b (SDPA, static cache, graphs), peers-lola-1b, -8b
  report    aims met, missed or not measured, and ratios, from all .json files in --out
  profile   ncu on attention, event and product kernels, or nsys on a decode

In commands of less than ten minutes each, limits included (results of several machines of one
kind: copy their .json files into one folder, then tests/gpu/report.py FOLDER):
  --only check                             --only sanitize-memcheck     (-racecheck, -synccheck)
  --only time-products,time-ops            --only time-1b
  --only time-8b-bfloat16                  --only time-8b-float8        (-int8)
  --only peers-softmax-1b,peers-event      --only peers-softmax-8b
  --only peers-lola-1b                     --only peers-lola-8b
  --only profile                           --only report
For one table of ratios from one run: time-ops, time-1b, time-8b-bfloat16 and peers.
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
for name in ${only//,/ }; do
  case "$name" in
    check|sanitize|sanitize-memcheck|sanitize-racecheck|sanitize-synccheck) ;;
    time|time-products|time-ops|time-1b|time-8b|time-8b-bfloat16|time-8b-float8|time-8b-int8) ;;
    peers|peers-event|peers-softmax|peers-softmax-1b|peers-softmax-8b) ;;
    peers-lola|peers-lola-1b|peers-lola-8b|report|profile) ;;
    *) echo "--only $name: no such part" >&2; usage >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
report=$out/RESULT.md
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=0
python=${PYTHON:-python3}

# Libraries of the bundle, then cuBLAS where CUDA or a Python package has it.
libraries=$PWD/$bin/../lib
for place in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib \
  $(python3 -c 'import glob, site
for base in site.getsitepackages():
    print(*glob.glob(base + "/nvidia/*/lib"))' 2> /dev/null) /usr/local/nvidia/lib64; do
  [ -d "$place" ] && libraries=$libraries:$place
done
python_libraries=${LD_LIBRARY_PATH:-}  # PyTorch brings its own; ours would get in its way
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LOLA_TEST_DEVICE=cuda

say() { echo "$*" | tee -a "$report"; }
# wanted PART: is it, or what it begins with, named by --only?
wanted() {
  local name
  [ -z "$only" ] && return 0
  for name in ${only//,/ }; do
    case "$1-" in "$name"-*) return 0 ;; esac
  done
  return 1
}
# any PREFIX: may a part of this section be wanted?
any() {
  local name
  [ -z "$only" ] && return 0
  for name in ${only//,/ }; do
    case "$name-" in "$1"-*) return 0 ;; esac
  done
  return 1
}
# run NAME LIMIT COMMAND...: its output goes to all.log, its last lines into the report.
run() {
  local name=$1 limit=$2 log=$logs/$1.log rc
  shift 2
  echo "==== $name" >> "$out/all.log"
  timeout "$limit" "$@" 2>&1 | tee "$log" >> "$out/all.log"
  rc=${PIPESTATUS[0]}
  if [ "$rc" = 0 ]; then
    say "- $name: passed"
  elif [ "$rc" = 77 ]; then
    say "- $name: SKIPPED: $(grep -m1 SKIPPED "$log")"
    failed=$((failed + 1))  # there is a GPU: nothing may skip
  else
    failed=$((failed + 1))
    say "- $name: FAILED (exit code $rc)"
    { echo '```'; grep -E 'FAILED|Failure|ERROR|error|Error' "$log" | head -20; tail -5 "$log"; echo '```'; } |
      tee -a "$report"
  fi
}
# table FILE: a result's table into the report.
table() { if [ -f "$1" ]; then { echo; grep -E '^\||^- not measured' "$1"; echo; } | tee -a "$report"; fi; }

# bench NAME LIMIT OPTIONS...: device_bench, its table into the report.
bench() {
  local name=$1 limit=$2
  shift 2
  run "bench-$name" "$limit" "$bin/device_bench" "$@" --markdown "$logs/$name.md" --json "$out/$name.json"
  table "$logs/$name.md"
}

# peers NAME LIMIT OPTIONS...: a PyTorch peer, which ends by itself half a minute before its limit.
peers() {
  local name=$1 limit=$2
  shift 2
  run "$name" "$limit" env LD_LIBRARY_PATH="$python_libraries" PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 "$python" tests/gpu/peers "$@" --budget $((limit - 30)) --out "$out/$name"
  table "$out/$name.md"
  rm -f "$out/$name.md"
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
  run agreement 240 "$bin/engine_device_agreement_test" --gtest_brief=1
  run stepper 240 "$bin/engine_device_stepper_test" --gtest_brief=1
  run products 100 "$bin/engine_device_products_test" --gtest_brief=1
fi

if any sanitize; then
  say ""
  say "## compute-sanitizer"
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null || true)
  if [ -z "$sanitizer" ]; then
    say "- not run: compute-sanitizer is not on this machine"
  else
    tools="memcheck racecheck synccheck"
    [ $quick = 1 ] && tools=memcheck
    for tool in $tools; do
      wanted "sanitize-$tool" || continue
      run "$tool" 200 "$sanitizer" --tool "$tool" --error-exitcode 3 \
        "$bin/engine_device_agreement_test" --gtest_brief=1 \
        --gtest_filter='*/adaptive_shared_sinks:*/d128_float8:*/hypothetical:*.Int8:*.Float8'
      run "$tool-products" 200 "$sanitizer" --tool "$tool" --error-exitcode 3 \
        "$bin/engine_device_products_test" --gtest_brief=1
    done
  fi
fi

if any time; then
  say ""
  say "## Times"
  # Each with the ceilings of its own run: floors come from them.
  wanted time-products && bench products 200 --only products
  wanted time-ops && bench ops 300 --only ops
  for dtype in bfloat16 float8 int8; do
    limit=140
    [ $dtype = bfloat16 ] && limit=290
    wanted time-1b && bench "steps-1b-$dtype" $limit --only steps --geometry llama-3.2-1b --dtype "$dtype"
    [ $quick = 1 ] || ! wanted "time-8b-$dtype" ||
      bench "steps-8b-$dtype" 560 --only steps --geometry llama-3.1-8b --dtype "$dtype"
  done
fi

if any peers; then
  say ""
  say "## PyTorch peers"
  wanted peers-event && peers peers-event 200 event
  for shape in 1b 8b; do
    [ $quick = 1 ] && [ $shape = 8b ] && continue
    geometry=llama-3.2-1b
    [ $shape = 8b ] && geometry=llama-3.1-8b
    wanted "peers-softmax-$shape" && peers "peers-softmax-$shape" 380 softmax --geometry $geometry
    wanted "peers-lola-$shape" && peers "peers-lola-$shape" 560 lola --geometry $geometry
  done
fi

if wanted report; then
  say ""
  "$python" tests/gpu/report.py "$out" --out "$out/aims" > "$logs/report" 2>&1
  rc=$?
  sed 's/^#/##/' "$logs/report" | tee -a "$report"
  # Only time and peers make anything to report of.
  if [ $rc != 0 ] && { any time || any peers; }; then failed=$((failed + 1)); fi
fi

if wanted profile; then
  say ""
  say "## Profile"
  ncu=$(command -v ncu || ls -d /opt/nvidia/nsight-compute/*/ncu 2> /dev/null | tail -1 || true)
  nsys=$(command -v nsys || true)
  if [ -n "$ncu" ]; then
    run ncu 290 "$ncu" --clock-control none --set basic --launch-count 24 \
      -k 'regex:AttendKernel|CombineKernel|ScoreKernel|RedundancyKernel|SelectKernel|AbsorbKernel' \
      "$bin/device_bench" --only ops
    run ncu-products 290 "$ncu" --clock-control none --set basic --launch-count 24 \
      -k 'regex:Float8|Int8Gemm' "$bin/device_bench" --only products
    cat "$logs/ncu.log" "$logs/ncu-products.log" |
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
