"""Reads the written directory again and compares it with a second, independent computation.

Sampled rows of every merged matrix are computed once more from the inputs in float64, with a
matrix product instead of the merge's sum over ranks; all other tensors must hold the inputs' rows.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from convert import ConvertError
from convert.dtypes import HALF_ULP
from convert.merge import Source
from convert.tensor_files import read_directory


def expected_rows(source: Source, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 values of some rows, and how far the float32 merge may be from each.

    A float32 sum of r products and the addition to W rounds at most r + 3 times, each time by
    2^-24 of the sum of magnitudes; rounding to the written format adds half of its last place.
    """
    exact = source.tensor.raw[rows]
    exact = source.tensor.__class__(source.tensor.dtype, exact.shape, exact).values()
    exact = exact.astype(np.float64)
    slack = np.zeros_like(exact)
    if source.lora is not None:
        a = source.lora.a.values().astype(np.float64)
        b = source.lora.b.values().astype(np.float64)[rows]
        size = np.abs(exact) + abs(source.scale) * (np.abs(b) @ np.abs(a))
        exact = exact + source.scale * (b @ a)
        slack = (source.lora.rank + 3) * 2.0 ** -24 * size
    if source.lora is not None or source.dtype != source.tensor.dtype:
        relative, absolute = HALF_ULP[source.dtype]
        slack = slack + relative * (np.abs(exact) + slack) + absolute
    return exact, slack


def check_directory(directory: Path, sources: list[Source], rows_each: int, seed: int) -> int:
    """Raises ConvertError for the first row that is wrong. Returns the number of rows compared."""
    written = read_directory(directory)
    names = {source.name for source in sources}
    if set(written) != names:
        raise ConvertError(f"self-check: tensors written and planned differ: "
                           f"{sorted(set(written) ^ names)[:3]}")
    random, compared = np.random.default_rng(seed), 0
    for source in sources:
        tensor = written[source.name]
        if tensor.shape != source.tensor.shape or tensor.dtype != source.dtype:
            raise ConvertError(f"self-check: tensor {source.name}: {tensor.dtype} "
                               f"{list(tensor.shape)} was written")
        count = tensor.shape[0]
        rows = np.unique(np.append(random.integers(0, count, rows_each), [0, count - 1]))
        exact, slack = expected_rows(source, rows)
        found = tensor.__class__(tensor.dtype, tensor.shape, tensor.raw[rows]).values()
        apart = np.abs(found.astype(np.float64) - exact)
        wrong = apart > slack
        if wrong.any() or not np.isfinite(found).all():
            at = np.unravel_index(int(np.argmax(apart - slack)), apart.shape)
            raise ConvertError(
                f"self-check: tensor {source.name}, row {rows[at[0]]}: {found[at]!r} was written, "
                f"float64 gives {exact[at]!r} (allowed difference {slack[at]:.3g})")
        compared += len(rows)
    return compared
