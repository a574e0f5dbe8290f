"""Trains the softmax teacher on pass key text; seeded, resumable, one CPU core is enough.

The curriculum grows the length: the model first learns to match names where questions lie
close to their statements, and then only has to stretch that. The last stage adds a term that
makes badly recalled pairs rare (MemoryTerm), which is what LoLA's cache looks for.

    python train.py --out build/teacher
"""
from __future__ import annotations

import argparse
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from linear_attention import FeatureMaps, rarity_loss
from checkpoint import is_feature_weight, load_directory
from llama import Llama, ModelConfig, rotary_table, rotate
from optim import make_optimisers
from passkey_text import DEFAULT_TEXT, TextSource


CURRICULUM = ["192:6:dense=0.3,needles=3", "512:2:dense=0.1", "1024:8:dense=0.1",
              "1024:6:dense=0.1,numbers=0.4,memory=0.3"]


def loss_parts(model: Llama, tokens: torch.Tensor, classes: torch.Tensor):
    """Mean loss of plain text, mean loss of answers, and the share of right answer bytes."""
    logits = model(tokens[:, :-1]).float()
    target, kind = tokens[:, 1:], classes[:, 1:]
    each = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    each = each.view_as(target)
    answer = kind == 2
    right = (logits.argmax(-1) == target)[answer].float().mean()
    return each[kind == 1].mean(), each[answer].mean(), right


class MemoryTerm:
    """Extra loss that makes pairs which memory cannot recall rare; see rarity_loss."""

    def __init__(self, model: Llama, window: int):
        c = model.c
        self.c, self.window, self.records = c, window, []
        self.maps = FeatureMaps(c.heads, c.head_dim, c.head_dim).requires_grad_(False)
        for layer in model.model.layers:
            layer.self_attn.record = self.records

    def __call__(self, rotary: bool) -> torch.Tensor:
        """Mean over the layers of the last forward pass."""
        losses = []
        for k, v in self.records:
            k, v = k.float(), v.float()
            if rotary:
                k = rotate(k, *rotary_table(k.shape[2], self.c.head_dim, self.c.theta))
            losses.append(rarity_loss(self.maps, k, v, self.window))
        return torch.stack(losses).mean()


@dataclass
class Stage:
    """One part of the curriculum; the shares and weights are those of this part."""

    length: int
    tokens: float
    needles: float = 4
    dense: float = 0.0
    numbers: float = 0.25
    memory: float = 0.0


def parse_stage(text: str) -> Stage:
    """'192:6:dense=0.3' is length 192 for 6 million tokens with 30 % dense documents."""
    length, millions, *rest = text.split(":")
    options = dict(item.split("=") for item in ",".join(rest).split(",") if item)
    return Stage(int(length), float(millions) * 1e6, **{k: float(v) for k, v in options.items()})


def stage_at(stages: list[Stage], seen: float) -> Stage | None:
    """The stage in force after `seen` tokens; None when the curriculum is over."""
    for stage in stages:
        if seen < stage.tokens:
            return stage
        seen -= stage.tokens
    return None


def warm_start(directory: Path, changes: dict) -> Llama:
    """The softmax model of a directory, its kv heads averaged down to those wanted."""
    shape, tensors = load_directory(directory)
    model = Llama(ModelConfig(**(shape.to_dict() | changes)))
    group = shape.kv_heads // model.c.kv_heads
    state = {name: tensor for name, tensor in tensors.items() if not is_feature_weight(name)}
    for name in state:
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = state[name].unflatten(0, (model.c.kv_heads, group, shape.head_dim))
            state[name] = heads.mean(1).flatten(0, 1)
    model.load_state_dict(state)
    return model


class Run:
    """State of one training run and its file."""

    def __init__(self, args):
        self.args = args
        torch.manual_seed(args.seed)
        self.model = (warm_start(args.warm, json.loads(args.model)) if args.warm
                      else Llama(ModelConfig(**json.loads(args.model))))
        self.config = self.model.c
        self.optimisers = make_optimisers(self.model, args)
        self.memory = MemoryTerm(self.model, args.window)
        self.source = TextSource(args.text, args.seed)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.file = args.out / "train.pt"
        if self.file.exists():
            self.load()

    def load(self) -> None:
        state = torch.load(self.file, weights_only=False)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.source.rng.bit_generator.state = state["rng"]
        self.step, self.tokens, self.seconds = state["counters"]

    def save(self) -> None:
        part = self.file.with_suffix(".part")
        torch.save({"model": self.model.state_dict(), "config": self.config.to_dict(),
                    "optimisers": [o.state_dict() for o in self.optimisers],
                    "rng": self.source.rng.bit_generator.state,
                    "counters": (self.step, self.tokens, self.seconds)}, part)
        part.replace(self.file)

    def set_rate(self, total: float) -> None:
        """Linear warm-up, then constant, then linear to 2 % over the last share."""
        left = (total - self.tokens) / (total * self.args.decay + 1)
        factor = min(1.0, (self.step + 1) / self.args.warmup, max(0.02, left))
        for optimiser, base in zip(self.optimisers, (self.args.lr, self.args.muon_lr)):
            for group in optimiser.param_groups:
                group["lr"] = base * factor

    def train_step(self, stage: Stage) -> tuple[int, float, float, float]:
        """One batch; longer stages mix in shorter texts, so that near questions stay right."""
        args, length = self.args, stage.length
        if length > 256:
            length = int(self.source.rng.choice([length, length // 2, length // 4],
                                                p=[0.6, 0.2, 0.2]))
        rows = max(1, args.batch_tokens // length)
        tokens, classes = self.source.batch(rows, length + 1, int(stage.needles),
                                            args.number_share, stage.numbers, stage.dense)
        tokens, classes = torch.from_numpy(tokens), torch.from_numpy(classes)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            plain, answer, right = loss_parts(self.model, tokens, classes)
        loss = plain + answer
        if stage.memory:
            loss = loss + stage.memory * self.memory(self.step % 2 == 0)
        self.memory.records.clear()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += rows * length
        return length, plain.item(), answer.item(), right.item()


def train(run: Run) -> None:
    """Steps until the curriculum ends, with a line every few seconds."""
    args = run.args
    stages = [parse_stage(text) for text in args.stage]
    total = sum(stage.tokens for stage in stages)
    saved = shown = time.time()
    recent: list = []
    stop: list = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(1))
    while not stop and (stage := stage_at(stages, run.tokens)) is not None:
        begin = time.time()
        run.set_rate(total)
        recent.append(run.train_step(stage))
        run.seconds += time.time() - begin
        if time.time() - shown > args.log_seconds:
            # Only full-length batches count: shorter ones would flatter the figures.
            full = [r for r in recent if r[0] == stage.length] or recent
            plain, answer, right = (sum(r[i] for r in full) / len(full) for i in (1, 2, 3))
            print(f"step {run.step} length {stage.length} tokens {run.tokens / 1e6:.2f}M of "
                  f"{total / 1e6:.1f}M text {plain:.3f} answers {answer:.3f} bytes right "
                  f"{right:.3f} {run.tokens / run.seconds:.0f} tokens/s "
                  f"{run.seconds / 60:.1f} min", flush=True)
            shown, recent = time.time(), []
        if time.time() - saved > args.save_seconds:
            run.save()
            saved = time.time()
    run.save()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the softmax teacher.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/teacher"), help="folder of train.pt")
    add("--text", type=Path, default=DEFAULT_TEXT, help="word list file")
    add("--model", default="{}", help="JSON of ModelConfig fields that differ")
    add("--warm", type=Path, help="model directory to start from; with fewer kv_heads in --model "
        "the heads of a group start as their mean")
    add("--stage", action="append", help="length:million tokens[:dense=,needles=,numbers=,"
        "memory=], repeat for a curriculum; the default is " + " ".join(CURRICULUM))
    add("--batch-tokens", type=int, default=6144, help="tokens in one step")
    add("--number-share", type=float, default=0.1, 
        help="sentences with other numbers, in documents that have any")
    add("--window", type=int, default=64, help="chunk of the memory term")
    add("--lr", type=float, default=2e-3, help="AdamW rate")
    add("--muon", action=argparse.BooleanOptionalAction, default=True, help="use Muon")
    add("--muon-lr", type=float, default=1e-2, help="Muon rate")
    add("--warmup", type=int, default=100, help="warm-up steps")
    add("--decay", type=float, default=0.25, help="last share of tokens with falling rate")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True, help="autocast")
    add("--threads", type=int, default=1, help="CPU threads")
    add("--seed", type=int, default=1, help="seed of weights and data")
    add("--log-seconds", type=float, default=10, help="seconds between lines")
    add("--save-seconds", type=float, default=60, help="seconds between checkpoints")
    args = parser.parse_args()
    args.stage = args.stage or CURRICULUM
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    train(Run(args))


if __name__ == "__main__":
    main()
