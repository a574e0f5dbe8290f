"""Reads tensors from a torch.save file without torch and without running what it says.

Such a file is a zip archive: a pickle that describes the tensors, and one member per storage. A
pickle is a program, so it is read twice. First its instructions are listed without running them;
anything beyond building dictionaries, tuples and numbers ends the reading. Then it runs with a
lookup that knows five names, all of them ours. Lengths, offsets and strides are checked against
the storages before a view is made.
"""
from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import zipfile
from pathlib import Path

import numpy as np

from convert import ConvertError
from convert.dtypes import STORED
from convert.tensor_files import Tensor

PICKLE_BYTES_MAX = 64 << 20
STORAGE_BYTES_MAX = 16 << 30  # of one file, all storages together
DIMENSIONS_MAX = 8
# What torch.save writes for state dictionaries, in any pickle protocol.
INSTRUCTIONS = frozenset("""
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1 BINFLOAT
    BINUNICODE SHORT_BINUNICODE EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    APPEND APPENDS SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE
    GLOBAL STACK_GLOBAL BINPERSID REDUCE BUILD""".split())
STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
            "DoubleStorage": "F64", "LongStorage": "I64", "IntStorage": "I32"}
WRAPPER = "model_state_dict"  # of checkpoints written while training


class _Storage:
    """One storage of the archive: element type and name, read when a tensor asks for it."""

    def __init__(self, dtype: str, key: str, count: int):
        self.dtype, self.key, self.count = dtype, key, count


class _Reader(pickle.Unpickler):
    def __init__(self, archive: "_Archive", program: bytes):
        super().__init__(io.BytesIO(program))
        self._archive = archive

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and name in STORAGES:
            return name
        known = {("collections", "OrderedDict"): collections.OrderedDict,
                 ("torch._utils", "_rebuild_tensor_v2"): self._archive.tensor,
                 ("torch._utils", "_rebuild_parameter"): lambda data, *_: data}
        if (module, name) not in known:
            raise ConvertError(f"it asks for {module}.{name}; only tensors are read")
        return known[module, name]

    def persistent_load(self, pid: object) -> _Storage:
        if (not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage"
                or pid[1] not in STORAGES or not isinstance(pid[2], str)
                or not isinstance(pid[4], int) or pid[4] < 0):
            raise ConvertError(f"storage reference {str(pid)[:80]!r} is malformed")
        return _Storage(STORAGES[pid[1]], pid[2], pid[4])


class _Archive:
    """The zip archive, and the function that turns descriptions into tensors."""

    def __init__(self, file: zipfile.ZipFile):
        self._file = file
        self._storages: dict[str, np.ndarray] = {}
        programs = [n for n in file.namelist() if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(programs) != 1:
            raise ConvertError(f"has {len(programs)} members named data.pkl, expected 1")
        self._prefix = programs[0].removesuffix("data.pkl")
        total = 0
        for member in file.infolist():
            total += member.file_size
            if member.compress_type != zipfile.ZIP_STORED:
                raise ConvertError(f"member {member.filename} is compressed; torch.save never is")
        if total > STORAGE_BYTES_MAX:
            raise ConvertError(f"holds {total} bytes, at most {STORAGE_BYTES_MAX} are read")
        order = self._prefix + "byteorder"
        if order in file.namelist() and file.read(order).strip() != b"little":
            raise ConvertError("byteorder: only little is read")

    def program(self) -> bytes:
        size = self._file.getinfo(self._prefix + "data.pkl").file_size
        if size > PICKLE_BYTES_MAX:
            raise ConvertError(f"data.pkl has {size} bytes, at most {PICKLE_BYTES_MAX} are read")
        return self._file.read(self._prefix + "data.pkl")

    def _storage(self, storage: _Storage) -> np.ndarray:
        if storage.key in self._storages:
            return self._storages[storage.key]
        stored = STORED.get(storage.dtype)
        if stored is None:
            raise ConvertError(f"a tensor of type {storage.dtype}; known: {', '.join(STORED)}")
        name = f"{self._prefix}data/{storage.key}"
        try:
            data = self._file.read(name)
        except KeyError:
            raise ConvertError(f"member {name} is missing") from None
        if len(data) != storage.count * stored.itemsize:
            raise ConvertError(f"member {name} has {len(data)} bytes, {storage.count} elements of "
                               f"{storage.dtype} expected")
        self._storages[storage.key] = np.frombuffer(data, stored)
        return self._storages[storage.key]

    def tensor(self, storage: object, offset: object, shape: object, stride: object,
               *_: object) -> Tensor:
        """torch._utils._rebuild_tensor_v2: a strided view of a storage."""
        numbers = [offset, *shape, *stride] if (
            isinstance(shape, tuple) and isinstance(stride, tuple)) else [None]
        if (not isinstance(storage, _Storage) or len(shape) != len(stride)
                or len(shape) > DIMENSIONS_MAX
                or not all(isinstance(n, int) and n >= 0 for n in numbers)):
            raise ConvertError("a tensor's description is malformed")
        count = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride)) if count else offset
        if last >= storage.count or count > storage.count:
            raise ConvertError(f"a tensor of shape {shape}, stride {stride} and offset {offset} "
                               f"leaves its storage of {storage.count} elements")
        flat = self._storage(storage)[offset:]
        steps = [s * flat.itemsize for s in stride]
        view = np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
        return Tensor(storage.dtype, tuple(shape), np.ascontiguousarray(view))


def _check_program(program: bytes) -> None:
    """Lists the instructions without running them; refuses others and far-away memo slots."""
    for instruction, argument, _ in pickletools.genops(program):
        if instruction.name not in INSTRUCTIONS:
            raise ConvertError(f"its pickle uses {instruction.name}; only tensors are read")
        if instruction.name in ("BINPUT", "LONG_BINPUT") and argument > len(program):
            raise ConvertError(f"its pickle uses memo slot {argument}")


def _unwrap(content: object) -> dict[str, Tensor]:
    """The tensors by name; a training checkpoint keeps them one level deeper."""
    if isinstance(content, dict) and isinstance(content.get(WRAPPER), dict):
        content = content[WRAPPER]
    if not isinstance(content, dict):
        raise ConvertError(f"holds a {type(content).__name__}, expected a dictionary of tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ConvertError(f"entry {str(name)[:80]!r} is a {type(tensor).__name__}, expected a "
                               f"tensor (training checkpoints: under {WRAPPER})")
    return dict(content)


def read_torch(path: Path) -> dict[str, Tensor]:
    """All tensors of a file written by torch.save, bare or under `model_state_dict`."""
    try:
        with zipfile.ZipFile(path) as file:
            archive = _Archive(file)
            program = archive.program()
            _check_program(program)
            return _unwrap(_Reader(archive, program).load())
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from None
    except zipfile.BadZipFile:
        raise ConvertError(f"{path}: not a file of torch.save (zip format, torch 1.6 or newer)"
                           ) from None
    except OSError as error:
        raise ConvertError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # whatever a malformed pickle makes Python raise
        raise ConvertError(f"{path}: damaged: {type(error).__name__}: {error}") from None
