#!/usr/bin/env bash
# Installs the Debian packages LoLA stream memory needs, and only those that are missing.
set -euo pipefail

# name = why
build_packages=(
  "g++ = compiler (C++20)"
  "cmake = build system, 3.25 or newer"
  "ninja-build = build runner"
  "git = lint test asks it for the tracked files"
  "pkg-config = finds xxHash"
  "ccache = faster rebuilds"
  "mold = faster linking"
  "libgrpc++-dev = RPC, health, reflection"
  "protobuf-compiler = messages"
  "protobuf-compiler-grpc = stubs, C++ and Python"
  "libprotobuf-dev = messages"
  "libabsl-dev = Status, strings"
  "librocksdb-dev = records and token logs"
  "prometheus-cpp-dev = /metrics"
  "libcurl4-openssl-dev = HTTP"
  "libhwy-dev = portable SIMD"
  "libxxhash-dev = checksums and digests"
  "libzstd-dev = compression"
  "libpcre2-dev = regular expressions"
  "libutf8proc-dev = Unicode normalization forms"
  "nlohmann-json3-dev = JSON"
  "libspdlog-dev = logging"
  "libcli11-dev = command lines and configuration files"
)
test_packages=(
  "libgtest-dev = tests"
  "libboost-context-dev = device kernels on the CPU, for tests"
  "libgmock-dev = tests"
  "libbenchmark-dev = benchmarks"
  "libopenblas-dev = what our matrix products are measured against"
  "libdnnl-dev = what our matrix products are measured against"
  "clang-format = lint test"
  "python3-yaml = checks of the deployment files"
  "openssl = certificates for the TLS test"
  "prometheus = checks of rules and dashboard against real metrics"
)
python_packages=(
  "python3 = quick start, client, tests"
  "python3-grpcio = Python client"
  "python3-protobuf = Python client"
  "python3-numpy = converter of LoLCATs checkpoints, tests"
)
runtime_packages=(
  "libgrpc++1.51 = RPC"
  "libprotobuf32 = messages"
  "libabsl20220623 = Status, strings"
  "librocksdb7.8 = records and token logs"
  "libprometheus-cpp-core1.0 = /metrics"
  "libprometheus-cpp-pull1.0 = /metrics"
  "libcurl4 = HTTP"
  "libhwy1 = portable SIMD"
  "libxxhash0 = checksums and digests"
  "libzstd1 = compression"
  "libpcre2-8-0 = regular expressions"
  "libutf8proc2 = Unicode normalization forms"
  "libspdlog1.10 = logging"
)
fuzz_packages=(
  "clang = libFuzzer"
  "libclang-rt-14-dev = libFuzzer and sanitizer run times"
)

usage() {
  cat <<'USAGE'
Usage: deploy/install_packages.sh [--runtime] [--fuzz] [--list] [--help]

Installs the Debian 12 packages needed to build, test and run LoLA stream memory. Says what is
missing and what it will do, installs only that, and is silent and quick when nothing is missing.

  --runtime   only the libraries that running the built programs needs (used by the container)
  --fuzz      also clang and its run times, for `tests/run.sh fuzz`
  --list      print the packages and what each is for; install nothing

Needs root or sudo only when something is missing.
USAGE
}

wanted=("${build_packages[@]}" "${test_packages[@]}" "${python_packages[@]}")
fuzz=no
list=no
for argument in "$@"; do
  case "$argument" in
    -h | --help) usage; exit 0 ;;
    --runtime) wanted=("${runtime_packages[@]}") ;;
    --fuzz) fuzz=yes ;;
    --list) list=yes ;;
    *) echo "install_packages.sh: unknown argument '$argument'" >&2; usage >&2; exit 2 ;;
  esac
done
[ "$fuzz" = yes ] && wanted+=("${fuzz_packages[@]}")

if [ "$list" = yes ]; then
  for entry in "${wanted[@]}"; do printf '%-28s %s\n' "${entry%% = *}" "${entry#* = }"; done
  exit 0
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_packages.sh: no dpkg/apt-get here. On Debian 12 these packages are needed" \
       "(--list says what for):" >&2
  printf '  %s\n' "${wanted[@]%% = *}" >&2
  exit 1
fi

# Names of all installed packages, without the architecture. Package names are literal strings.
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
missing=()
for entry in "${wanted[@]}"; do
  name=${entry%% = *}
  grep -qxF -- "$name" <<<"$installed" || missing+=("$name")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

echo "Missing Debian packages (${#missing[@]}): ${missing[*]}"
command=(apt-get install -y -q --no-install-recommends "${missing[@]}")
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo)
  else
    echo "install_packages.sh: not root and no usable sudo. Run this once as root:" >&2
    echo "  apt-get update && ${command[*]}" >&2
    exit 1
  fi
fi
echo "Installing them with: ${as_root[*]:+${as_root[*]} }${command[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    echo "install_packages.sh: '$*' failed (above: the end of its output)" >&2
    exit 1
  fi
}
run apt-get update -q
run "${command[@]}"
echo "Installed ${#missing[@]} packages."
