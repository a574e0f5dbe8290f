"""Shapes and settings of the comparison, and the bytes and operations they imply.

The same values as services/engine/model.cc (NamedGeometry) and tests/bench/device (BenchSettings).
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """A Llama-style decoder; `features` is F, both halves of LoLA's feature map."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    features: int
    ffn: int
    vocab: int
    tied: bool
    theta: float = 500000.0
    eps: float = 1e-5

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def layer_parameters(self) -> int:
        """Of all layers' products."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.layers * self.hidden * (2 * q + 2 * kv + 3 * self.ffn)

    @property
    def read_parameters(self) -> int:
        """What a decode step reads: layers and output head, one row of the token table."""
        return self.layer_parameters + self.vocab * self.hidden

    def kv_bytes(self, element: int) -> int:
        """Of a softmax cache, per token."""
        return self.layers * 2 * self.kv_heads * self.head_dim * element


@dataclass(frozen=True)
class Memory:
    """LoLA's settings: profile lifelong, caches shared by the query heads of a kv head."""

    window: int = 128  # eta
    chunk: int = 128  # C
    pairs: int = 768  # lambda
    distance: int = 128
    mass_cap: float = 512.0
    redundancy: float = 0.3
    score_epsilon: float = 1e-6

    @property
    def rows(self) -> int:
        """Of the window's buffer."""
        return self.window + self.chunk

    @property
    def candidates(self) -> int:
        """Pairs of one event."""
        return self.pairs + self.chunk

    def state_bytes(self, g: Geometry, element: int) -> int:
        """Of one stream in the PyTorch peer: rotated window keys are held beside plain ones."""
        pairs = 2 * (self.pairs + self.rows) + self.rows
        linear = g.heads * g.features * (g.head_dim + 1) * 4
        small = g.kv_heads * self.pairs * 9  # positions, live flags
        return g.layers * (g.kv_heads * pairs * g.head_dim * element + linear + small)

    def read_bytes(self, g: Geometry, element: int) -> float:
        """What a decode step must read of one stream, on average over a chunk."""
        pairs = 2 * (self.pairs + self.window + self.chunk / 2) * g.kv_heads * g.head_dim
        return g.layers * (pairs * element + g.heads * g.features * (g.head_dim + 1) * 4)


GEOMETRIES = {g.name: g for g in (
    Geometry("llama-3.1-8b", 32, 4096, 32, 8, 128, 128, 14336, 128256, False),
    Geometry("llama-3.2-1b", 16, 2048, 32, 8, 64, 128, 8192, 128256, True),
    Geometry("tiny", 2, 64, 8, 2, 16, 32, 96, 272, True),
)}
TINY_MEMORY = Memory(window=16, chunk=16, pairs=24, distance=16, mass_cap=20.0)
