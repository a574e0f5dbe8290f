"""Checks that the three forms of the model agree: training, parallel linearised, streaming.

    python selfcheck.py --model ../../models/passkey-1m
"""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from checkpoint import is_feature_weight, load_directory
from linear_attention import FeatureMaps
from linearise import hybrid_logits
from llama import Llama
from lola_reference import LIFELONG, PAPER, LolaReference, Settings
from make_fixtures import held_out_text
from passkey_text import DEFAULT_TEXT
from sparse_path import SparsePath


def load(directory: Path) -> tuple[Llama, list[FeatureMaps]]:
    """The training-side model and its maps from a model directory."""
    shape, tensors = load_directory(directory)
    model = Llama(shape)
    model.load_state_dict({n: t for n, t in tensors.items() if not is_feature_weight(n)})
    maps = [FeatureMaps.load(tensors, i) for i in range(shape.layers)]
    return model, maps


def report(name: str, a: torch.Tensor, b: torch.Tensor) -> None:
    worst = (a - b).abs().max().item()
    print(f"{name}: largest difference {worst:.2e}")
    assert worst < 5e-3 * a.abs().max().item(), name


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the forms of the model.")
    parser.add_argument("--model", type=Path, default=DEFAULT_TEXT.parent,
                        help="model directory (default: models/passkey-1m)")
    parser.add_argument("--tokens", type=int, default=1024, help="a multiple of 64")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, maps = load(args.model)
    tokens = held_out_text(args.tokens)
    with torch.no_grad():
        report("softmax", model(tokens),
               LolaReference(args.model, Settings(mode="softmax")).feed(tokens))
        shape = SimpleNamespace(window=64, memory_distance=128, mass_cap=512)
        for name, profile, constant in (("paper", PAPER, False), ("lifelong", LIFELONG, True)):
            base = replace(profile, mode="base", cache_pairs=0)
            report(f"base {name}", hybrid_logits(model, maps, tokens, shape, constant),
                   LolaReference(args.model, base).feed(tokens))
            # Everything kept: then hindsight is no help, and the forms must agree.
            path = SparsePath(model, load_directory(args.model)[1], 64)
            path.enter(constant, args.tokens)
            kept = model(tokens)
            path.leave()
            full = replace(profile, cache_pairs=args.tokens)
            report(f"{name}, all kept", kept, LolaReference(args.model, full).feed(tokens))
            whole = LolaReference(args.model, profile).feed(tokens)
            reference = LolaReference(args.model, profile)
            parts = [reference.feed(part) for part in tokens.split(37, dim=1)]
            report(f"{name} in portions", whole, torch.cat(parts, 1))


if __name__ == "__main__":
    main()
