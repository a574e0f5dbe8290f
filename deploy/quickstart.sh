#!/usr/bin/env bash
# Builds LoLA stream memory, starts the whole system on loopback and shows what it does.
# deploy/quickstart.sh --help says more.
set -euo pipefail
cd "$(dirname "$0")/.."

build=yes
build_dir=build/release
previous=
for argument in "$@"; do
  case "$argument" in
    # No packages and no build for a look at the help: plain Python shows it.
    -h | --help) exec /usr/bin/env python3 deploy/quickstart/main.py --help ;;
    --no-build) build=no ;;
    --build-dir=*) build_dir=${argument#*=} ;;
  esac
  [ "$previous" = --build-dir ] && build_dir=$argument
  previous=$argument
done

if [ "$build" = yes ]; then
  deploy/install_packages.sh
  echo "Building into $build_dir (the first time this takes some minutes)"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! cmake --preset release -B "$build_dir" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "quickstart.sh: configuring failed (above: the end of its output)" >&2
    exit 1
  fi
  cmake --build "$build_dir" -j "$(nproc)" --target \
    lola-gateway lola-worker lola-memory lola-standalone lola
  rm -f "$log"
  trap - EXIT
fi
# Debian's interpreter: the packaged gRPC belongs to it, whatever else is on PATH.
exec /usr/bin/python3 deploy/quickstart/main.py --build-dir "$build_dir" "$@"
