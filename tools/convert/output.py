"""Writes the converted directory: complete under its final name, or not there at all."""
from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from convert import ConvertError
from convert.merge import Source
from convert.tensor_files import write_safetensors


class Progress:
    """Bytes done of bytes planned, on standard error, at most twice a second."""

    def __init__(self, total: int, quiet: bool):
        self._total, self._quiet = total, quiet
        self._done, self._shown = 0, time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if not self._quiet and (now - self._shown > 0.5):
            self._shown = now
            share = 100 * self._done // max(1, self._total)
            print(f"  {share}% of {human(self._total)}", file=sys.stderr, flush=True)


def human(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def make_shards(sources: list[Source], shard_bytes: int) -> list[list[Source]]:
    """Tensors in order, at most shard_bytes a file unless one tensor alone is larger."""
    shards: list[list[Source]] = [[]]
    size = 0
    for source in sources:
        nbytes = source.output().nbytes
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(source)
        size += nbytes
    return shards


def shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=True) + "\n")


def check_target(target: Path, nbytes: int) -> None:
    """The target must not exist, its parent must, with room for all of it."""
    if target.exists() or target.is_symlink():
        raise ConvertError(f"{target}: exists already; name a new directory")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise ConvertError(f"{parent}: not a directory")
    free = shutil.disk_usage(parent).free
    if free < nbytes + (64 << 20):
        raise ConvertError(f"{parent}: {human(free)} free, the model needs {human(nbytes)}")


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A directory that takes its final name when the block ends, and vanishes when it fails."""
    parent = target.absolute().parent
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=parent))
    try:
        yield part
        for path in (*part.iterdir(), part):
            path.chmod(0o755 if path.is_dir() else 0o644)
            _sync(path)
        if target.exists():
            raise ConvertError(f"{target}: appeared while converting")
        part.rename(target)
        _sync(parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_weights(directory: Path, sources: list[Source], shard_bytes: int, quiet: bool) -> None:
    shards = make_shards(sources, shard_bytes)
    names, weight_map = shard_names(len(shards)), {}
    total = sum(source.output().nbytes for source in sources)
    progress = Progress(total, quiet)
    for name, shard in zip(names, shards):
        write_safetensors(directory / name, [source.output() for source in shard], progress)
        weight_map |= {source.name: name for source in shard}
    if len(shards) > 1:
        write_json(directory / "model.safetensors.index.json",
                   {"metadata": {"total_size": total}, "weight_map": weight_map})
