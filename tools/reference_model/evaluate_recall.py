"""Held-out recall tasks for every mode and profile, with 95 % intervals.

    python evaluate_recall.py --model ../../models/recall-1m --prose HELD --length 1024 \\
        softmax base_paper paper:64 lifelong:128

Words and keys are from the half that training does not draw from; --prose names a folder of
plain text files, which should not be the one trained on. Greedy decoding; right means that the
whole value is right. Task names: see TASKS; `--task ruler` runs those that begin so.
"""
from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluate import CASE_HELP, check_cases, parse_case, wilson
from lola_reference import LolaReference
from recall_text import ANSWER, RecallText, says, size_of, tokens_of


@dataclass
class Task:
    """What stands in the text; `numbers` is the chance of a number sentence at each border."""

    kind: str
    haystack: str
    needles: int = 1
    numbers: float = 0.0
    update: float = 0.0


TASKS = {
    "passkey": Task("passkey", "simple"),
    "passkey_four": Task("passkey", "simple", 4),
    "passkey_numbers": Task("passkey", "simple", 1, 0.15),
    "passkey_prose_four": Task("passkey", "prose", 4),
    "passkey_updated": Task("passkey", "simple", 4, 0.0, 1.0),
    "landmark_noise": Task("landmark", "noise"),
    "landmark_prose": Task("landmark", "prose"),
    "ruler_noise": Task("ruler", "noise"),
    "ruler_prose": Task("ruler", "prose"),
    "ruler_prose_numbers": Task("ruler", "prose", 1, 0.15),
    "ruler_prose_four": Task("ruler", "prose", 4),
    "fact_prose_four": Task("fact", "prose", 4),
    "fact_prose_updated": Task("fact", "prose", 4, 0.0, 1.0),
}


def questions(task: Task, args) -> tuple[torch.Tensor, list[str]]:
    """Prompts of one length (the front gives way), and their answers."""
    source = RecallText(args.prose, args.seed, held_out=True)
    prompts, answers = [], []
    while len(prompts) < args.count:
        pieces = source.document(args.length + 16, task.kind, task.haystack, task.needles, 2,
                                 task.numbers, task.update, asked=1,
                                 intro=task.kind == "ruler", near=args.min_distance)
        if size_of(pieces) != args.length + 16:
            continue
        last = max(i for i, piece in enumerate(pieces) if piece[1] == ANSWER)
        prompt, _ = tokens_of(pieces[:last], args.length + 16, False)
        cut = torch.from_numpy(prompt[len(prompt) - args.length:].copy())
        cut[0] = 256  # <bos>
        prompts.append(cut)
        answers.append(pieces[last][0].rstrip("."))
    return torch.stack(prompts), answers


def run_case(name: str, case: str, args) -> dict:
    """One line of the result table."""
    begin, right = time.time(), 0
    prompts, answers = questions(TASKS[name], args)
    for first in range(0, args.count, args.batch):
        rows = prompts[first:first + args.batch]
        reference = LolaReference(args.model, parse_case(case), rows.shape[0])
        for start in range(0, rows.shape[1], 4096):
            logits = reference.feed(rows[:, start:start + 4096])[:, -1:]
        said = []
        for _ in range(max(map(len, answers)) + 1):  # with what follows the longest
            said.append(logits[:, -1].argmax(-1, keepdim=True))
            logits = reference.feed(said[-1])
        for text, answer in zip(torch.cat(said, 1).tolist(), answers[first:]):
            right += says(bytes(min(t, 255) for t in text).decode("latin1"), answer)
    low, high = wilson(right, args.count)
    return {"task": name, "case": case, "length": args.length, "n": args.count,
            "percent": round(100 * right / args.count, 1),
            "interval": [round(low, 1), round(high, 1)], "seed": args.seed,
            "seconds": round(time.time() - begin)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer held-out recall tasks.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("cases", nargs="*", default=["softmax", "base_paper", "paper:64", "lifelong:128"],
        help=CASE_HELP)
    add("--model", type=Path, required=True, help="model directory")
    add("--prose", type=Path, default=None, help="folder of plain text files (*.txt)")
    add("--task", action="append", 
        help=f"beginning of a task's name; repeat for several; tasks: {', '.join(TASKS)}")
    add("--length", type=int, default=1024, help="tokens in each prompt")
    add("--count", type=int, default=100, help="questions per task and case")
    add("--batch", type=int, default=25, help="streams side by side")
    add("--min-distance", type=int, default=192, help="bytes from statement to prompt end")
    add("--seed", type=int, default=1_000_003, help="held-out seed")
    add("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    check_cases(parser, args.cases)
    chosen = [n for n in TASKS if any(n.startswith(t) for t in args.task or [""])]
    if not chosen:
        parser.error(f"--task: none of {', '.join(TASKS)} begins with {' or '.join(args.task)}")
    for name in chosen:
        if TASKS[name].haystack == "prose" and args.prose is None:
            print(f"{name}: left out, it needs --prose")
            continue
        for case in args.cases:
            print(json.dumps(run_case(name, case, args)), flush=True)


if __name__ == "__main__":
    main()
