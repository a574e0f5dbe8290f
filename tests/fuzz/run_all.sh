#!/usr/bin/env bash
# Runs every libFuzzer target. Usage: tests/fuzz/run_all.sh BUILD_DIR [SECONDS_PER_TARGET]
# BUILD_DIR is that of the fuzz preset (`tests/run.sh fuzz` makes it and calls this); 60 seconds a
# target. New inputs go to BUILD_DIR/corpus, findings to BUILD_DIR/findings, each with the target's
# name; the exit status is 1 if there is any finding.
set -euo pipefail
case "${1:-}" in
  -h|--help) sed -n 's/^# //p' "$0"; exit 0 ;;
  ""|-*) sed -n 's/^# //p' "$0" >&2; exit 2 ;;
esac
build=$1
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
