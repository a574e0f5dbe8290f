"""Trains the softmax teacher of the recall tasks, going on from a smaller finished model.

    python train_recall.py --warm ../../models/passkey-1m --prose TEXTS --out build/recall \\
        --stage 256:4:dense=0.5 --stage 512:6 --stage 1024:8:memory=0.3
"""
from __future__ import annotations

import argparse
import collections
import signal
import time
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F

from checkpoint import is_feature_weight, load_directory
from llama import Llama, ModelConfig, rotary_table, rotate
from optim import make_optimisers
from linear_attention import FeatureMaps, recall_errors
from recall_mix import Mix, training_batch
from recall_text import ANSWER, PLAIN, VALUE, RecallText


def grow(directory: Path, insert: int, theta: float) -> Llama:
    """The model of a directory with one more layer that does nothing yet at index `insert`."""
    shape, tensors = load_directory(directory)
    layers = shape.layers + (insert >= 0)
    model = Llama(ModelConfig(**(shape.to_dict() | {"layers": layers, "theta": theta})))
    state = model.state_dict()
    for name, tensor in tensors.items():
        if is_feature_weight(name):
            continue
        parts = name.split(".")
        if 0 <= insert and parts[1] == "layers" and int(parts[2]) >= insert:
            parts[2] = str(int(parts[2]) + 1)
        state[".".join(parts)].copy_(tensor)
    if insert >= 0:
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            state[f"model.layers.{insert}.{part}.weight"].zero_()
    model.load_state_dict(state)
    return model


def parse_stage(text: str) -> tuple[int, float, float, Mix]:
    """'512:6:dense=0.1,memory=0.3' is length 512 for 6 million tokens."""
    length, millions, *rest = text.split(":")
    options = dict(item.split("=") for item in ",".join(rest).split(",") if item)
    memory = float(options.pop("memory", 0))
    known = {f.name for f in fields(Mix)}
    if set(options) - known:
        raise ValueError(f"stage {text}: unknown option {set(options) - known}")
    return int(length), float(millions) * 1e6, memory, Mix(**{k: float(v)
                                                              for k, v in options.items()})


class SelectionTerm:
    """Extra loss that makes what statements state stand out from the text around it.

    LoLA keeps the pairs with the largest self-recall error. In the layer that answers
    questions, the errors of all other text should be small beside those of stated values:
    ratio of the fourth-power mean of the former, which looks at the largest ones, to the mean
    of the latter, per document and head. Scaling keys or values does not change it.
    """

    def __init__(self, model: Llama, layer: int, window: int):
        self.c, self.window, self.records = model.c, window, []
        c = model.c
        self.maps = FeatureMaps(c.heads, c.head_dim, c.head_dim).requires_grad_(False)
        model.model.layers[layer].self_attn.record = self.records

    def __call__(self, classes: torch.Tensor, rotary: bool) -> torch.Tensor:
        """For the last forward pass; classes [rows, length] of its tokens."""
        k, v = (x.float() for x in self.records[-1])
        if rotary:
            k = rotate(k, *rotary_table(k.shape[2], self.c.head_dim, self.c.theta))
        error, _ = recall_errors(self.maps, k, v, self.window)
        size = (error + 1e-6).sqrt()
        classes = classes[:, None, 2 * self.window:].expand_as(size)
        stated, text = (classes == VALUE).float(), (classes == PLAIN).float()
        has = stated.sum(-1) > 0
        tail = ((size ** 4 * text).sum(-1) / text.sum(-1).clamp_min(1)) ** 0.25
        keep = (size * stated).sum(-1) / stated.sum(-1).clamp_min(1)
        ratio = (tail / keep.clamp_min(1e-6)).clamp_max(3.0)
        return (ratio * has).sum() / has.sum().clamp_min(1)


class Run:
    """State of one training run and its file."""

    def __init__(self, args):
        self.args = args
        torch.manual_seed(args.seed)
        self.file = args.out / "train.pt"
        state = torch.load(self.file, weights_only=False) if self.file.exists() else None
        if state:
            self.model = Llama(ModelConfig(**state["config"]))
            self.model.load_state_dict(state["model"])
        else:
            self.model = grow(args.warm, args.insert, args.theta)
        self.optimisers = make_optimisers(self.model, args)
        self.memory = SelectionTerm(self.model, args.answer_layer, 64)
        self.source = RecallText(args.prose, args.seed)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        if state:
            for optimiser, saved in zip(self.optimisers, state["optimisers"]):
                optimiser.load_state_dict(saved)
            self.source.rng.bit_generator.state = state["rng"]
            self.step, self.tokens, self.seconds = state["counters"]

    def save(self) -> None:
        part = self.file.with_suffix(".part")
        torch.save({"model": self.model.state_dict(), "config": self.model.c.to_dict(),
                    "optimisers": [o.state_dict() for o in self.optimisers],
                    "rng": self.source.rng.bit_generator.state,
                    "counters": (self.step, self.tokens, self.seconds)}, part)
        part.replace(self.file)

    def set_rate(self, done: float, total: float) -> None:
        """Linear warm-up, then constant, then linear to 3 % over the last share of this call."""
        left = (total - done) / (total * self.args.decay + 1)
        factor = min(1.0, (self.step + 1) / self.args.warmup, max(0.03, left))
        for optimiser, base in zip(self.optimisers, (self.args.lr, self.args.muon_lr)):
            for group in optimiser.param_groups:
                group["lr"] = base * factor

    def train_step(self, longest: int, memory: float, mix: Mix) -> dict:
        """One batch; longer stages mix in shorter texts. Returns what the log needs."""
        length = longest
        if longest > 256:
            length = int(self.source.rng.choice([longest, longest // 2, longest // 4],
                                                p=[0.4, 0.25, 0.35]))
        rows = max(1, self.args.batch_tokens // length)
        tokens, classes, labels = training_batch(self.source, rows, length + 1, mix)
        tokens, classes = torch.from_numpy(tokens), torch.from_numpy(classes)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(tokens[:, :-1]).float()
        target, kind = tokens[:, 1:], classes[:, 1:]
        each = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        each, answer = each.view_as(target), kind == ANSWER
        plain, asked = each[kind == PLAIN].mean(), each[answer].mean()
        loss = self.args.plain * plain + asked
        rare = torch.zeros(())
        if memory and length >= 256 and length % 64 == 0:
            rare = self.memory(classes[:, :-1], self.step % 2 == 0)
            loss = loss + memory * rare
        self.memory.records.clear()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += rows * length
        right = (logits.detach().argmax(-1) == target)
        share = [(right[i] | ~answer[i]).float().sum() - (~answer[i]).float().sum()
                 for i in range(rows)]
        counts = answer.float().sum(1)
        return {"length": length, "plain": plain.item(), "answer": asked.item(),
                "rare": rare.item(), "labels": labels,
                "right": [(s / c).item() for s, c in zip(share, counts)]}


def show(run: Run, recent: list[dict], longest: int) -> None:
    """One line: losses, and right answer bytes per kind of document."""
    by_label = collections.defaultdict(list)
    for item in recent:
        for label, right in zip(item["labels"], item["right"]):
            by_label[label].append(right)
    def mean(name):
        return sum(r[name] for r in recent) / len(recent)
    full = [r["answer"] for r in recent if r["length"] == longest] or [float("nan")]
    detail = " ".join(f"{k}={100 * sum(v) / len(v):.0f}" for k, v in sorted(by_label.items()))
    print(f"step {run.step} length {longest} tokens {run.tokens / 1e6:.2f}M text "
          f"{mean('plain'):.3f} answers {mean('answer'):.3f} (longest {sum(full) / len(full):.3f}"
          f") selection {mean('rare'):.3f} {run.tokens / run.seconds:.0f} tokens/s "
          f"{run.seconds / 60:.1f} min | {detail}", flush=True)


def train(run: Run) -> None:
    """The stages of this call, one after the other; SIGTERM saves and stops."""
    args, stop = run.args, []
    stages = [parse_stage(text) for text in args.stage]
    total, begin = sum(s[1] for s in stages), run.tokens
    saved = shown = time.time()
    recent: list[dict] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(1))
    end, start = begin, time.time()

    def place() -> float:
        """Tokens of this call so far; with --minutes, what the clock makes of them."""
        if args.minutes:
            return total * (time.time() - start) / 60 / args.minutes
        return run.tokens - begin

    for longest, size, memory, mix in stages:
        end += size
        while place() < end - begin and not stop:
            clock = time.time()
            run.set_rate(place(), total)
            recent.append(run.train_step(longest, memory, mix))
            run.seconds += time.time() - clock
            if time.time() - shown > args.log_seconds:
                show(run, recent, longest)
                shown, recent = time.time(), []
            if time.time() - saved > args.save_seconds:
                run.save()
                saved = time.time()
    run.save()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the teacher of the recall tasks.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/recall"), help="folder of train.pt")
    add("--warm", type=Path, default=Path("../../models/passkey-1m"), help="model to start from")
    add("--insert", type=int, default=1, help="index of the new layer; -1 for none")
    add("--theta", type=float, default=500000.0, help="RoPE theta")
    add("--answer-layer", type=int, default=2, help="layer of the selection term")
    add("--prose", type=Path, default=None, help="folder of plain text files (*.txt)")
    add("--stage", action="append", required=True, help="length:million tokens[:option=value,"
        "...] with memory= and the shares of Mix; repeat for a curriculum")
    add("--batch-tokens", type=int, default=6144, help="tokens in one step")
    add("--plain", type=float, default=0.3, help="weight of the text's loss")
    add("--lr", type=float, default=2e-3, help="AdamW rate")
    add("--muon", action=argparse.BooleanOptionalAction, default=True, help="use Muon")
    add("--muon-lr", type=float, default=1e-2, help="Muon rate")
    add("--warmup", type=int, default=50, help="warm-up steps")
    add("--decay", type=float, default=0.25, help="last share of tokens with falling rate")
    add("--minutes", type=float, default=0.0, help="wall time of this call: the stages' sizes "
        "are then only their shares of it")
    add("--seed", type=int, default=1, help="seed of weights and data")
    add("--log-seconds", type=float, default=20, help="seconds between lines")
    add("--save-seconds", type=float, default=60, help="seconds between checkpoints")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    train(Run(args))


if __name__ == "__main__":
    main()
