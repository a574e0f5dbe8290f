"""Where each output tensor's values come from: copied, rounded, or merged with LoRA."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator

import numpy as np

from convert.adapters import FACTORS, MAPS, Adapters, Lora, check_finite
from convert.base_model import BaseModel
from convert.dtypes import STORED, narrow
from convert.tensor_files import Output, Tensor


@dataclass(frozen=True)
class Source:
    """One output tensor: stored elements, and the update that is added to them, if any."""

    name: str
    tensor: Tensor
    dtype: str
    lora: Lora | None = None
    scale: float = 0.0

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows first..last as they are written.

        W + scale * B A in float32, the products added one rank after the other: every machine
        gets the same bits.
        """
        raw = np.asarray(self.tensor.raw[first:last])
        values = self.tensor.values(first, last)
        check_finite(self.name, values, first)
        if self.lora is None:
            return raw if self.dtype == self.tensor.dtype else narrow(
                values, self.dtype, self.name)
        a, b = self.lora.a.values(), self.lora.b.values(first, last)
        update = np.zeros_like(values)
        for rank in range(self.lora.rank):
            update += b[:, rank, None] * a[rank]
        merged = values + np.float32(self.scale) * update
        check_finite(self.name, merged, first)
        return narrow(merged, self.dtype, self.name)

    def output(self) -> Output:
        def blocks() -> Iterator[np.ndarray]:
            for first, last in self.tensor.row_blocks():
                yield self.rows(first, last)
        return Output(self.name, self.dtype, self.tensor.shape, blocks)


def lora_scale(rank: int, alpha: float, rank_stabilised: bool) -> float:
    return alpha / (math.sqrt(rank) if rank_stabilised else rank)


def make_sources(base: BaseModel, adapters: Adapters, dtype: str | None,
                 alpha: float) -> list[Source]:
    """All output tensors in writing order; `dtype` None keeps each tensor's own."""
    sources = []
    for name, tensor in base.tensors.items():
        layer, leaf = _place(name)
        lora = adapters.lora.get((layer, leaf)) if layer is not None else None
        scale = lora_scale(lora.rank, alpha, adapters.rank_stabilised) if lora else 0.0
        sources.append(Source(name, tensor, dtype or tensor.dtype, lora, scale))
        if leaf == "post_attention_layernorm":
            for part in (*MAPS, FACTORS):
                memory = adapters.memory[layer, part]
                assert memory.dtype in STORED
                sources.append(Source(f"model.layers.{layer}.self_attn.{part}", memory,
                                      memory.dtype))
    return sources


def _place(name: str) -> tuple[int | None, str]:
    parts = name.removesuffix(".weight").split(".", 3)
    if parts[:2] != ["model", "layers"]:
        return None, name
    return int(parts[2]), parts[3]
