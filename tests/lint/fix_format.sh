#!/usr/bin/env bash
# Formats every C++ and CUDA source in place, so that the lint test's formatting rule passes.
# Usage: tests/lint/fix_format.sh (no options)
set -euo pipefail
if [ $# -gt 0 ]; then
  sed -n 's/^# //p' "$0"
  case "$1" in -h|--help) exit 0 ;; *) exit 2 ;; esac
fi
cd "$(dirname "$0")/../.."
git ls-files -co --exclude-standard -z '*.cc' '*.h' '*.cu' '*.cuh' | xargs -0 -r clang-format -i
