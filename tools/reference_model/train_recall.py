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
from sparse_path import SparsePath


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
    """Extra loss that makes what statements state the rarest text there is.

    LoLA keeps the pairs with the largest self-recall error, and in a long text a statement
    competes with the rarest few of all its other pairs. So in the layer that answers questions,
    the error of each stated byte should exceed, by a factor, those of the text's hardest bytes
    (a share of the whole batch). Scaling keys or values does not change the term.
    """

    def __init__(self, model: Llama, maps: FeatureMaps, args):
        self.c, self.window, self.records = model.c, args.window, []
        self.hardest, self.margin, self.maps = args.hardest, args.margin, maps
        model.model.layers[args.answer_layer].self_attn.record = self.records

    def __call__(self, classes: torch.Tensor, rotary: bool) -> torch.Tensor:
        """For the last forward pass; classes [rows, length] of its tokens."""
        k, v = (x.float() for x in self.records[-1])
        if rotary:
            k = rotate(k, *rotary_table(k.shape[2], self.c.head_dim, self.c.theta))
        error, energy = recall_errors(self.maps, k, v, self.window)
        floor = 1e-3 * energy.detach().mean((0, 2), keepdim=True)
        size = (error + floor).log().transpose(0, 1).flatten(1)  # [heads, rows * rest]
        classes = classes[:, 2 * self.window:].flatten()
        stated, text = size[:, classes == VALUE], size[:, classes == PLAIN]
        if stated.shape[1] == 0 or text.shape[1] == 0:
            return size.sum() * 0.0
        count = max(1, int(self.hardest * text.shape[1]))
        hard = text.topk(count, 1).values
        return F.softplus(self.margin + hard[:, :, None] - stated[:, None, :]).mean()


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
        self.path, c = None, self.model.c
        maps = FeatureMaps(c.heads, c.head_dim, c.head_dim).requires_grad_(False)
        if args.insert < 0:  # the warm model's maps fit these layers
            tensors = load_directory(args.warm)[1] | (state["maps"] if state else {})
            self.path = SparsePath(self.model, tensors, args.window)
            maps = self.path.maps[args.answer_layer]
            self.optimisers[0].add_param_group({"params": self.path.parameters()})
        elif args.memory_share:
            raise SystemExit("--memory-share needs the feature maps of --warm: use --insert -1")
        self.memory = SelectionTerm(self.model, maps, args)
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
                    "maps": self.path.tensors() if self.path else {},
                    "counters": (self.step, self.tokens, self.seconds)}, part)
        part.replace(self.file)

    def set_rate(self, done: float, total: float) -> None:
        """Linear warm-up, then constant, then linear to 3 % over the last share of this call."""
        left = (total - done) / (total * self.args.decay + 1)
        factor = min(1.0, (self.step + 1) / self.args.warmup, max(0.03, left))
        for optimiser, base in zip(self.optimisers, (self.args.lr, self.args.muon_lr)):
            for group in optimiser.param_groups:
                group["lr"] = base * factor

    def enter_memory(self, length: int) -> bool:
        """Sends some batches through LoLA's memory: two of three `lifelong`, one `paper`."""
        rng = self.source.rng
        if length % self.args.window or rng.random() >= self.args.memory_share:
            return False
        pairs = min(int(rng.choice([64, 128, 192])), length // 4)
        self.path.enter(bool(rng.random() < 0.67), pairs)
        return True

    def train_step(self, longest: int, memory: float, mix: Mix) -> dict:
        """One batch; longer stages mix in shorter texts. Returns what the log needs."""
        length = longest
        if longest > 256:
            length = int(self.source.rng.choice([longest, longest // 2, longest // 4],
                                                p=[0.4, 0.25, 0.35]))
        rows = max(1, self.args.batch_tokens // length)
        tokens, classes, labels = training_batch(self.source, rows, length + 1, mix)
        tokens, classes = torch.from_numpy(tokens), torch.from_numpy(classes)
        through = self.enter_memory(length)
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
        if through:
            self.path.leave()
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
        return {"length": length, "through": through, "plain": plain.item(), "answer": asked.item(),
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
    memory = [r["answer"] for r in recent if r["through"]] or [float("nan")]
    detail = " ".join(f"{k}={100 * sum(v) / len(v):.0f}" for k, v in sorted(by_label.items()))
    print(f"step {run.step} length {longest} tokens {run.tokens / 1e6:.2f}M text "
          f"{mean('plain'):.3f} answers {mean('answer'):.3f} (longest {sum(full) / len(full):.3f}"
          f", through memory {sum(memory) / len(memory):.3f}) selection {mean('rare'):.3f} "
          f"{run.tokens / run.seconds:.0f} tokens/s {run.seconds / 60:.1f} min | {detail}",
          flush=True)


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
    add("--window", type=int, default=64, help="window and chunk of the memory")
    add("--memory-share", type=float, default=0.0, help="share of batches that go through LoLA's "
        "memory, with the feature maps of --warm (train.pt keeps them)")
    add("--hardest", type=float, default=0.003, help="share of the text that the selection term "
        "compares with what is stated")
    add("--margin", type=float, default=1.0, help="by how much, in logarithms of the error")
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
