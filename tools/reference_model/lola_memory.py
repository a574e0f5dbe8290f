"""LoLA's memory of one layer, step by step: read, score, keep, absorb.

Everything is float32, rotary angles are float64. Nothing is clever here: each step of the
definition is one short function, and all batch rows and heads move together.

State per layer (leading axes [batch, query heads]):
  window   raw keys and values of the newest eta + C rows at most
  cache    the sparse cache G: keys as memory sees them, values, positions, scores
  H, s, n  absorbed pairs: sum phi(k) v^T, sum phi(k), count
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Settings:
    """Everything that changes the result of a stream."""

    mode: str = "lola"  # softmax | base (lambda = 0) | lola
    window: int = 64
    chunk: int = 64
    cache_pairs: int = 64
    memory_positions: str = "rotary"  # rotary | constant
    memory_distance: int = 128
    mass_cap: float = 0.0
    redundancy_threshold: float = 0.0
    mixing: str = "gated_natural"  # gated_natural | natural | lolcats
    score: str = "sre"  # sre, or a control: value_norm | random | leave_one_out
    score_epsilon: float = 1e-6
    cache_pairs_per_layer: tuple[int, ...] = ()  # replaces cache_pairs when not empty

    def pairs(self, layer: int) -> int:
        """Capacity of a layer's sparse cache, per query head."""
        if self.mode != "lola":
            return 0
        return self.cache_pairs_per_layer[layer] if self.cache_pairs_per_layer else (
            self.cache_pairs)


PAPER = Settings()
LIFELONG = replace(PAPER, memory_positions="constant", mass_cap=512.0,
                   redundancy_threshold=0.3, cache_pairs=128)


def rotate(x: Tensor, positions: Tensor, freq: Tensor) -> Tensor:
    """R(position) x over the half-split pairs; positions run along the second last axis."""
    angle = torch.remainder(positions.double()[:, None] * freq, 2 * math.pi)
    cos, sin = angle.cos().float(), angle.sin().float()
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def feature_map(x: Tensor, weight: Tensor) -> Tensor:
    """phi(x) for x [batch, heads, rows, d] and one weight [d, f] per head."""
    z = torch.einsum("bhnd,hdf->bhnf", x, weight)
    return torch.cat((z.softmax(-1), (-z).softmax(-1)), dim=-1).clamp_min(1e-12)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Gathers rows of x [batch, heads, rows, width] by index [batch, heads, count]."""
    return x.gather(2, index[..., None].expand(*index.shape, x.shape[-1]))


def near_count(v: Tensor, threshold: float) -> Tensor:
    """For each value the number of values, itself included, within threshold * |v| of it.

    Distances come from inner products, in float64 because they cancel.
    """
    wide = v.double()
    energy = wide.square().sum(-1)
    apart = energy[..., None] + energy[..., None, :] - 2 * wide @ wide.transpose(-1, -2)
    # A value that equals another one up to rounding may come out a hair below zero.
    return (apart.clamp_min(0.0) <= threshold ** 2 * energy[..., None]).sum(-1)


class LayerMemory:
    """The LoLA state of one layer and the two things done with it: read and event."""

    def __init__(self, settings: Settings, layer: int, tensors: dict, freq: Tensor,
                 shape: tuple[int, int, int]):
        self.settings, self.freq = settings, freq
        self.pairs = settings.pairs(layer)
        batch, heads, dim = shape
        self.start = 0  # position of the oldest window row
        self.k = torch.zeros(batch, heads, 0, dim)
        self.v = torch.zeros(batch, heads, 0, dim)
        if settings.mode == "softmax":
            return
        self.map_q, self.map_k = tensors["q"], tensors["k"]
        self.gate = torch.sigmoid(tensors["gate"].view(1, heads, 1))
        features = 2 * self.map_k.shape[-1]
        self.H = torch.zeros(batch, heads, features, dim)
        self.s = torch.zeros(batch, heads, features)
        self.n = 0
        self.cache_k, self.cache_v = self.k, self.v
        self.cache_position = torch.zeros(batch, heads, 0, dtype=torch.int64)
        self.cache_score = torch.zeros(batch, heads, 0)
        self.random = torch.Generator().manual_seed(7)

    @property
    def rotary(self) -> bool:
        return self.settings.mode == "softmax" or self.settings.memory_positions == "rotary"

    def read(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        """Appends rows of one chunk at positions first.. and returns their outputs."""
        self.k, self.v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        rows = torch.arange(self.start, self.start + self.k.shape[2])
        places = torch.arange(first, first + q.shape[2])
        # Only differences matter inside the window: count from its oldest row.
        origin = 0 if self.rotary else self.start
        q_window = rotate(q, places - origin, self.freq)
        k_window = rotate(self.k, rows - origin, self.freq)
        scale = 1 / math.sqrt(q.shape[-1])
        logits = q_window @ k_window.transpose(-1, -2) * scale
        logits = logits.masked_fill(rows > places[:, None], -math.inf)
        values = self.v
        if self.settings.mode == "softmax":
            return logits.softmax(-1) @ values
        q_memory = q_window
        if not self.rotary:
            distance = torch.tensor([self.settings.memory_distance])
            q_memory = rotate(q, distance, self.freq)
        if self.cache_k.shape[2]:
            logits = torch.cat((q_memory @ self.cache_k.transpose(-1, -2) * scale, logits), -1)
            values = torch.cat((self.cache_v, values), 2)
        return self.combine(logits, values, q_memory)

    def combine(self, logits: Tensor, values: Tensor, q_memory: Tensor) -> Tensor:
        """Softmax terms and linear terms under one denominator."""
        if self.n == 0:
            return logits.softmax(-1) @ values
        cap = self.settings.mass_cap
        a = min(1.0, cap / self.n) if cap > 0 else 1.0
        phi = feature_map(q_memory, self.map_q)
        linear, mass = a * (phi @ self.H), a * torch.einsum("bhnf,bhf->bhn", phi, self.s)
        top, epsilon = logits.amax(-1), 1e-6
        w_soft, w_linear = self.gate, 1 - self.gate
        if self.settings.mixing == "natural":
            w_soft = w_linear = torch.ones_like(self.gate)
        shift = top.clamp_min(0.0)
        if self.settings.mixing == "lolcats":
            shift, epsilon = top, 0.0
            soft = self.gate[..., None] * torch.exp(logits - shift[..., None])
            w_linear = torch.ones_like(top)
        else:
            soft = w_soft[..., None] * torch.exp(logits - shift[..., None])
            w_linear, epsilon = w_linear * torch.exp(-shift), epsilon * torch.exp(-shift)
        numerator = soft @ values + w_linear[..., None] * linear
        return numerator / (soft.sum(-1) + w_linear * mass + epsilon)[..., None]

    def event(self, end: int) -> None:
        """Evicts the oldest chunk after the token at end - 1, keeps the best, absorbs the rest."""
        settings, count = self.settings, self.settings.chunk
        position = torch.arange(self.start, self.start + count)
        k = self.k[:, :, :count]
        k = rotate(k, position, self.freq) if self.rotary else k
        position = position.expand(*k.shape[:2], count)
        k = torch.cat((self.cache_k, k), 2)
        v = torch.cat((self.cache_v, self.v[:, :, :count]), 2)
        position = torch.cat((self.cache_position, position), 2)
        self.k, self.v = self.k[:, :, count:], self.v[:, :, count:]
        self.start += count
        score = torch.zeros(position.shape)
        if k.shape[2] <= self.pairs:
            self._keep(k, v, position, score)
            return
        phi = feature_map(k, self.map_k)
        score = self.score(phi, v)
        # Rows stand in ascending position, so a stable sort breaks ties by position.
        order = score.argsort(dim=2, descending=True, stable=True)
        kept = order[:, :, :self.pairs].sort(2).values
        rest = order[:, :, self.pairs:].sort(2).values
        self._keep(take(k, kept), take(v, kept), position.gather(2, kept), score.gather(2, kept))
        phi, v = take(phi, rest), take(v, rest)
        self.H += phi.transpose(-1, -2) @ v
        self.s += phi.sum(2)
        self.n += rest.shape[2]

    def _keep(self, k: Tensor, v: Tensor, position: Tensor, score: Tensor) -> None:
        self.cache_k, self.cache_v = k, v
        self.cache_position, self.cache_score = position, score

    def score(self, phi: Tensor, v: Tensor) -> Tensor:
        """Self-recall error against the state before this event, or a control's score."""
        settings = self.settings
        if settings.score == "random":
            # A fixed random mark per value vector would need bookkeeping; fresh draws make
            # cached pairs compete anew at every event, which is a stricter control.
            return torch.rand(v.shape[:3], generator=self.random)
        if settings.score == "value_norm":
            return v.square().sum(-1)
        H, s = self.H, self.s
        if settings.score == "leave_one_out":
            H, s = H + phi.transpose(-1, -2) @ v, s + phi.sum(2)
        numerator, mass = phi @ H, torch.einsum("bhnf,bhf->bhn", phi, s)
        if settings.score == "leave_one_out":
            own = phi.square().sum(-1)
            numerator, mass = numerator - own[..., None] * v, mass - own
        recalled = numerator / (mass + settings.score_epsilon)[..., None]
        if self.n == 0 and settings.score == "sre":
            recalled = torch.zeros_like(v)
        score = (recalled - v).square().sum(-1)
        if settings.redundancy_threshold > 0:
            score = score / near_count(v, settings.redundancy_threshold)
        return score
