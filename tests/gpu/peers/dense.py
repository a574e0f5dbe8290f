"""What both peers share: random weights, and the dense parts of a layer as compiled functions."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from geometry import Geometry
from harness import Machine

Tensor = torch.Tensor


class Layer(NamedTuple):
    """One layer. Projections that read the same rows are one matrix, [out, in]."""

    input_norm: Tensor
    qkv: Tensor
    o: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor
    map_q: Tensor  # [heads, head_dim, F / 2]
    map_k: Tensor
    gate: Tensor  # [heads] raw window factors


class Weights(NamedTuple):
    embedding: Tensor  # [vocab, hidden]
    head: Tensor  # [vocab, hidden]; the embedding itself when tied
    norm: Tensor
    layers: list[Layer]


def random_weights(machine: Machine, g: Geometry, seed: int = 7) -> Weights:
    """Normals scaled by their inputs, smaller where a branch writes to the residual stream."""
    generator = torch.Generator(machine.device).manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        tensor = torch.empty(shape, device=machine.device, dtype=machine.dtype)
        return tensor.normal_(std=std, generator=generator)

    q, kv, wide = g.heads * g.head_dim, g.kv_heads * g.head_dim, g.hidden ** -0.5
    branch = (2 * g.layers) ** -0.5

    def layer() -> Layer:
        one = torch.ones(g.hidden, device=machine.device, dtype=machine.dtype)
        maps = [normal(g.heads, g.head_dim, g.features // 2, std=0.3) for _ in range(2)]
        return Layer(one, normal(q + 2 * kv, g.hidden, std=wide),
                     normal(g.hidden, q, std=branch * q ** -0.5), one.clone(),
                     normal(2 * g.ffn, g.hidden, std=wide),
                     normal(g.hidden, g.ffn, std=branch * g.ffn ** -0.5), *maps,
                     normal(g.heads, std=1.0))

    embedding = normal(g.vocab, g.hidden, std=0.5)
    head = embedding if g.tied else normal(g.vocab, g.hidden, std=wide)
    norm = torch.ones(g.hidden, device=machine.device, dtype=machine.dtype)
    return Weights(embedding, head, norm, [layer() for _ in range(g.layers)])


def rotation(positions: Tensor, g: Geometry, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [positions, head_dim / 2]; angles in float64, rounded once."""
    half = g.head_dim // 2
    frequency = g.theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = positions.double().cpu()[:, None] * frequency
    return angle.cos().float().to(device), angle.sin().float().to(device)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (i, i + d/2) of the last axis."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class Dense:
    """Compiled once per shape; layers differ in their arguments alone."""

    def __init__(self, machine: Machine, g: Geometry):
        def split(x: Tensor, input_norm: Tensor, qkv: Tensor):
            """q [B, rows, kv heads, group, d]; k, v [B, rows, kv heads, d]."""
            rows = norm(x, input_norm, g.eps) @ qkv.t()
            q, k, v = rows.split((g.heads * g.head_dim, *2 * (g.kv_heads * g.head_dim,)), -1)
            narrow = (g.kv_heads, g.head_dim)
            return (q.unflatten(-1, (g.kv_heads, g.group, g.head_dim)), k.unflatten(-1, narrow),
                    v.unflatten(-1, narrow))

        def after(x: Tensor, y: Tensor, o: Tensor, post_norm: Tensor, gate_up: Tensor,
                  down: Tensor) -> Tensor:
            """The layer's output from its input and its heads' outputs y [B, rows, heads * d]."""
            x = x + y @ o.t()
            gate, up = (norm(x, post_norm, g.eps) @ gate_up.t()).chunk(2, -1)
            return x + (F.silu(gate) * up) @ down.t()

        def logits(x: Tensor, weight: Tensor, head: Tensor) -> Tensor:
            return norm(x, weight, g.eps) @ head.t()

        def pick(x: Tensor, weight: Tensor, head: Tensor) -> Tensor:
            return logits(x, weight, head).argmax(-1)

        self.split = split  # compiled as a part of what the peers do with it
        self.after = machine.compile(after)
        self.logits = logits
        self.pick = machine.compile(pick)
