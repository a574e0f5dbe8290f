"""Training through LoLA's memory: attention of a teacher replaced, batch by batch, by windows,
sparse caches and absorbed pairs, so that weights and feature maps learn to be read that way.

Only here does a model meet in training what it has in use: memory at one constant distance.
"""
from __future__ import annotations

import torch

from linear_attention import FeatureMaps, hybrid_attention
from llama import Llama


class SparsePath:
    """The feature maps of a linearised model, and the switch between it and its teacher."""

    def __init__(self, model: Llama, tensors: dict[str, torch.Tensor], chunk: int,
                 memory_distance: int = 128, mass_cap: float = 512.0, redundancy: float = 0.3):
        self.model, self.chunk = model, chunk
        self.memory_distance, self.mass_cap = memory_distance, mass_cap
        self.redundancy = redundancy
        self.maps = [FeatureMaps.load(tensors, i) for i in range(model.c.layers)]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The maps as a model directory names them."""
        return {k: t for i, maps in enumerate(self.maps) for k, t in maps.tensors(i).items()}

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for maps in self.maps for p in maps.parameters()]

    def attention(self, layer: int, constant: bool, pairs: int):
        """What stands in for Attention.mix: profile lifelong if `constant`, else paper."""
        maps, theta = self.maps[layer], self.model.c.theta
        distance, cap, redundancy = ((self.memory_distance, self.mass_cap, self.redundancy)
                                     if constant else (None, 0.0, 0.0))

        def mix(q, k, v, cos, sin) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                y = hybrid_attention(maps, q.float(), k.float(), v.float(), theta, self.chunk,
                                     distance, cap, pairs, redundancy)
            return y.to(v.dtype)

        return mix

    def enter(self, constant: bool, pairs: int) -> None:
        """Until `leave`, forward passes go through memory."""
        for i, layer in enumerate(self.model.model.layers):
            layer.self_attn.mix = self.attention(i, constant, pairs)

    def leave(self) -> None:
        """Forward passes are the teacher's again."""
        for layer in self.model.model.layers:
            layer.self_attn.__dict__.pop("mix", None)
