"""Stored number formats and their roundings. numpy has no bfloat16, so it travels as uint16."""
from __future__ import annotations

import numpy as np

from convert import ConvertError

# How each format's elements lie in memory.
STORED = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
# Names used in config.json and on the command line.
CONFIG_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Half the distance of neighbours near 1, and near zero.
HALF_ULP = {"F32": (2.0 ** -24, 2.0 ** -150), "F16": (2.0 ** -11, 2.0 ** -25),
            "BF16": (2.0 ** -8, 2.0 ** -134)}


def config_name(dtype: str) -> str:
    return next(name for name, code in CONFIG_NAMES.items() if code == dtype)


def widen(raw: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values of stored elements; exact."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32)


def narrow(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """float32 values rounded to nearest even. Refuses finite values that would become infinite."""
    if dtype == "F32":
        return np.ascontiguousarray(values, dtype=STORED["F32"])
    if dtype == "F16":
        with np.errstate(over="ignore"):
            stored = values.astype(np.float16)
        infinite = np.isinf(stored)
    else:
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        stored = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
        infinite = (stored & 0x7FFF) == 0x7F80
    if infinite.any():
        largest = float(np.abs(values[infinite]).max())
        raise ConvertError(f"tensor {name}: value {largest:g} is too large for "
                           f"{config_name(dtype)}; choose another --dtype")
    return stored
