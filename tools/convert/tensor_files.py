"""safetensors files: a checked reader over memory maps, and a writer that streams."""
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from convert import ConvertError
from convert.dtypes import STORED, widen

HEADER_BYTES_MAX = 100_000_000
ROWS_BYTES = 16 << 20  # of one block while streaming
ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
              "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True)
class Tensor:
    """Stored elements, not yet read when they lie in a mapped file."""

    dtype: str
    shape: tuple[int, ...]
    raw: np.ndarray  # shape `shape`, elements as STORED[dtype]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def values(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Rows first..last as float32."""
        return widen(np.asarray(self.raw[first:last]), self.dtype)

    def row_blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows of at most ROWS_BYTES as float32."""
        rows = self.shape[0] if self.shape else 1
        width = max(1, math.prod(self.shape[1:]) * 4)
        step = max(1, ROWS_BYTES // width)
        for first in range(0, rows, step):
            yield first, min(rows, first + step)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(where: str, entry: object, data_bytes: int) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape and byte range of one header entry, checked against the file's size."""
    if not isinstance(entry, dict):
        raise ConvertError(f"{where}: not an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if dtype not in ITEM_BYTES:
        raise ConvertError(f"{where}.dtype: {dtype!r} is unknown")
    if not isinstance(shape, list) or not all(map(_is_count, shape)) or len(shape) > 8:
        raise ConvertError(f"{where}.shape: {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ConvertError(f"{where}.data_offsets: {offsets!r}")
    begin, end = offsets
    need = math.prod(shape) * ITEM_BYTES[dtype]
    if not begin <= end <= data_bytes or end - begin != need:
        raise ConvertError(f"{where}: shape {shape} of {dtype} needs {need} bytes, data_offsets "
                           f"{offsets} in a data section of {data_bytes} bytes")
    return dtype, tuple(shape), begin, end


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, mapped. Formats without a use here are listed with an empty view."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > HEADER_BYTES_MAX or length > size - 8:
            raise ConvertError(f"{path}: header length {length} in a file of {size} bytes")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ConvertError(f"{path}: header: {error}") from None
    if not isinstance(header, dict):
        raise ConvertError(f"{path}: header is not a JSON object")
    start, tensors = 8 + length, {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, begin, end = _entry(f"{path}: tensor {name}", entry, size - start)
        stored = STORED.get(dtype)
        if stored is None or begin == end:
            raw = np.empty(0, np.uint8)
        else:
            raw = np.memmap(path, stored, "r", start + begin, shape or (1,))
        tensors[name] = Tensor(dtype, shape, raw)
    return tensors


def find_files(directory: Path) -> list[Path]:
    """The weight files of a Hugging Face directory, from its index when it has one."""
    index_path = directory / "model.safetensors.index.json"
    if not index_path.exists():
        single = directory / "model.safetensors"
        if single.exists():
            return [single]
        hint = " (pytorch_model.bin is not read: save the model as safetensors first)" if (
            list(directory.glob("pytorch_model*.bin"))) else ""
        raise ConvertError(f"{single}: missing{hint}")
    try:
        names = set(json.loads(index_path.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ConvertError(f"{index_path}: weight_map: missing or not an object") from None
    for name in names:
        if not isinstance(name, str) or "/" in name or not name.endswith(".safetensors"):
            raise ConvertError(f"{index_path}: weight_map names the file {name!r}")
        if not (directory / name).exists():
            raise ConvertError(f"{directory / name}: missing, though {index_path.name} names it")
    return sorted(directory / name for name in names)


def read_directory(directory: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face directory."""
    tensors: dict[str, Tensor] = {}
    for path in find_files(directory):
        for name, tensor in read_safetensors(path).items():
            if name in tensors:
                raise ConvertError(f"{path}: tensor {name} stands in another file too")
            tensors[name] = tensor
    return tensors


@dataclass(frozen=True)
class Output:
    """A tensor to write: its place in the header, and where its blocks come from, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def write_safetensors(path: Path, outputs: list[Output], progress: Callable[[int], None]) -> None:
    """Writes one file block by block; `progress` hears the bytes of each block."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for output in outputs:
        header[output.name] = {"dtype": output.dtype, "shape": list(output.shape),
                               "data_offsets": [at, at + output.nbytes]}
        at += output.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for output in outputs:
            before = file.tell()
            for block in output.blocks():
                stored = np.ascontiguousarray(block, dtype=STORED[output.dtype])
                file.write(stored.tobytes())
                progress(stored.nbytes)
            written = file.tell() - before
            if written != output.nbytes:
                raise AssertionError(f"{output.name}: wrote {written}, planned {output.nbytes}")
