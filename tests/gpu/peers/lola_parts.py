"""LoLA's parts of a layer as pure functions of tensors: attention over memory, and a chunk event.

Profile lifelong with caches shared by a kv head's queries, as in tools/reference_model's
lola_memory.py, which is the judge. Shapes, B streams, K kv heads, G query heads to each, D head
dim, F features, L = lambda, W = window + chunk, E = L + chunk candidates of an event:

  keys    [B, K, L + W, D]  sparse cache, then the window, keys as memory sees them (not rotated)
  turned  [B, K, W, D]      the window's keys, rotated by their row
  values  [B, K, L + W, D]
  H, s    [B, K, G, F, D], [B, K, G, F]  float32
  absorbed [B, K]           pairs in H
  live    [B, K, L]         rows of the cache in use
  first   [B]               first row of the window in use
"""
from __future__ import annotations

import math

import torch

from geometry import Geometry, Memory

Tensor = torch.Tensor


def features(x: Tensor, maps: Tensor) -> Tensor:
    """phi of x [B, K, rows, D] or, per query head, [B, K, G, rows, D]; maps [K, G, D, F / 2].

    float32 [B, K, G, rows, F].
    """
    per_head = x.dim() == 5
    z = torch.einsum("bkgnd,kgdf->bkgnf" if per_head else "bknd,kgdf->bkgnf", x, maps).float()
    return torch.cat((z.softmax(-1), (-z).softmax(-1)), -1).clamp_min(1e-12)


def plain_cache(q: Tensor, keys: Tensor, values: Tensor, live: Tensor):
    """Outputs [B, K, rows, D] of softmax over the cache and log of its denominator [B, K, rows]."""
    logits = (q @ keys.mT).float() / math.sqrt(q.shape[-1])
    logits = logits.masked_fill(~live[:, :, None], -math.inf)
    # An empty cache weighs nothing: exp(-inf - 0) = 0.
    top = logits.amax(-1, keepdim=True).clamp_min(-1e30)
    weights = torch.exp(logits - top)
    mass = weights.sum(-1, keepdim=True)
    out = (weights.to(values.dtype) @ values).float() / mass.clamp_min(1e-30)
    return out, (top + mass.log())[..., 0]


def flash_cache(q: Tensor, keys: Tensor, values: Tensor, live: Tensor):
    """The same by FlashAttention; REQUIRES: every row of the cache is live."""
    del live
    out, log_mass = torch.ops.aten._scaled_dot_product_flash_attention(q, keys, values)[:2]
    return out.float(), log_mass.float()


def attend_function(m: Memory, cache):
    """Attention of rows that are in the window already, by one of the cache functions above."""

    def attend(q_memory, q_window, phi, keys, turned, values, H, s, absorbed, live, first, row,
               gate):
        """q_* [B, K, G, R, D], phi [B, K, G, R, F], row [B, R] of the window; [B, R, heads D]."""
        batch, kv, group, count, dim = q_memory.shape
        flat = (batch, kv, group * count, dim)
        cached, log_mass = cache(q_memory.reshape(flat), keys[:, :, :m.pairs],
                                 values[:, :, :m.pairs], live)
        logits = (q_window.reshape(flat) @ turned.mT).float() / math.sqrt(dim)
        place = torch.arange(m.rows, device=row.device)
        seen = (place >= first[:, None, None]) & (place <= row[:, :, None])  # [B, R, W]
        logits = logits.unflatten(2, (group, count)).masked_fill(~seen[:, None, None], -math.inf)
        log_mass = log_mass.unflatten(2, (group, count))
        top = torch.maximum(logits.amax(-1), log_mass)

        # While nothing is absorbed this is plain softmax; then gates, and a floor under the shift.
        any_absorbed = (absorbed > 0)[:, :, None, None]
        shift = torch.where(any_absorbed, top.clamp_min(0.0), top)
        soft_gate = torch.where(any_absorbed, gate[:, :, None], 1.0)
        linear_gate = torch.where(any_absorbed, 1 - gate[:, :, None], 0.0) * torch.exp(-shift)
        epsilon = torch.where(any_absorbed, 1e-6 * torch.exp(-shift), 0.0)
        cap = (m.mass_cap / absorbed.clamp_min(1).float()).clamp_max(1.0)
        linear_gate = linear_gate * cap[:, :, None, None]

        weights = torch.exp(logits - shift[..., None])
        window = weights.flatten(2, 3).to(values.dtype) @ values[:, :, m.pairs:]
        cache_mass = torch.exp(log_mass - shift)
        cached = cached.unflatten(2, (group, count)) * cache_mass[..., None]
        soft = window.float().unflatten(2, (group, count)) + cached
        mass = (phi * s[:, :, :, None]).sum(-1)
        if count == 1:  # one row: H is read once by a fused sum, no product of matrices
            linear = (phi[..., 0, :, None] * H).sum(-2)[:, :, :, None]
        else:
            linear = phi @ H
        numerator = soft_gate[..., None] * soft + linear_gate[..., None] * linear
        denominator = (soft_gate * (weights.sum(-1) + cache_mass) + linear_gate * mass + epsilon)
        y = numerator / denominator[..., None]
        return y.permute(0, 3, 1, 2, 4).flatten(2).to(values.dtype)

    return attend


def near_counts(values: Tensor, live: Tensor, threshold: float) -> Tensor:
    """Live values within threshold * |v| of each value v, itself included; values float32.

    Rows that were bfloat16 are exact in TF32, so products are too, whatever the precision set.
    """
    energy = values.square().sum(-1)
    apart = energy[..., None] + energy[..., None, :] - 2 * values @ values.mT
    near = apart.clamp_min(0.0) <= threshold ** 2 * energy[..., None]
    return (near & live[..., None, :]).sum(-1).clamp_min(1)


def choose_function(m: Memory):
    """The part of an event that reads: scores, the best pairs, what the others add to H and s."""

    def choose(keys, values, H, s, live, position, first, start, map_k):
        """position [B, K, L] of cached pairs, start [B] of the window's row 0.

        Returns the new cache (keys, values, live, positions), and of the pairs that leave it
        features [B, K, G F, chunk], values [B, K, chunk, D], both float32, and how many [B, K].
        """
        chunk = torch.arange(m.chunk, device=keys.device)
        inside = (chunk >= first[:, None])[:, None].expand(-1, keys.shape[1], -1)
        arriving = (start[:, None] + chunk)[:, None].expand_as(inside)
        live, position = torch.cat((live, inside), -1), torch.cat((position, arriving), -1)
        keys, values = keys[:, :, :m.candidates], values[:, :, :m.candidates]
        wide, phi = values.float(), features(keys, map_k)
        recalled = phi @ H / ((phi * s[:, :, :, None]).sum(-1) + m.score_epsilon)[..., None]
        error = (recalled - wide[:, :, None]).square().sum(-1).sum(2)
        score = error / near_counts(wide, live, m.redundancy)
        score = torch.where(live, score, -math.inf)
        order = score.argsort(dim=-1, descending=True, stable=True)
        kept, leaving = order.split((m.pairs, m.chunk), -1)

        def rows(x: Tensor, index: Tensor) -> Tensor:
            return x.gather(2, index[..., None].expand(*index.shape, x.shape[-1]))

        gone = live.gather(-1, leaving)
        index = leaving[:, :, None, :, None].expand(*phi.shape[:3], m.chunk, phi.shape[-1])
        added = (phi.gather(3, index) * gone[:, :, None, :, None]).mT.flatten(2, 3).contiguous()
        return (rows(keys, kept), rows(values, kept), live.gather(-1, kept),
                position.gather(-1, kept), added, rows(wide, leaving), gone.sum(-1))

    return choose


def query_maps(maps: Tensor, g: Geometry) -> Tensor:
    """[heads, D, f] as [K, G, D, f]."""
    return maps.unflatten(0, (g.kv_heads, g.group))
