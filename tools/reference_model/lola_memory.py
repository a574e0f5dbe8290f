"""LoLA's memory of one layer, step by step: read, score, keep, absorb.

Everything is float32, rotary angles are float64. Nothing is clever here: each step of the
definition is one short function, and all batch rows and heads move together.

State per layer (leading axes [batch, query heads]):
  window   raw keys and values of the newest eta + C rows at most
  cache    the sparse cache G: keys as memory sees them, values, positions, scores; heads that
           share one hold equal copies; rows beyond `cached` (adaptive size) are empty
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
    score: str = "sre"  # one of SCORES; the others are controls and variants
    score_epsilon: float = 1e-6
    cache_pairs_per_layer: tuple[int, ...] = ()  # replaces cache_pairs when not empty
    rescore: bool = True  # False: a cached pair keeps the score it was admitted with
    sinks: int = 0  # pairs at positions below this never leave the cache
    cache_sharing: str = "head"  # head | group (scores summed over the group) | group_max
    adaptive_mass: float = 0.0  # share of the scores' sum that is kept; 0 = always `pairs`
    cache_pairs_min: int = 0  # least pairs with adaptive_mass

    def pairs(self, layer: int) -> int:
        """Capacity of a layer's sparse cache, per query head."""
        if self.mode != "lola":
            return 0
        return self.cache_pairs_per_layer[layer] if self.cache_pairs_per_layer else (
            self.cache_pairs)


SCORES = ("sre", "leave_one_out", "hypothetical", "relative_sre", "relative_leave_one_out",
          "relative_hypothetical", "value_norm", "key_norm", "attention", "random", "recency")
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


def near_count(v: Tensor, threshold: float, live: Tensor) -> Tensor:
    """For each value the number of live values, itself included, within threshold * |v| of it.

    Distances come from inner products, in float64 because they cancel.
    """
    wide = v.double()
    energy = wide.square().sum(-1)
    apart = energy[..., None] + energy[..., None, :] - 2 * wide @ wide.transpose(-1, -2)
    # A value that equals another one up to rounding may come out a hair below zero.
    near = apart.clamp_min(0.0) <= threshold ** 2 * energy[..., None]
    return (near & live[..., None, :]).sum(-1).clamp_min(1)


class LayerMemory:
    """The LoLA state of one layer and the two things done with it: read and event."""

    def __init__(self, settings: Settings, layer: int, tensors: dict, freq: Tensor,
                 shape: tuple[int, int, int], kv_heads: int):
        assert settings.score in SCORES, settings.score
        self.settings, self.freq = settings, freq
        self.group = 1 if settings.cache_sharing == "head" else shape[1] // kv_heads
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
        self.n = torch.zeros(batch, heads, dtype=torch.int64)
        self.cache_k, self.cache_v = self.k, self.v
        self.cache_position = torch.zeros(batch, heads, 0, dtype=torch.int64)
        self.cache_score = torch.zeros(batch, heads, 0)
        self.cache_live = torch.zeros(batch, heads, 0, dtype=torch.bool)
        self.cache_mass = torch.zeros(batch, heads, 0)  # attention weight received so far
        self.window_mass = torch.zeros(batch, heads, 0)
        self.random = torch.Generator().manual_seed(7)

    @property
    def rotary(self) -> bool:
        return self.settings.mode == "softmax" or self.settings.memory_positions == "rotary"

    def read(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        """Appends rows of one chunk at positions first.. and returns their outputs."""
        self.k, self.v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        if self.settings.mode != "softmax":
            fresh = torch.zeros(*k.shape[:3])
            self.window_mass = torch.cat((self.window_mass, fresh), 2)
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
            memory = q_memory @ self.cache_k.transpose(-1, -2) * scale
            memory = memory.masked_fill(~self.cache_live[:, :, None], -math.inf)
            logits = torch.cat((memory, logits), -1)
            values = torch.cat((self.cache_v, values), 2)
        return self.combine(logits, values, q_memory)

    def combine(self, logits: Tensor, values: Tensor, q_memory: Tensor) -> Tensor:
        """Softmax terms and linear terms under one denominator."""
        if not self.n.any():
            weights = logits.softmax(-1)
            self._receive(weights)
            return weights @ values
        cap, n = self.settings.mass_cap, self.n.float().clamp_min(1.0)
        a = (cap / n).clamp_max(1.0) if cap > 0 else torch.ones_like(n)
        phi = feature_map(q_memory, self.map_q)
        linear = a[..., None, None] * (phi @ self.H)
        mass = a[..., None] * torch.einsum("bhnf,bhf->bhn", phi, self.s)
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
        denominator = (soft.sum(-1) + w_linear * mass + epsilon)[..., None]
        self._receive(soft / denominator)
        return numerator / denominator

    def _receive(self, weights: Tensor) -> None:
        """Adds what each cached and window pair was given by these queries."""
        received, cached = weights.sum(2), self.cache_k.shape[2]
        self.cache_mass = self.cache_mass + received[:, :, :cached]
        self.window_mass = self.window_mass + received[:, :, cached:]

    def event(self, end: int) -> None:
        """Evicts the oldest chunk after the token at end - 1, keeps the best, absorbs the rest."""
        settings, count = self.settings, self.settings.chunk
        position = torch.arange(self.start, self.start + count)
        k = self.k[:, :, :count]
        k = rotate(k, position, self.freq) if self.rotary else k
        position = position.expand(*k.shape[:2], count)
        k = torch.cat((self.cache_k, k), 2)
        v = torch.cat((self.cache_v, self.v[:, :, :count]), 2)
        mass = torch.cat((self.cache_mass, self.window_mass[:, :, :count]), 2)
        position = torch.cat((self.cache_position, position), 2)
        live = torch.cat((self.cache_live, torch.ones(*k.shape[:2], count, dtype=bool)), 2)
        self.k, self.v = self.k[:, :, count:], self.v[:, :, count:]
        self.window_mass = self.window_mass[:, :, count:]
        self.start += count
        if k.shape[2] <= self.pairs and not self.n.any():
            # Never overflowed: all are taken unranked.
            self._keep(k, v, position, torch.zeros(position.shape), mass, live)
            return
        phi = feature_map(k, self.map_k)
        score = self.score(phi, k, v, position, mass, live)
        if not settings.rescore:
            old = self.cache_score.shape[2]
            ranked = self.cache_score > 0
            score[:, :, :old] = torch.where(ranked, self.cache_score, score[:, :, :old])
        keep = self.selection(score, position, live)
        # Kept rows first, both parts in ascending position; at most `pairs` rows are kept.
        rank = position + torch.where(keep, 0, torch.where(live, 2 ** 40, 2 ** 41))
        order = rank.argsort(dim=2, stable=True)
        kept = order[:, :, :min(self.pairs, order.shape[2])]
        self._keep(take(k, kept), take(v, kept), position.gather(2, kept), score.gather(2, kept),
                   mass.gather(2, kept), keep.gather(2, kept))
        rest = live & ~keep
        phi = torch.where(rest[..., None], phi, 0.0)
        self.H += phi.transpose(-1, -2) @ v
        self.s += phi.sum(2)
        self.n += rest.sum(2)

    def _keep(self, k: Tensor, v: Tensor, position: Tensor, score: Tensor, mass: Tensor,
              live: Tensor) -> None:
        """The new cache, by position; what is not live is empty."""
        self.cache_k = torch.where(live[..., None], k, 0.0)
        self.cache_v = torch.where(live[..., None], v, 0.0)
        self.cache_position = torch.where(live, position, 2 ** 42)
        self.cache_score = torch.where(live, score, 0.0)
        self.cache_mass = torch.where(live, mass, 0.0)
        self.cache_live = live

    def selection(self, score: Tensor, position: Tensor, live: Tensor) -> Tensor:
        """True for the pairs that stay: sinks, then the best, earlier positions first."""
        settings = self.settings
        sink = live & (position < settings.sinks)
        # Two stable sorts give (sinks first, score descending, position ascending, live first).
        value = torch.where(live, score, -math.inf).masked_fill(sink, math.inf)
        order = position.argsort(dim=2, stable=True)
        order = order.gather(2, value.gather(2, order).argsort(dim=2, descending=True, stable=True))
        count = torch.full(score.shape[:2], self.pairs)
        if settings.adaptive_mass > 0:
            part = torch.where(live & ~sink, score, 0.0).double()
            ranked = part.gather(2, order).cumsum(2)
            wanted = (ranked < settings.adaptive_mass * ranked[:, :, -1:]).sum(2)
            # The prefix that reaches the share ends one pair after the last that does not.
            wanted = torch.where(ranked[:, :, -1] > 0, wanted + 1, 0)
            wanted = torch.maximum(wanted, sink.sum(2))
            count = wanted.clamp(max(settings.cache_pairs_min, 0), self.pairs)
        count = torch.minimum(count, live.sum(2))
        chosen = torch.arange(score.shape[2]) < count[..., None]
        return torch.zeros_like(live).scatter(2, order, chosen) & live

    def score(self, phi: Tensor, k: Tensor, v: Tensor, position: Tensor, mass: Tensor,
              live: Tensor) -> Tensor:
        """What the ranking goes by: one score for all heads that share a cache."""
        settings = self.settings
        kind = settings.score
        if kind == "random":
            # A fixed random mark per value vector would need bookkeeping; fresh draws make
            # cached pairs compete anew at every event, which is a stricter control.
            score = torch.rand(v.shape[:3], generator=self.random)
        elif kind == "recency":
            score = position.float()
        elif kind in ("value_norm", "key_norm"):
            score = (v if kind == "value_norm" else k).square().sum(-1)
        elif kind == "attention":
            score = self.shared(mass)
        else:
            score = self.shared(self.recall_error(phi, v, live))
            if kind == "relative_sre" and not self.n.any():
                score = torch.ones_like(score)
            elif kind.startswith("relative_"):
                score = score / (v.square().sum(-1) + settings.score_epsilon)
        if settings.redundancy_threshold > 0:
            score = score / near_count(v, settings.redundancy_threshold, live)
        return score

    def shared(self, score: Tensor) -> Tensor:
        """Sum or maximum over the heads that share a cache, given back to each of them."""
        if self.group == 1:
            return score
        grouped = score.unflatten(1, (-1, self.group))
        largest = self.settings.cache_sharing == "group_max"
        joint = grouped.amax(2) if largest else grouped.sum(2)
        return joint.repeat_interleave(self.group, 1)

    def recall_error(self, phi: Tensor, v: Tensor, live: Tensor) -> Tensor:
        """Squared self-recall error against the state before this event, or with E in it."""
        kind = self.settings.score.removeprefix("relative_")
        H, s = self.H, self.s
        if kind != "sre":
            every = torch.where(live[..., None], phi, 0.0)
            H, s = H + every.transpose(-1, -2) @ v, s + every.sum(2)
        numerator, mass = phi @ H, torch.einsum("bhnf,bhf->bhn", phi, s)
        if kind == "leave_one_out":
            own = phi.square().sum(-1)
            numerator, mass = numerator - own[..., None] * v, mass - own
        recalled = numerator / (mass + self.settings.score_epsilon)[..., None]
        if kind == "sre" and not self.n.any():
            recalled = torch.zeros_like(v)
        return (recalled - v).square().sum(-1)
