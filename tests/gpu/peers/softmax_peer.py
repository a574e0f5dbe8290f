"""Softmax decoding in PyTorch at its best: static cache, fused projections, SDPA, recorded steps.

Every stream stands at the end of a cache of `context` rows, all of them in use, so that attention
needs no mask (a mask would cost the peer its fastest kernels). A step writes the row of its token
and attends to all rows. Of SDPA's kernels the fastest one that is right is used, by measurement.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dense import Dense, Weights, random_weights, rotate, rotation
from geometry import GEOMETRIES, Geometry
from harness import Machine, Results, Row, attempt, measured, relative_error

Tensor = torch.Tensor
RESERVE = 3 << 30  # bytes left free: recordings, workspaces of kernels
ERROR_BF16, ERROR_FLOAT = 3e-2, 1e-4  # two roundings of 8 bits a layer; sums in another order


def rows_form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A kv head's queries as rows of one head: each key and value is read once."""
    return F.scaled_dot_product_attention(q, k, v)


def gqa_form(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One row per query head; the kernel knows about groups."""
    y = F.scaled_dot_product_attention(q.flatten(1, 2).unsqueeze(2), k, v, enable_gqa=True)
    return y.squeeze(2).unflatten(1, q.shape[1:3])


def variants(machine: Machine) -> dict:
    """Forms of decode attention, q [B, kv heads, group, d] over k, v [B, kv heads, context, d]."""
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION] if machine.cuda else [SDPBackend.MATH]

    def limited(form, backend):
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return form(q, k, v)
        return attend

    return {f"{backend.name.split('_')[0].lower()}, {name}": limited(form, backend)
            for backend in backends for name, form in (("rows", rows_form), ("gqa", gqa_form))}


class SoftmaxPeer:
    def __init__(self, machine: Machine, g: Geometry, weights: Weights, dense: Dense):
        self.machine, self.g, self.w, self.dense = machine, g, weights, dense

        def before(x, input_norm, qkv, cos, sin):
            q, k, v = dense.split(x, input_norm, qkv)
            q = rotate(q, cos[:, None, None], sin[:, None, None])
            k = rotate(k, cos[:, None], sin[:, None])
            return q.permute(0, 2, 3, 1, 4), k.transpose(1, 2), v.transpose(1, 2)

        self.before = machine.compile(before)

    def start(self, batch: int, context: int) -> None:
        """Caches of random rows; every stream's next token is the last that they take."""
        machine, g = self.machine, self.g
        shape = (batch, g.kv_heads, context, g.head_dim)
        self.caches = [tuple(torch.empty(shape, device=machine.device, dtype=machine.dtype)
                             .normal_() for _ in range(2)) for _ in range(g.layers)]
        self.at = torch.full((1,), context - 1, device=machine.device)
        self.turn = rotation(torch.arange(context - 1, context), g, machine.device)
        self.tokens = torch.arange(batch, device=machine.device) % g.vocab

    def step(self, attend) -> Tensor:
        """One token of every stream: the final rows [batch, hidden]."""
        x = F.embedding(self.tokens, self.w.embedding)[:, None]
        for layer, (keys, values) in zip(self.w.layers, self.caches):
            q, k, v = self.before(x, layer.input_norm, layer.qkv, *self.turn)
            keys.index_copy_(2, self.at, k)
            values.index_copy_(2, self.at, v)
            y = attend(q[:, :, :, 0], keys, values).flatten(1)[:, None]
            x = self.dense.after(x, y, layer.o, layer.post_norm, layer.gate_up, layer.down)
        return x[:, 0]

    def decode(self, attend) -> None:
        x = self.step(attend)
        self.tokens.copy_(self.dense.pick(x, self.w.norm, self.w.head))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits after tokens [batch, count], all at once; fills the caches. Plain arithmetic."""
        count, scale = tokens.shape[1], 1 / math.sqrt(self.g.head_dim)
        turn = rotation(torch.arange(count), self.g, self.machine.device)
        hidden = torch.ones(count, count, device=tokens.device, dtype=torch.bool).triu(1)
        x = F.embedding(tokens, self.w.embedding)
        for layer, (keys, values) in zip(self.w.layers, self.caches):
            q, k, v = self.before(x, layer.input_norm, layer.qkv, *turn)
            keys[:, :, :count], values[:, :, :count] = k, v
            logits = (q.float() @ k.float().mT[:, :, None] * scale).masked_fill(hidden, -math.inf)
            y = (logits.softmax(-1) @ v.float()[:, :, None]).to(x.dtype)
            y = y.permute(0, 3, 1, 2, 4).flatten(2)
            x = self.dense.after(x, y, layer.o, layer.post_norm, layer.gate_up, layer.down)
        return self.dense.logits(x[:, -1], self.w.norm, self.w.head)


def gate(machine: Machine, results: Results) -> dict:
    """The forms of attention with which a decode step gives what the whole sequence gives at once.

    A form that fails is not used; without any that passes nothing is timed.
    """
    g, batch, context = GEOMETRIES["tiny"], 3, 72
    peer = SoftmaxPeer(machine, g, random_weights(machine, g), Dense(machine, g))
    peer.start(batch, context)
    tokens = torch.randint(g.vocab, (batch, context), device=machine.device,
                           generator=torch.Generator(machine.device).manual_seed(3))
    want = peer.forward(tokens)
    limit = ERROR_BF16 if machine.dtype == torch.bfloat16 else ERROR_FLOAT
    passed = {}
    for name, attend in variants(machine).items():
        peer.start(batch, context)
        peer.forward(tokens[:, :-1])
        peer.tokens.copy_(tokens[:, -1])
        try:
            got = peer.dense.logits(peer.step(attend), peer.w.norm, peer.w.head)
        except RuntimeError as refused:  # not every kernel takes every shape
            print(f"gate: {name} does not run here: {str(refused).splitlines()[0]}", flush=True)
            continue
        if results.judged(f"softmax decode equals its forward pass, {name}",
                          relative_error(got, want), limit):
            passed[name] = attend
    if not passed:
        raise SystemExit("FAILED gate: no form of attention passes")
    return passed


def fastest(peer: SoftmaxPeer, forms: dict, context: int) -> tuple[str, object]:
    """The form of attention that is fastest on these caches, among those that are right."""
    machine, (keys, values) = peer.machine, peer.caches[0]
    batch, heads, _, dim = keys.shape
    q = torch.randn(batch, heads, peer.g.group, dim, device=machine.device, dtype=machine.dtype)
    logits = q[:1].float() @ keys[:1].float().mT / math.sqrt(dim)
    want = logits.softmax(-1) @ values[:1].float()
    found, shown = [], []
    for name, attend in forms.items():
        if keys.numel() >= 2 ** 31 and name.startswith(("cudnn", "efficient")):
            shown.append(f"{name} not tried")  # one index that overflows would end the whole run
            continue
        try:
            if relative_error(attend(q, keys, values)[:1], want) > ERROR_BF16:
                shown.append(f"{name} wrong")
                continue
            run_one = machine.record(lambda: attend(q, keys, values))
            seconds = min(machine.times(run_one, 0.05, 5, 50))
        except RuntimeError:
            shown.append(f"{name} refused")
            continue
        found.append((seconds, name, attend))
        shown.append(f"{name} {1e6 * seconds:.0f} us")
    if not found:
        raise SystemExit(f"FAILED: no form of attention runs at context {context}: {shown}")
    print(f"  attention of a layer, B {batch}, context {context}: {'; '.join(shown)}", flush=True)
    seconds, name, attend = min(found, key=lambda one: one[0])
    return name, attend


def full_batch(machine: Machine, g: Geometry, context: int, most: int) -> int:
    """Streams that fit: caches, and the activations of the step and of its recording."""
    activations = 2 * machine.element * (2 * g.vocab + 8 * (g.hidden + g.ffn))
    each = context * g.kv_bytes(machine.element) + activations
    reserve = RESERVE if machine.cuda else 0
    return max(0, min(most, (machine.free_bytes() - reserve) // each))


def measure(peer: SoftmaxPeer, forms: dict, results: Results, batch: int, context: int,
            full: bool) -> None:
    machine, g = peer.machine, peer.g
    peer.caches = []
    peer.start(batch, context)
    name, attend = fastest(peer, forms, context)
    machine.free_bytes()  # gives back what trials held
    run = machine.record(lambda: peer.decode(attend))
    seconds = machine.times(run, 2.0)
    bytes_read = (g.read_parameters + batch * context * g.kv_bytes(1)) * machine.element
    results.add(Row("softmax", "decode", g.name, g.layers, batch, full=full, context=context,
                    floor_us=1e6 * bytes_read / results.copy_bytes_per_s,
                    note=f"SDPA {name}", **measured(seconds, batch)))


def run(machine: Machine, results: Results, g: Geometry, contexts: list[int], most: int) -> None:
    """Batch 1 and the full batch at every context."""
    forms = gate(machine, results)
    peer = SoftmaxPeer(machine, g, random_weights(machine, g), Dense(machine, g))
    for context in contexts:
        for full in (False, True):
            peer.caches = []
            batch = full_batch(machine, g, context, most) if full else 1
            attempt(machine, results,
                    f"softmax decode, {g.name}, context {context}, {'full' if full else 'B 1'}", 45,
                    lambda some: measure(peer, forms, results, some, context, full), batch)
