#!/usr/bin/python3
"""Generates the Python messages and gRPC stubs from proto/lola/v1 (protoc and its Python plugin).

Usage: generate_stubs.py [--out DIR]      default: build/python at the root of the checkout
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"


def newest(paths):
    return max((p.stat().st_mtime for p in paths), default=0.0)


def generate(out=None):
    """Writes `lola/v1/*_pb2*.py` under `out` unless they are there and newer than the protos.

    Safe when several processes do it at once: files appear whole.
    """
    out = pathlib.Path(out or ROOT / "build" / "python")
    protos = sorted(PROTO.glob("lola/v1/*.proto"))
    wanted = [out / p.relative_to(PROTO).with_name(p.stem + "_pb2_grpc.py") for p in protos]
    if all(p.exists() for p in wanted):
        if min(p.stat().st_mtime for p in wanted) >= newest(protos):
            return out
    for tool in ("protoc", "grpc_python_plugin"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} not found: run deploy/install_packages.sh")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as fresh:
        subprocess.run(
            ["protoc", f"-I{PROTO}", f"--python_out={fresh}", f"--grpc_out={fresh}",
             f"--plugin=protoc-gen-grpc={shutil.which('grpc_python_plugin')}",
             *(str(p) for p in protos)], check=True)
        for made in pathlib.Path(fresh).rglob("*.py"):
            place = out / made.relative_to(fresh)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(made, place)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="folder to write to (default: build/python)")
    args = parser.parse_args()
    try:
        print(generate(args.out))
    except (RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"generate_stubs.py: {error}")


if __name__ == "__main__":
    main()
