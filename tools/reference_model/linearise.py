"""Linearises a trained teacher: attention transfer, optionally fine-tuning of maps and gates.

The plain Llama weights stay as they are, so softmax mode is the teacher itself. Batches
alternate between memory at one constant distance (profile lifelong) and rotary memory
(profile paper): one set of maps serves both. The text holds no long-range question.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from checkpoint import is_feature_weight, load_directory, lola_object, save_directory
from linear_attention import FeatureMaps, hybrid_attention, recall_loss
from llama import Llama, ModelConfig, rotary_table, rotate
from passkey_text import DEFAULT_TEXT, TextSource
from recall_text import RecallText


def hybrid(model: Llama, maps: FeatureMaps, q, k, v, args, constant: bool) -> torch.Tensor:
    distance = args.memory_distance if constant else None
    cap = args.mass_cap if constant else 0.0
    return hybrid_attention(maps, q, k, v, model.c.theta, args.window, distance, cap)


def transfer_loss(model: Llama, maps: list[FeatureMaps], tokens, args, constant: bool):
    """Relative squared error of the heads' outputs, layer by layer, on the teacher's inputs."""
    cos, sin = rotary_table(tokens.shape[1], model.c.head_dim, model.c.theta)
    losses, recalls = [], []
    with torch.no_grad():
        x = model.model.embed_tokens(tokens)
    for layer, layer_maps in zip(model.model.layers, maps):
        with torch.no_grad():
            attention = layer.self_attn
            q, k, v = attention.project(layer.input_layernorm(x))
            wanted = attention.mix(q, k, v, cos, sin)
            y = attention.o_proj(wanted.transpose(1, 2).flatten(2))
            x = x + y
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        given = hybrid(model, layer_maps, q, k, v, args, constant)
        error = (given - wanted).square().mean((0, 2, 3))
        losses.append((error / wanted.square().mean((0, 2, 3))).mean())
        k_memory = k if constant else rotate(k, cos, sin)
        recalls.append(recall_loss(layer_maps, k_memory, v, args.window))
    return torch.stack(losses), torch.stack(recalls)


def hybrid_logits(model: Llama, maps: list[FeatureMaps], tokens, args, constant: bool):
    """Logits of the linearised model with an empty sparse cache."""
    x = model.model.embed_tokens(tokens)
    for layer, layer_maps in zip(model.model.layers, maps):
        q, k, v = layer.self_attn.project(layer.input_layernorm(x))
        y = hybrid(model, layer_maps, q, k, v, args, constant)
        x = x + layer.self_attn.o_proj(y.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(model.model.norm(x))


def fit(model: Llama, maps: list[FeatureMaps], args) -> None:
    """Attention transfer for args.transfer steps, then next-byte loss for args.tune steps."""
    source = (RecallText(args.prose, args.seed) if args.recall_text
              else TextSource(args.text, args.seed))
    parameters = [p for m in maps for p in m.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=args.lr, betas=(0.9, 0.95))
    begin, total = time.time(), args.transfer + args.tune
    for step in range(total):
        tuning = step >= args.transfer
        done = (step - args.transfer) / args.tune if tuning else step / args.transfer
        for group in optimiser.param_groups:
            group["lr"] = (args.tune_lr if tuning else args.lr) * max(0.05, 1 - done)
        rows = [source.local_document(args.length, 0.1 * (source.rng.random() < 0.25))
                for _ in range(args.rows)]
        tokens = torch.from_numpy(np.stack(rows))
        constant = step % 2 == 0 if args.memory == "both" else args.memory == "constant"
        if tuning:
            logits = hybrid_logits(model, maps, tokens, args, constant)[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            shown = f"{loss.item():.4f}"
        else:
            each, recall = transfer_loss(model, maps, tokens, args, constant)
            loss = each.sum() + args.recall * recall.sum()
            shown = " ".join(f"{value:.4f}" for value in (*each.tolist(), *recall.tolist()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 < 2:
            print(f"{'tune' if tuning else 'transfer'} {step} of {total} "
                  f"{'constant' if constant else 'rotary'} {shown} "
                  f"{time.time() - begin:.0f} s", flush=True)


def load_teacher(path: Path) -> tuple[Llama, dict]:
    """A training run's file, or the softmax model inside a directory that was linearised before."""
    if path.is_dir():
        config, tensors = load_directory(path)
        model = Llama(config)
        model.load_state_dict({n: t for n, t in tensors.items() if not is_feature_weight(n)})
        made = json.loads((path / "config.json").read_text())["lola"]["provenance"]["teacher"]
        counters = (made["steps"], made["tokens"], made["minutes"] * 60)
        return model.requires_grad_(False).eval(), {"counters": counters}
    state = torch.load(path, weights_only=False)
    model = Llama(ModelConfig(**state["config"]))
    model.load_state_dict(state["model"])
    return model.requires_grad_(False).eval(), state


def write(model: Llama, maps: list[FeatureMaps], state: dict, args) -> None:
    tensors = dict(model.state_dict())
    for i, layer_maps in enumerate(maps):
        tensors |= layer_maps.tensors(i)
    step, tokens, seconds = state["counters"]
    provenance = {
        "teacher": {"steps": step, "tokens": tokens, "minutes": round(seconds / 60, 1)},
        "linearised": {"length": args.length, "rows": args.rows, "transfer": args.transfer,
                       "tune": args.tune, "memory": args.memory, "seed": args.seed},
    }
    defaults = {"memory_distance": args.memory_distance, "mass_cap": args.mass_cap,
                "cache_pairs": args.cache_pairs, "profile": "lifelong"}
    lola = lola_object(args.features, args.window, args.length, defaults, provenance)
    if args.memory == "rotary":
        lola["trained"]["memory_positions"] = "rotary"
    save_directory(args.out, model.c, tensors, args.trained_length, lola)


def main() -> None:
    parser = argparse.ArgumentParser(description="Linearise a teacher.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--teacher", type=Path, default=Path("build/teacher/train.pt"),
        help="train.pt, or a model directory")
    add("--out", type=Path, default=Path("models/passkey-1m"), help="model directory")
    add("--text", type=Path, default=DEFAULT_TEXT, help="word list file")
    add("--recall-text", action="store_true", help="text of the recall tasks instead")
    add("--prose", type=Path, default=None, help="folder of plain text files (*.txt) for it")
    add("--window", type=int, default=64, help="window and chunk")
    add("--features", type=int, default=32, help="features per half")
    add("--memory", choices=("both", "constant", "rotary"), default="both",
        help="positions of the memory that maps and gates learn to be read at")
    add("--memory-distance", type=int, default=128, help="tokens, for constant positions")
    add("--mass-cap", type=int, default=512, help="for constant memory positions")
    add("--cache-pairs", type=int, default=128, help="default written to config.json")
    add("--length", type=int, default=1024, help="tokens in one row")
    add("--trained-length", type=int, default=1024, help="the teacher's length")
    add("--rows", type=int, default=4, help="rows in one step")
    add("--transfer", type=int, default=120, help="attention transfer steps")
    add("--tune", type=int, default=0, help="fine-tuning steps of maps and gates")
    add("--recall", type=float, default=0.0, help="weight of the self-recall loss")
    add("--lr", type=float, default=1e-2, help="rate of attention transfer")
    add("--tune-lr", type=float, default=2e-3, help="rate of fine-tuning")
    add("--seed", type=int, default=100, help="seed of the text")
    add("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model, state = load_teacher(args.teacher)
    c = model.c
    maps = ([FeatureMaps.load(state["maps"], i) for i in range(c.layers)] if state.get("maps")
            else [FeatureMaps(c.heads, c.head_dim, args.features) for _ in range(c.layers)])
    fit(model, maps, args)
    write(model, maps, state, args)
    print(json.dumps({"out": str(args.out), "gates": [
        [round(g, 3) for g in torch.sigmoid(m.gate).tolist()] for m in maps]}))


if __name__ == "__main__":
    main()
