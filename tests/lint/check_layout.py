#!/usr/bin/env python3
"""Lint as a test: the rules CONTRIBUTING.md states, checked mechanically.

Usage: check_layout.py [--root DIR] [--no-format]
Prints one line per violation (path:line: rule) and exits 1 if there is any.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100
SOURCE_ENDINGS = {".cc", ".h", ".cu", ".cuh"}
TEXT_ENDINGS = SOURCE_ENDINGS | {".py", ".sh", ".md", ".cmake", ".yaml", ".yml", ".json", ".proto",
                                 ".txt"}

# Which of our own folders a room may include (its own folder is always allowed).
ROOMS = {
    "kernels": [],
    "memory/env": ["memory", "kernels/core"],
    "memory/stream": ["memory", "kernels"],
    "memory/snapshot": ["memory", "memory/stream", "kernels/core"],
    "memory/store": ["memory", "memory/env", "memory/snapshot", "kernels/core"],
    "memory/cluster": ["memory", "memory/env", "kernels/core"],
    "services/engine": ["memory", "memory/env", "memory/stream", "memory/snapshot", "kernels"],
    "services/evaluate": ["memory", "memory/stream", "services/engine", "kernels"],
    "services/rpc": ["memory", "memory/env", "kernels/core"],
    "services/metrics": ["*"],
    "services/gateway": ["memory", "memory/env", "memory/cluster", "services/rpc",
                         "services/metrics", "kernels/core"],
    "services/worker": ["memory", "memory/env", "memory/stream", "memory/snapshot",
                        "memory/cluster", "services/engine", "services/rpc", "services/metrics",
                        "kernels"],
    "services/memory": ["memory", "memory/env", "memory/store", "memory/cluster",
                        "memory/snapshot", "services/rpc", "services/metrics", "kernels/core"],
    "services/standalone": ["*"],
    "services/cli": ["memory", "memory/env", "memory/stream", "memory/cluster", "services/engine",
                     "services/evaluate", "services/rpc", "kernels"],
}
# Libraries a room must never see, as include prefixes.
BANNED_LIBRARIES = {
    "kernels": ["absl/", "grpc", "google/protobuf", "lola/v1", "prometheus", "rocksdb"],
    "memory/stream": ["grpc", "google/protobuf", "lola/v1", "prometheus", "rocksdb"],
    "memory/snapshot": ["grpc", "google/protobuf", "lola/v1", "prometheus", "rocksdb"],
    "memory/store": ["grpc", "prometheus"],
    "services/engine": ["grpc", "google/protobuf", "lola/v1", "prometheus", "rocksdb"],
}
BANNED_CALLS = {
    r"\bstd::system\(": "run programs with tests/support/process.h",
    r"\brand\(\)": "use a seeded generator",
    r"\busing namespace std\b": "write std::",
}
LEFTOVERS = re.compile(r"\b(TODO|FIXME|XXX)\b|\bDISABLED_")
MACHINE_PATH = re.compile(r"(?<![\w.$}/*-])/(work|farm|root|home)/\w")
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')
FUNCTION_START = re.compile(r"^[A-Za-z_~].*[)\w>]\s*(const|noexcept|override)?\s*\{\s*$|^\{\s*$")


def tracked_files(root):
    out = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z"],
                         check=True, capture_output=True, text=True).stdout
    return [pathlib.Path(p) for p in out.split("\0") if p and (root / p).is_file()]


def room_of(path):
    text = path.as_posix()
    matches = [r for r in ROOMS if text.startswith(r + "/")]
    return max(matches, key=len) if matches else None


def own_folder(include):
    """The room-like folder an include names, or None for library headers."""
    top = include.split("/")[0]
    if top not in {"kernels", "memory", "services", "tests"}:
        return None
    parts = include.split("/")
    if top == "kernels":
        return "kernels/core" if parts[1] == "core" else "kernels"
    return "/".join(parts[:2]) if len(parts) > 2 else top


def check_includes(path, lines, report):
    room = room_of(path)
    if room is None:
        return
    allowed = ROOMS[room]
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        include = match.group(2)
        quoted = match.group(1) == '"'
        for banned in BANNED_LIBRARIES.get(room, []):
            if include.startswith(banned):
                report(path, number, f"{room} must not include {include}")
        folder = own_folder(include) if quoted else None
        if folder is None or "*" in allowed or folder == room or folder.startswith(room + "/"):
            continue
        if room == "kernels" and folder == "kernels/core":
            continue
        if folder == "kernels/core" and "kernels" in allowed:
            continue
        if folder not in allowed:
            report(path, number, f"include rule: {room} must not include {include}")


def check_sizes(path, lines, report):
    if len(lines) > FILE_LINES_MAX:
        report(path, len(lines), f"file has {len(lines)} lines, limit {FILE_LINES_MAX}")
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_COLUMNS_MAX and "http" not in line:
            report(path, number, f"line has {len(line)} columns, limit {LINE_COLUMNS_MAX}")
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and FUNCTION_START.match(line) and not line.startswith(
                ("namespace", "class", "struct", "enum", "extern", "union")):
            start = number
        elif start is not None and line.startswith("}"):
            length = number - start + 1
            if length > FUNCTION_LINES_MAX:
                report(path, start, f"function has {length} lines, limit {FUNCTION_LINES_MAX}")
            start = None


def check_text(path, lines, report):
    for number, line in enumerate(lines, 1):
        if path.name == "check_layout.py":
            continue
        if LEFTOVERS.search(line):
            report(path, number, "leftover marker or disabled test")
        if MACHINE_PATH.search(line):
            report(path, number, "absolute machine path")
        if path.suffix in SOURCE_ENDINGS:
            for call, instead in BANNED_CALLS.items():
                if re.search(call, line):
                    report(path, number, f"banned: {call}; {instead}")


def check_dead_files(root, files, report):
    """A source file that no CMakeLists.txt names and a header that nobody includes are dead."""
    cmake = "\n".join((root / f).read_text(errors="replace") for f in files
                      if f.name == "CMakeLists.txt" or f.suffix == ".cmake")
    words = set(re.findall(r"\w+", cmake))  # a foreach over names lists tests without "_test.cc"
    sources = [f for f in files if f.suffix in SOURCE_ENDINGS]
    included = set()
    for f in sources:
        for line in (root / f).read_text(errors="replace").splitlines():
            match = INCLUDE.match(line)
            if match:
                included.add(match.group(2))
    foreach_target = {f.as_posix() for f in sources
                      if "HWY_TARGET_INCLUDE" in (root / f).read_text(errors="replace")}
    for f in sources:
        named = (f.name in cmake or f.as_posix() in foreach_target or
                 f.stem.endswith("_test") and f.stem.removesuffix("_test") in words)
        if f.suffix in {".cc", ".cu"} and not named:
            report(f, 1, "dead file: no CMakeLists.txt names it")
        if f.suffix in {".h", ".cuh"} and f.as_posix() not in included:
            report(f, 1, "dead header: nobody includes it")


def check_header_guard(path, lines, report):
    if path.suffix not in {".h", ".cuh"} or any(l.startswith("HWY_BEFORE") for l in lines):
        return
    guard = "LOLA_" + re.sub(r"[^A-Za-z0-9]", "_", path.as_posix()).upper() + "_"
    if not any(guard in line for line in lines[:40]):
        report(path, 1, f"header guard should be {guard}")


def check_format(root, files, report):
    tool = shutil.which("clang-format")
    if tool is None:
        print("clang-format not found: formatting NOT checked", file=sys.stderr)
        return
    sources = [f.as_posix() for f in files if f.suffix in SOURCE_ENDINGS]
    if not sources:
        return
    done = subprocess.run([tool, "--dry-run", "-Werror", *sources], cwd=root,
                          capture_output=True, text=True)
    seen = set()
    for line in done.stderr.splitlines():
        match = re.match(r"(.+?):(\d+):\d+: error", line)
        if match and match.group(1) not in seen:
            seen.add(match.group(1))
            report(pathlib.Path(match.group(1)), int(match.group(2)),
                   "formatting: run tests/lint/fix_format.sh")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=pathlib.Path(__file__).resolve().parents[2],
                        type=pathlib.Path, help="checkout to look at (default: this one)")
    parser.add_argument("--no-format", action="store_true", help="skip clang-format")
    args = parser.parse_args()
    violations = []

    def report(path, line, text):
        violations.append(f"{path}:{line}: {text}")

    files = tracked_files(args.root)
    for path in files:
        if path.suffix not in TEXT_ENDINGS and path.name not in {"run", "Dockerfile"}:
            continue
        if path.as_posix().startswith("tests/testdata/") or path.suffix == ".json":
            continue
        lines = (args.root / path).read_text(errors="replace").splitlines()
        check_text(path, lines, report)
        if path.suffix in SOURCE_ENDINGS or path.suffix == ".py":
            check_sizes(path, lines, report)
        if path.suffix in SOURCE_ENDINGS:
            check_includes(path, lines, report)
            check_header_guard(path, lines, report)
    check_dead_files(args.root, files, report)
    if not args.no_format:
        check_format(args.root, files, report)
    for violation in sorted(violations):
        print(violation)
    print(f"{len(files)} files, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
