"""The LoLA peer against tools/reference_model, the judge of every implementation here."""
from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from dense import Dense, Layer, Weights, random_weights
from geometry import GEOMETRIES, TINY_MEMORY, Geometry, Memory
from harness import Machine, Results, relative_error
from lola_peer import LolaPeer

Tensor = torch.Tensor
# Sums in another order, over a dozen chunks; and pairs that such a difference may let go.
ERROR, PAIRS = 2e-4, 0.01
# 8-bit roundings of every activation, and the near ties that they decide otherwise. A share p of
# pairs that went elsewhere changes H by up to sqrt(2 p) of its size.
ERROR_BF16, PAIRS_BF16 = 0.08, 0.1
ERROR_H_BF16 = (2 * PAIRS_BF16) ** 0.5


def converted(weights: Weights, dtype: torch.dtype) -> Weights:
    return Weights(*(tensor.to(dtype) for tensor in weights[:3]),
                   [Layer(*(tensor.to(dtype) for tensor in layer)) for layer in weights.layers])


def judge(g: Geometry, m: Memory, weights: Weights, batch: int):
    """tools/reference_model's streaming decoder on the same weights, float32 on the CPU."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools/reference_model"))
    from lola_reference import LIFELONG, LolaReference  # noqa: E402
    from dataclasses import replace
    from safetensors.torch import save_file

    q, kv = g.heads * g.head_dim, g.kv_heads * g.head_dim
    tensors = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm}
    for i, w in enumerate(weights.layers):
        name = f"model.layers.{i}."
        parts = dict(zip("qkv", w.qkv.split((q, kv, kv))))
        tensors |= {f"{name}self_attn.{p}_proj.weight": tensor for p, tensor in parts.items()}
        gate, up = w.gate_up.chunk(2)
        tensors |= {name + "self_attn.o_proj.weight": w.o, name + "mlp.gate_proj.weight": gate,
                    name + "mlp.up_proj.weight": up, name + "mlp.down_proj.weight": w.down,
                    name + "input_layernorm.weight": w.input_norm,
                    name + "post_attention_layernorm.weight": w.post_norm,
                    name + "self_attn.feature_map_q.mlp.layer": w.map_q,
                    name + "self_attn.feature_map_k.mlp.layer": w.map_k,
                    name + "self_attn.window_factors": w.gate}
    config = {"head_dim": g.head_dim, "num_attention_heads": g.heads,
              "num_key_value_heads": g.kv_heads, "num_hidden_layers": g.layers,
              "rms_norm_eps": g.eps, "rope_theta": g.theta, "tie_word_embeddings": g.tied}
    settings = replace(LIFELONG, window=m.window, chunk=m.chunk, cache_pairs=m.pairs,
                       memory_distance=m.distance, mass_cap=m.mass_cap,
                       redundancy_threshold=m.redundancy, score_epsilon=m.score_epsilon,
                       cache_sharing="group")
    with tempfile.TemporaryDirectory() as folder:
        save_file({n: t.float().cpu().contiguous() for n, t in tensors.items()},
                  Path(folder) / "model.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return LolaReference(folder, settings, batch)


def peer_logits(peer: LolaPeer, tokens: Tensor, prefilled: int) -> Tensor:
    """Logits after every token: `prefilled` of them at once, the others one by one, recorded."""
    m, found = peer.m, []
    head = (peer.w.norm, peer.w.head)
    if prefilled:
        found.append(peer.dense.logits(peer.prefill(tokens[:, :prefilled]), *head))
    out = torch.zeros(tokens.shape[0], peer.g.vocab, device=tokens.device)
    saved = [{k: v.clone() for k, v in vars(state).items()} for state in peer.states]
    places = [t.clone() for t in (peer.first, peer.row, peer.begin)]
    step = peer.machine.record(lambda: out.copy_(peer.dense.logits(peer.step(), *head)))
    event = peer.machine.record(peer.events)
    # Recording ran both: back to where the prefill left off.
    for state, before in zip(peer.states, saved):
        for name, tensor in before.items():
            getattr(state, name).copy_(tensor)
    for tensor, before in zip((peer.first, peer.row, peer.begin), places):
        tensor.copy_(before)
    for i in range(prefilled, tokens.shape[1]):
        peer.tokens.copy_(tokens[:, i])
        step()
        found.append(out[:, None].clone())
        if (i + 1) % m.chunk == 0:
            event()
    return torch.cat([part.float() for part in found], 1)


def other_pairs(peer: LolaPeer, reference) -> float:
    """Share of cached pairs that the judge does not hold, over all layers, heads and streams."""
    missing, total = 0, 0
    for state, memory in zip(peer.states, reference.layers):
        want = memory.cache_position[:, ::peer.g.group]  # heads of a group hold copies
        for got, live, other in zip(state.position.flatten(0, 1).cpu(),
                                    state.live.flatten(0, 1).cpu(), want.flatten(0, 1)):
            mine = set(got[live].tolist())
            missing += len(mine ^ {p for p in other.tolist() if p < 2 ** 42})
            total += max(1, len(mine))
    return missing / total


def gate(machine: Machine, results: Results) -> None:
    """From empty streams through the first overflow to a dozen events, by steps and by prefill.

    In float32 with exact products, so that errors are small enough to tell; then the same code in
    the type that is timed.
    """
    g, m, batch = GEOMETRIES["tiny"], TINY_MEMORY, 3
    weights = random_weights(machine.variant(dtype=torch.bfloat16), g)
    count = 12 * m.chunk + 5
    tokens = torch.randint(g.vocab, (batch, count), device=machine.device,
                           generator=torch.Generator(machine.device).manual_seed(5))
    reference = judge(g, m, weights, batch)
    want = reference.feed(tokens.cpu())
    results.settings["lola gate"] = asdict(m)
    for dtype, prefilled in ((torch.float32, 0), (torch.float32, 8 * m.chunk),
                             (torch.bfloat16, 8 * m.chunk)):
        exact = dtype == torch.float32
        torch.set_float32_matmul_precision("highest" if exact else "high")
        where = machine.variant(dtype=dtype)
        peer = LolaPeer(where, g, m, converted(weights, dtype), Dense(where, g))
        peer.start(batch)
        got = peer_logits(peer, tokens, prefilled)
        how = f"LoLA, {str(dtype)[6:]}, {prefilled} tokens prefilled, {count - prefilled} decoded"
        limit, limit_h, pairs = ((ERROR, ERROR, PAIRS) if exact else
                                 (ERROR_BF16, ERROR_H_BF16, PAIRS_BF16))
        results.gate(f"{how}: logits", relative_error(got, want), limit)
        results.gate(f"{how}: other pairs kept", other_pairs(peer, reference), pairs)
        H = torch.stack([state.H.flatten(1, 2) for state in peer.states])
        want_h = torch.stack([memory.H for memory in reference.layers])
        results.gate(f"{how}: H", relative_error(H, want_h), limit_h)
    torch.set_float32_matmul_precision("high")
