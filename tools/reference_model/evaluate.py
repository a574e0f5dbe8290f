"""Held-out pass key questions for every mode, profile and control, with 95 % intervals.

    python evaluate.py --model models/passkey-1m --count 200 softmax base_paper paper:96

A case is a name from CASES, optionally with cache pairs and window: `lifelong:128`,
`paper:96:32`. Prompts have exactly --length tokens; an answer counts only when all digits
are right.
"""
from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from lola_reference import LIFELONG, PAPER, LolaReference, Settings
from passkey_text import DEFAULT_TEXT, TextSource

CASES: dict[str, Settings] = {
    "softmax": Settings(mode="softmax"),
    "base_paper": replace(PAPER, mode="base", cache_pairs=0),
    "base_lifelong": replace(LIFELONG, mode="base", cache_pairs=0),
    "paper": PAPER,
    "lifelong": LIFELONG,
}
for _score in ("value_norm", "random", "leave_one_out"):
    CASES[f"paper_{_score}"] = replace(PAPER, score=_score)
    CASES[f"lifelong_{_score}"] = replace(LIFELONG, score=_score)


CASE_HELP = (f"NAME, NAME:PAIRS or NAME:PAIRS:WINDOW (cache pairs a head; window and chunk), NAME "
             f"from {', '.join(CASES)}")


def parse_case(text: str) -> Settings:
    """'paper:96:32' is profile paper with 96 cache pairs and window = chunk = 32."""
    name, *numbers = text.split(":")
    if name not in CASES or len(numbers) > 2 or not all(n.isdigit() for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no case: {CASE_HELP}")
    settings = CASES[name]
    if numbers and settings.mode == "lola":
        settings = replace(settings, cache_pairs=int(numbers[0]))
    if len(numbers) > 1:
        settings = replace(settings, window=int(numbers[1]), chunk=int(numbers[1]))
    return settings


def check_cases(parser: argparse.ArgumentParser, cases: list[str]) -> None:
    """Ends the program when a case is none: not after the cases before it."""
    for case in cases:
        try:
            parse_case(case)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, in percent."""
    z, share = 1.96, right / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 100 / (1 + z * z / count)
    return (middle - spread) * scale, (middle + spread) * scale


def ask(model: Path, settings: Settings, prompts: torch.Tensor, answers: list[str],
        ) -> tuple[list[bool], LolaReference]:
    """Feeds the prompts side by side and decodes the answers greedily."""
    reference = LolaReference(model, settings, prompts.shape[0])
    logits = None
    for begin in range(0, prompts.shape[1], 4096):
        logits = reference.feed(prompts[:, begin:begin + 4096])[:, -1:]
    said: list[torch.Tensor] = []
    for _ in range(len(answers[0])):
        token = logits[:, -1].argmax(-1, keepdim=True)
        said.append(token)
        logits = reference.feed(token)
    texts = [bytes(min(t, 255) for t in row).decode("latin1")
             for row in torch.cat(said, 1).tolist()]
    return [a == b for a, b in zip(texts, answers)], reference


def run_case(case: str, args) -> dict:
    """One line of the result table."""
    settings = parse_case(case)
    source = TextSource(args.text, args.seed)
    begin, right, depths = time.time(), [], []
    for first in range(0, args.count, args.batch):
        rows = min(args.batch, args.count - first)
        items = [source.held_out(args.length - 1, args.needles, args.min_distance,
                                 args.number_share) for _ in range(rows)]
        prompts = torch.tensor([source.exact_prompt(item, args.length) for item in items])
        good, _ = ask(args.model, settings, prompts, [item.answers[0] for item in items])
        right += good
        depths += [item.depth for item in items]
    low, high = wilson(sum(right), len(right))
    thirds = [[r for r, d in zip(right, depths) if int(min(d, 0.999) * 3) == third]
              for third in range(3)]
    return {"case": case, "length": args.length, "n": len(right),
            "percent": round(100 * sum(right) / len(right), 1),
            "interval": [round(low, 1), round(high, 1)],
            # null: nothing was asked there
            "percent_by_depth": [round(100 * sum(t) / len(t)) if t else None for t in thirds],
            "needles": args.needles, "number_share": args.number_share, "seed": args.seed,
            "seconds": round(time.time() - begin)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer held-out pass key questions.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("cases", nargs="*", default=["softmax", "base_paper", "paper:64", "base_lifelong",
                                     "lifelong:128"], help=CASE_HELP)
    add("--model", type=Path, default=DEFAULT_TEXT.parent, help="model directory")
    add("--text", type=Path, default=DEFAULT_TEXT, help="word list file")
    add("--length", type=int, default=1024, help="tokens in each prompt")
    add("--count", type=int, default=200, help="questions per case")
    add("--batch", type=int, default=25, help="streams side by side")
    add("--needles", type=int, default=1, help="statements in each prompt")
    add("--min-distance", type=int, default=192, help="bytes from statement to prompt end")
    add("--number-share", type=float, default=0.0, help="sentences with other numbers")
    add("--seed", type=int, default=1_000_003, help="held-out seed")
    add("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    check_cases(parser, args.cases)
    for case in args.cases:
        print(json.dumps(run_case(case, args)), flush=True)


if __name__ == "__main__":
    main()
