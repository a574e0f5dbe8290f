#!/usr/bin/env bash
# Builds everything and runs the tests: tests/run.sh [--help]
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'USAGE'
Usage: tests/run.sh [PRESET] [-- CTEST ARGUMENTS]

Installs missing distribution packages (says so first), configures, builds and runs the tests.

  PRESET   release (default): everything - lint, unit, property, fuzz replays, benchmark smoke
           runs, end-to-end with real processes and kill -9
           asan: unit and fuzz tests under address, undefined and leak sanitizers
           tsan: tests labelled tsan under the thread sanitizer (no gRPC in those processes)
           fuzz: 60 seconds of libFuzzer per target (needs clang)

Examples:
  tests/run.sh                         the whole suite
  tests/run.sh release -- -L unit      unit tests only
  tests/run.sh release -- -R snapshot  tests whose name contains "snapshot"
USAGE
}

preset=release
case "${1:-}" in
  -h|--help) usage; exit 0 ;;
  release|asan|tsan|fuzz) preset=$1; shift ;;
  ""|--) ;;
  *) echo "unknown preset '$1'" >&2; usage >&2; exit 2 ;;
esac
[ "${1:-}" = "--" ] && shift

if [ "$preset" = fuzz ]; then
  deploy/install_packages.sh --fuzz
else
  deploy/install_packages.sh
fi
jobs=$(nproc)
cmake --preset "$preset"
cmake --build --preset "$preset" -j "$jobs"

if [ "$preset" = fuzz ]; then
  exec tests/fuzz/run_all.sh build/fuzz 60
fi
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:suppressions=$PWD/tests/support/tsan.supp}
exec ctest --preset "$preset" "$@"
