#!/usr/bin/env bash
# Gathers what tests/gpu/run.sh needs on a GPU machine that lacks our packages: tests/gpu/bundle.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'USAGE'
Usage: tests/gpu/bundle.sh [--build DIR] [--out DIR]

Builds the device's tests, its benchmark and the CUDA plug-in (nvcc is needed, a GPU is not), and
copies them with the shared libraries they use, stripped, into one folder that git ignores. Carry
that folder to the GPU machine and run tests/gpu/run.sh there.

  --build DIR  build folder, configured already (default build/release)
  --out DIR    where to (default .gpu)

Not copied: the C and C++ run-time libraries, the driver's, and cuBLAS (hundreds of megabytes): the
GPU machine has its own.
USAGE
}

build=build/release
out=.gpu
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) echo "unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
done

programs="engine_device_agreement_test engine_device_stepper_test engine_device_products_test kernels_cuda_test device_bench"
# shellcheck disable=SC2086
cmake --build "$build" --target lola_kernels_cuda $programs
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
echo '*' > "$out/.gitignore"
for program in $programs; do
  strip -o "$out/bin/$program" "$build/bin/$program"
done
# Beside the programs, where kernels/cuda/plugin.cc looks first.
strip --strip-unneeded -o "$out/bin/liblola_kernels_cuda.so" "$build/bin/liblola_kernels_cuda.so"

# Libraries of the target itself: the loader, glibc, the C++ run time, CUDA.
own='/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s|cuda|cublas|cublasLt|cudart)\.so[^/]*)$'
ldd "$out"/bin/* | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u | grep -Ev "$own" |
  while read -r library; do
    strip --strip-unneeded -o "$out/lib/$(basename "$library")" "$library"
  done

# Nothing but the target's own libraries may come from elsewhere.
elsewhere=$(LD_LIBRARY_PATH="$PWD/$out/lib" ldd "$out"/bin/*_test "$out"/bin/device_bench |
  awk '$2 == "=>" {print $3}' | sort -u | grep -v "^$PWD/$out/lib/" | grep -Ev "$own" || true)
if [ -n "$elsewhere" ]; then
  echo "not in the bundle: $elsewhere" >&2
  exit 1
fi
bytes=$(du -sb "$out" | cut -f1)
echo "$out: $(find "$out/lib" -type f | wc -l) libraries, $((bytes / 1048576)) MiB"
