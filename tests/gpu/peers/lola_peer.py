"""LoLA in PyTorch, batched and without loops over heads or streams: decode steps, prefill, events.

The state of a layer has static shapes and is written in place; dense parts, attention and the
choice of an event are compiled (lola_parts.py), and whole steps are recorded as graphs. Loops are
over layers, and over a prefill's chunks, which follow from each other.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dense import Dense, Weights, rotate, rotation
from geometry import Geometry, Memory
from harness import Machine
from lola_parts import attend_function, choose_function, features, plain_cache, query_maps

Tensor = torch.Tensor
EVENT_STREAMS = 16  # whose events run at once: bounds the working memory to about a gigabyte


@dataclass
class State:
    """Of one layer, all streams; shapes in lola_parts.py."""

    keys: Tensor
    turned: Tensor
    values: Tensor
    H: Tensor
    s: Tensor
    absorbed: Tensor
    live: Tensor
    position: Tensor

    def slice(self, some: slice) -> State:
        return State(*(tensor[some] for tensor in vars(self).values()))


def empty_state(machine: Machine, g: Geometry, m: Memory, batch: int) -> State:
    def zeros(*shape: int, dtype=torch.float32) -> Tensor:
        return torch.zeros(batch, g.kv_heads, *shape, device=machine.device, dtype=dtype)

    return State(zeros(m.pairs + m.rows, g.head_dim, dtype=machine.dtype),
                 zeros(m.rows, g.head_dim, dtype=machine.dtype),
                 zeros(m.pairs + m.rows, g.head_dim, dtype=machine.dtype),
                 zeros(g.group, g.features, g.head_dim), zeros(g.group, g.features),
                 zeros(dtype=torch.int64), zeros(m.pairs, dtype=torch.bool),
                 zeros(m.pairs, dtype=torch.int64))


class LolaPeer:
    def __init__(self, machine: Machine, g: Geometry, m: Memory, weights: Weights, dense: Dense):
        self.machine, self.g, self.m, self.w, self.dense = machine, g, m, weights, dense
        far = rotation(torch.arange(m.distance, m.distance + 1), g, machine.device)
        self.turns = rotation(torch.arange(m.rows), g, machine.device)

        def before(x, input_norm, qkv, cos, sin, map_q):
            """Queries, their features, keys as they are and rotated, values; all [B, K, ...]."""
            q, k, v = dense.split(x, input_norm, qkv)
            q_window = rotate(q, cos[:, :, None, None], sin[:, :, None, None])
            q_memory = rotate(q, *far).permute(0, 2, 3, 1, 4)
            phi = features(q_memory, query_maps(map_q, g))
            turned = rotate(k, cos[:, :, None], sin[:, :, None])
            return (q_memory, q_window.permute(0, 2, 3, 1, 4), phi, k.transpose(1, 2),
                    turned.transpose(1, 2), v.transpose(1, 2))

        self.before = machine.compile(before)
        self.choose = machine.compile(choose_function(m))
        self.use_cache(plain_cache)

    def use_cache(self, cache) -> None:
        self.attend = self.machine.compile(attend_function(self.m, cache))

    def start(self, batch: int) -> None:
        """Empty streams."""
        device = self.machine.device
        self.batch = batch
        self.states = [empty_state(self.machine, self.g, self.m, batch) for _ in self.w.layers]
        self.first = torch.full((batch,), self.m.window, device=device)
        self.row = torch.full((batch,), self.m.window, device=device)  # of the next token
        self.begin = torch.full((batch,), -self.m.window, device=device)  # position of row 0
        self.tokens = torch.zeros(batch, device=device, dtype=torch.int64)
        self.index = torch.arange(batch, device=device)

    def fill(self) -> None:
        """States of streams long past their first overflow: random rows, H and s, full caches."""
        chunks = 1024 * self.m.chunk
        for state in self.states:
            for rows in (state.keys, state.turned, state.values):
                rows.normal_()
            state.H.uniform_(-2.0, 2.0)
            state.s.uniform_(1.0, 4.0)
            state.absorbed.fill_(chunks - self.m.pairs)
            state.live.fill_(True)
            state.position.copy_(torch.arange(self.m.pairs, device=state.position.device) * 7)
        self.first.zero_()
        self.row.fill_(self.m.window)
        self.begin.fill_(chunks)
        self.tokens.copy_(self.index % self.g.vocab)

    def step(self) -> Tensor:
        """One token of every stream, without events: its final row [batch, hidden]."""
        m = self.m
        x = F.embedding(self.tokens, self.w.embedding)[:, None]
        cos, sin = (table[self.row][:, None] for table in self.turns)
        for w, state in zip(self.w.layers, self.states):
            q_memory, q_window, phi, k, turned, v = self.before(x, w.input_norm, w.qkv, cos, sin,
                                                                w.map_q)
            state.keys[self.index, :, self.row + m.pairs] = k[:, :, 0]
            state.values[self.index, :, self.row + m.pairs] = v[:, :, 0]
            state.turned[self.index, :, self.row] = turned[:, :, 0]
            y = self.read(q_memory, q_window, phi, state, self.row[:, None], w.gate)
            x = self.dense.after(x, y, w.o, w.post_norm, w.gate_up, w.down)
        self.row += 1
        return x[:, 0]

    def decode(self) -> None:
        self.tokens.copy_(self.dense.pick(self.step(), self.w.norm, self.w.head))

    def read(self, q_memory, q_window, phi, state: State, row, gate) -> Tensor:
        gate = torch.sigmoid(gate.float()).view(self.g.kv_heads, self.g.group)
        return self.attend(q_memory, q_window, phi, state.keys, state.turned, state.values,
                           state.H, state.s, state.absorbed, state.live, self.first, row, gate)

    def prefill(self, tokens: Tensor) -> Tensor:
        """Whole chunks of every stream at a chunk's start, events included: [batch, T, hidden]."""
        m, count = self.m, tokens.shape[1]
        x = F.embedding(tokens, self.w.embedding)
        place = m.window + torch.arange(count, device=x.device) % m.chunk
        cos, sin = (table[place][None] for table in self.turns)
        row = place[:m.chunk].expand(self.batch, -1)
        first, begin = self.first.clone(), self.begin.clone()
        for w, state in zip(self.w.layers, self.states):
            self.first.copy_(first)
            self.begin.copy_(begin)
            parts = self.before(x, w.input_norm, w.qkv, cos, sin, w.map_q)
            y = torch.empty(*x.shape[:2], self.g.heads * self.g.head_dim, device=x.device,
                            dtype=x.dtype)
            for at in range(0, count, m.chunk):
                rows = slice(at, at + m.chunk)
                q_memory, q_window, phi, k, turned, v = (part[..., rows, :] for part in parts)
                for to, new in ((state.keys[:, :, m.pairs:], k), (state.turned, turned),
                                (state.values[:, :, m.pairs:], v)):
                    to[:, :, m.window:].copy_(new)
                y[:, rows] = self.read(q_memory, q_window, phi, state, row, w.gate)
                self.event(w.map_k, state, slice(0, self.batch))
                self.next_chunk()
            x = self.dense.after(x, y, w.o, w.post_norm, w.gate_up, w.down)
        return x

    def next_chunk(self) -> None:
        self.first.sub_(self.m.chunk).clamp_(min=0)
        self.begin.add_(self.m.chunk)

    def event(self, map_k: Tensor, state: State, some: slice) -> None:
        """Evicts the window's oldest chunk: the best pairs stay, the others go to H and s."""
        m, one = self.m, state.slice(some)
        keys, values, live, position, added, gone, count = self.choose(
            one.keys, one.values, one.H, one.s, one.live, one.position, self.first[some],
            self.begin[some], query_maps(map_k, self.g))
        # [B K, G F, D] += [B K, G F, chunk] [B K, chunk, D]
        one.H.view(-1, *added.shape[2:3], self.g.head_dim).baddbmm_(added.flatten(0, 1),
                                                                   gone.flatten(0, 1))
        one.s.add_(added.sum(-1).view_as(one.s))
        one.absorbed.add_(count)
        one.keys[:, :, :m.pairs].copy_(keys)
        one.values[:, :, :m.pairs].copy_(values)
        one.live.copy_(live)
        one.position.copy_(position)
        for rows in (one.keys[:, :, m.pairs:], one.values[:, :, m.pairs:]):
            rows[:, :, :m.window].copy_(rows[:, :, m.chunk:].clone())
        cos, sin = (table[:m.window] for table in self.turns)
        one.turned[:, :, :m.window].copy_(
            rotate(one.keys[:, :, m.pairs:m.pairs + m.window], cos, sin))

    def events(self) -> None:
        """Of all streams and layers, after a whole chunk of decode steps."""
        for w, state in zip(self.w.layers, self.states):
            for at in range(0, self.batch, EVENT_STREAMS):
                self.event(w.map_k, state, slice(at, min(at + EVENT_STREAMS, self.batch)))
        self.next_chunk()
        self.row.sub_(self.m.chunk)
