#!/usr/bin/env bash
# Runs every libFuzzer target: run_all.sh BUILD_DIR [SECONDS_PER_TARGET]
# Findings stay under BUILD_DIR/findings; the exit status is 1 if there is any.
set -euo pipefail
build=${1:?build folder of the fuzz preset}
seconds=${2:-60}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$build/findings" "$build/corpus"
status=0
for target in "$build"/bin/fuzz_*; do
  name=$(basename "$target")
  mkdir -p "$build/corpus/$name" "$here/corpus/$name"
  echo "== $name: $seconds s"
  "$target" -max_total_time="$seconds" -print_final_stats=1 -use_value_profile=1 \
    -artifact_prefix="$build/findings/$name-" "$build/corpus/$name" "$here/corpus/$name" || status=1
done
exit $status
