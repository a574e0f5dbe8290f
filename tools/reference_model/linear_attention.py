"""The linearised attention in its parallel form, for training only.

Same mathematics as lola_reference.py: each chunk sees itself and the chunk before it through
softmax ("terrace"), everything older through feature maps. Whole chunks are processed side by
side, which is what makes attention transfer cheap. The sparse cache is left empty, or holds what
a memory of the whole text would keep: near enough to what the stream keeps to train through it.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from llama import rotate, rotary_table


class FeatureMaps(nn.Module):
    """Feature maps and gates of one layer, one set per query head; starts at the identity."""

    def __init__(self, heads: int, head_dim: int, features: int, gate: float = 0.1):
        super().__init__()
        start = torch.eye(head_dim, features).expand(heads, -1, -1)
        self.q = nn.Parameter(start.clone())
        self.k = nn.Parameter(start.clone())
        self.gate = nn.Parameter(torch.full((heads,), math.log(gate / (1 - gate))))

    @classmethod
    def load(cls, tensors: dict[str, torch.Tensor], layer: int) -> FeatureMaps:
        """Those of one layer of a linearised model directory."""
        name = f"model.layers.{layer}.self_attn."
        maps = cls(*tensors[name + "feature_map_q.mlp.layer"].shape)
        with torch.no_grad():
            for own, tensor in maps.tensors(layer).items():
                tensor.copy_(tensors[own])
        return maps

    def tensors(self, layer: int) -> dict[str, torch.Tensor]:
        """Parameters under their names in a model directory."""
        name = f"model.layers.{layer}.self_attn."
        return {name + "feature_map_q.mlp.layer": self.q,
                name + "feature_map_k.mlp.layer": self.k,
                name + "window_factors": self.gate.view(1, -1, 1, 1)}

    @staticmethod
    def features(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        z = torch.einsum("bhnd,hdf->bhnf", x, weight)
        return torch.cat((z.softmax(-1), (-z).softmax(-1)), -1).clamp_min(1e-12)


def absorbed_sums(phi: torch.Tensor, v: torch.Tensor):
    """Per chunk c the sums over chunks 0 .. c-2: [b, h, chunks, F, d] and [b, h, chunks, F]."""
    shift = (0, 0, 0, 0, 2, 0)
    states = F.pad(phi.transpose(-1, -2) @ v, shift)[:, :, :-2].cumsum(2)
    masses = F.pad(phi.sum(3), shift[2:])[:, :, :-2].cumsum(2)
    return states, masses


def recall_errors(maps: FeatureMaps, k_memory: torch.Tensor, v: torch.Tensor,
                  chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """LoLA's score of each pair against all older chunks, and the pair's own squared value.

    Both [batch, heads, rest]; the first two chunks have nothing to be recalled from.
    """
    rows, heads, length, _ = v.shape
    phi = maps.features(k_memory, maps.k)
    phi = phi.reshape(rows, heads, length // chunk, chunk, phi.shape[-1])
    values = v.reshape(rows, heads, length // chunk, chunk, v.shape[-1])
    states, masses = absorbed_sums(phi, values)
    recalled = (phi @ states) / ((phi @ masses[..., None]) + 1e-6)
    error = (recalled - values).square().sum(-1)[:, :, 2:].flatten(2)
    return error, values.square().sum(-1)[:, :, 2:].flatten(2)


def recall_loss(maps: FeatureMaps, k_memory: torch.Tensor, v: torch.Tensor,
                chunk: int) -> torch.Tensor:
    """Share of the values' energy that memory does not recall.

    Maps that recall ordinary text well leave the sparse cache to the pairs that nothing
    else explains.
    """
    error, energy = recall_errors(maps, k_memory, v, chunk)
    return (error.mean((0, 2)) / energy.mean((0, 2))).mean()


def rarity_loss(maps: FeatureMaps, k_memory: torch.Tensor, v: torch.Tensor,
                chunk: int) -> torch.Tensor:
    """How evenly recall errors spread over a text, per head: 1 = all pairs alike, 0 = one pair.

    Teaches the model to make large errors rare, so that the few pairs which text cannot
    predict stand out. Scaling keys or values does not change it.
    """
    error, _ = recall_errors(maps, k_memory, v, chunk)
    size = (error + 1e-6).sqrt()
    return (size.mean(-1).square() / size.square().mean(-1)).mean()


def window_logits(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Logits of each chunk over the previous and its own rows: [b, h, chunks, C, 2C]."""
    size = q.shape[3]
    before = F.pad(k, (0, 0, 0, 0, 1, 0))[:, :, :-1]
    logits = q @ torch.cat((before, k), 3).transpose(-1, -2) / math.sqrt(q.shape[-1])
    row = torch.arange(size)[:, None]
    hidden = torch.arange(2 * size) > row + size
    logits = logits.masked_fill(hidden, -math.inf)
    first = logits[:, :, :1].masked_fill(torch.arange(2 * size) < size, -math.inf)
    return torch.cat((first, logits[:, :, 1:]), 2)


@dataclass
class Kept:
    """The pairs of a sparse cache, chosen with hindsight over a whole text.

    k, v [batch, heads, pairs, d]; chunk [batch, heads, pairs], where each stands;
    others [batch, heads, length] is 0 where a pair is kept and 1 where it is absorbed.
    """

    k: torch.Tensor
    v: torch.Tensor
    chunk: torch.Tensor
    others: torch.Tensor


def kept_pairs(maps: FeatureMaps, k_memory: torch.Tensor, v: torch.Tensor, chunk: int,
               pairs: int, redundancy: float) -> Kept:
    """The pairs that a memory of all other chunks recalls worst, `pairs` to a head.

    `redundancy` as in the profile `lifelong`, counted among four times as many candidates. The
    choice itself has no gradient; what was chosen has.
    """
    rows, heads, length, dim = v.shape
    with torch.no_grad():
        phi = maps.features(k_memory, maps.k).unflatten(2, (length // chunk, chunk))
        values = v.unflatten(2, (length // chunk, chunk))
        states, masses = phi.transpose(-1, -2) @ values, phi.sum(3)
        states = states.sum(2, keepdim=True) - states
        masses = masses.sum(2, keepdim=True) - masses
        recalled = (phi @ states) / ((phi @ masses[..., None]) + 1e-6)
        error = (recalled - values).square().sum(-1).flatten(2)
        score, index = error.topk(min(4 * pairs, length))
        if redundancy:
            near = v.gather(2, index[..., None].expand(-1, -1, -1, dim))
            apart = torch.cdist(near, near)
            close = apart <= redundancy * near.norm(dim=-1)[..., None]
            score = score / close.sum(-1).clamp_min(1)
        index = index.gather(2, score.topk(pairs).indices)
        others = torch.ones_like(error).scatter(2, index, 0.0)
    wide = index[..., None].expand(-1, -1, -1, dim)
    return Kept(k_memory.gather(2, wide), v.gather(2, wide), index // chunk, others)


def cache_logits(kept: Kept, q_memory: torch.Tensor) -> torch.Tensor:
    """Logits over kept pairs that have left the window: [b, h, chunks, C, pairs]."""
    logits = q_memory @ kept.k[:, :, None].transpose(-1, -2) / math.sqrt(q_memory.shape[-1])
    now = torch.arange(q_memory.shape[2])[:, None]
    inside = kept.chunk[:, :, None] > now - 2
    return logits.masked_fill(inside[:, :, :, None], -math.inf)


def hybrid_attention(maps: FeatureMaps, q, k, v, theta: float, chunk: int,
                     constant_distance: int | None, mass_cap: float,
                     pairs: int = 0, redundancy: float = 0.0) -> torch.Tensor:
    """Outputs [batch, heads, length, d] of window + absorbed pairs; q, k not yet rotated.

    With `pairs` each head has a sparse cache of so many, chosen with hindsight.
    """
    rows, heads, length, dim = q.shape
    cos, sin = rotary_table(length, dim, theta)
    q_rotated, k_rotated = rotate(q, cos, sin), rotate(k, cos, sin)
    q_memory, k_memory = q_rotated, k_rotated
    if constant_distance is not None:
        far_cos, far_sin = rotary_table(1, dim, theta, constant_distance)
        q_memory, k_memory = rotate(q, far_cos, far_sin), k

    def chunked(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(rows, heads, length // chunk, chunk, x.shape[-1])

    phi_q, phi_k = maps.features(q_memory, maps.q), maps.features(k_memory, maps.k)
    values = chunked(v)
    logits = window_logits(chunked(q_rotated), chunked(k_rotated))
    before = F.pad(values, (0, 0, 0, 0, 1, 0))[:, :, :-1]
    seen = torch.cat((before, values), 3)
    plain = logits[:, :, :2].softmax(-1) @ seen[:, :, :2]
    if pairs:
        kept = kept_pairs(maps, k_memory, v, chunk, pairs, redundancy)
        phi_k = phi_k * kept.others[..., None]
        logits = torch.cat((logits, cache_logits(kept, chunked(q_memory))), -1)
        seen = torch.cat((seen, kept.v[:, :, None].expand(-1, -1, seen.shape[2], -1, -1)), 3)
    phi_q = chunked(phi_q)
    states, masses = absorbed_sums(chunked(phi_k), values)

    absorbed = ((torch.arange(length // chunk) - 1) * chunk - pairs).clamp_min(1)
    a = (mass_cap / absorbed).clamp_max(1.0) if mass_cap else torch.ones(1)
    a = a.view(-1, 1)
    gate = torch.sigmoid(maps.gate).view(1, -1, 1, 1)
    shift = logits.amax(-1).clamp_min(0.0)
    soft = gate[..., None] * torch.exp(logits - shift[..., None])
    linear = (1 - gate) * a * torch.exp(-shift)
    numerator = soft @ seen + linear[..., None] * (phi_q @ states)
    mass = (phi_q @ masses[..., None])[..., 0]
    mixed = numerator / (soft.sum(-1) + linear * mass + 1e-6 * torch.exp(-shift))[..., None]
    return torch.cat((plain, mixed[:, :, 2:]), 2).reshape(rows, heads, length, dim)
