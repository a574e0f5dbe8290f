"""Times the LoLA peer: decode by batch, prefill, and single events of one layer."""
from __future__ import annotations

from dataclasses import replace

import torch

from dense import Dense, random_weights
from geometry import TINY_MEMORY, Geometry, Memory
from harness import Machine, Results, Row, attempt, measured, relative_error
from lola_gate import gate
from lola_parts import flash_cache, plain_cache
from lola_peer import EVENT_STREAMS, LolaPeer

RESERVE = 6 << 30  # bytes left free: recordings, and the working memory of events
ERROR_BF16 = 3e-2
Tensor = torch.Tensor


def full_batch(machine: Machine, g: Geometry, m: Memory, most: int) -> int:
    """Streams that fit: states, and the activations of a step and of its recording."""
    logits = 3 * 4 * g.heads * (m.pairs + m.rows)
    activations = 2 * (machine.element * (2 * g.vocab + 8 * (g.hidden + g.ffn)) + logits)
    each = m.state_bytes(g, machine.element) + activations
    batch = max(0, min(most, (machine.free_bytes() - (RESERVE if machine.cuda else 0)) // each))
    return batch if batch < EVENT_STREAMS else batch // EVENT_STREAMS * EVENT_STREAMS


def fastest_cache(peer: LolaPeer, count: int) -> str:
    """Takes the faster of two ways to attend to the sparse cache, when both give the same.

    For `count` rows of every stream at once.
    """
    machine, g, state = peer.machine, peer.g, peer.states[0]
    shape = (peer.batch, g.kv_heads, g.group, count)
    row = peer.m.window + torch.arange(count, device=machine.device).expand(peer.batch, -1)

    def inputs(width: int, dtype) -> Tensor:
        return torch.randn(*shape, width, device=machine.device, dtype=dtype)

    q, phi = inputs(g.head_dim, machine.dtype), inputs(g.features, torch.float32).softmax(-1)
    ways, want = {"products": plain_cache}, None
    if machine.cuda:
        ways["flash"] = flash_cache
    found, shown = [], []

    def read() -> Tensor:
        return peer.read(q, q, phi, state, row, peer.w.layers[0].gate)

    for name, cache in ways.items():
        peer.use_cache(cache)
        try:
            got = read()[:1]
            want = got if want is None else want
            if relative_error(got, want) > ERROR_BF16:
                shown.append(f"{name} wrong by {relative_error(got, want):.2g}")
                continue
            found.append((min(machine.times(machine.record(read), 0.05, 5, 50)), name))
            shown.append(f"{name} {1e6 * found[-1][0]:.0f} us")
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as refused:
            shown.append(f"{name} refused: {str(refused).splitlines()[0]}")
    print(f"  attention of a layer, B {peer.batch}, {count} rows: {'; '.join(shown)}", flush=True)
    name = min(found)[1]
    peer.use_cache(ways[name])
    return name


def floor_us(results: Results, bytes_read: float, operations: float) -> float:
    return 1e6 * max(bytes_read / results.copy_bytes_per_s, operations / results.bf16_flops_per_s)


def decode(peer: LolaPeer, results: Results, batch: int, full: bool) -> None:
    """Whole chunks of steps and the event after them: the mean step is what counts."""
    machine, g, m = peer.machine, peer.g, peer.m
    peer.states = []
    peer.start(batch)
    peer.fill()
    cache = fastest_cache(peer, 1)
    machine.free_bytes()
    step = machine.record(peer.decode)
    events = machine.record(peer.events)

    def chunk() -> None:
        for _ in range(m.chunk):
            step()
        events()

    peer.fill()
    seconds = [s / m.chunk for s in machine.times(chunk, 5.0, 3, 40, warm=0)]
    bytes_read = g.read_parameters * machine.element + batch * m.read_bytes(g, machine.element)
    results.add(Row("lola", "decode", g.name, g.layers, batch, full=full,
                    floor_us=floor_us(results, bytes_read, 2.0 * g.read_parameters * batch),
                    note=f"cache by {cache}; the step's share of events is in it",
                    **measured(seconds, batch)))
    seconds = machine.times(events, 0.5, 3, 20, warm=0)
    results.add(Row("lola", "events", g.name, g.layers, batch, full=full,
                    note="all layers and streams once", **measured(seconds, batch * m.chunk)))


def prefill(peer: LolaPeer, results: Results, batch: int, count: int) -> None:
    """Steps of `count` tokens of each stream, no logits."""
    machine, g = peer.machine, peer.g
    peer.start(batch)
    peer.fill()
    cache = fastest_cache(peer, peer.m.chunk)
    tokens = torch.randint(g.vocab, (batch, count), device=machine.device)
    run = machine.record(lambda: peer.prefill(tokens))
    seconds = machine.times(run, 2.0, 5)
    operations = 2.0 * g.layer_parameters * batch * count
    results.add(Row("lola", "prefill", g.name, g.layers, batch,
                    floor_us=floor_us(results, g.layer_parameters * machine.element, operations),
                    note=f"{count} tokens a step; cache by {cache}",
                    **measured(seconds, batch * count)))


def run(machine: Machine, results: Results, g: Geometry, batches: list[int], most: int) -> None:
    """Prefill, then decode at every batch; 0 is the full one."""
    gate(machine, results)
    m = TINY_MEMORY if g.name == "tiny" else Memory()
    peer = LolaPeer(machine, g, m, random_weights(machine, g), Dense(machine, g))
    attempt(machine, results, f"LoLA prefill, {g.name}", 90,
            lambda some: prefill(peer, results, some, 2048 if machine.cuda else 2 * m.chunk))
    for wanted in batches:
        peer.states = []
        full = wanted == 0
        batch = full_batch(machine, g, m, most) if full else wanted
        attempt(machine, results, f"LoLA decode, {g.name}, B {wanted or 'full'}", 90,
                lambda some: decode(peer, results, some, full), batch,
                EVENT_STREAMS if full else batch)


def run_events(machine: Machine, results: Results, g: Geometry, batches: list[int]) -> None:
    """Events of one layer: operation by operation as written, and compiled and recorded."""
    one = replace(g, layers=1)
    m = TINY_MEMORY if g.name == "tiny" else Memory()
    plain = machine.variant(compiled=False)
    weights = random_weights(machine, replace(one, vocab=2, ffn=16))
    for how, where in (("operation by operation", plain), ("compiled, recorded", machine)):
        peer = LolaPeer(where, one, m, weights, Dense(where, one))
        for batch in batches:
            def case(some: int) -> None:
                peer.start(some)
                peer.fill()

                def event() -> None:
                    peer.event(weights.layers[0].map_k, peer.states[0], slice(0, some))

                run_one = event if where is plain else machine.record(event)
                results.add(Row("event", f"event, {how}", g.name, 1, some,
                                note="one layer, all streams", **measured(
                                    machine.times(run_one, 1.0), some * m.chunk)))
            attempt(machine, results, f"event, {how}, B {batch}", 20, case, batch, batch)
