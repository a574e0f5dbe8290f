"""Training documents of the recall tasks: a seeded mixture of kinds, haystacks and wordings."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recall_text import Pieces, RecallText, size_of, tokens_of


@dataclass
class Mix:
    """Shares of what training documents hold."""

    dense: float = 0.1
    ruler: float = 0.4
    landmark: float = 0.1
    fact: float = 0.2
    prose: float = 0.5
    noise: float = 0.25
    numbers: float = 0.3
    update: float = 0.2
    needles: float = 4


# Bytes of a statement and of a question at each verbosity, with room for long keys.
COSTS = {"ruler": ((34, 72, 72), (62, 100, 180)), "passkey": ((24, 38, 38), (24, 38, 38)),
         "fact": ((26, 40, 40), (26, 40, 40))}


def training_document(source: RecallText, length: int, mix: Mix) -> tuple[Pieces, str]:
    """One document of the mixture and a label for the log."""
    draw = source.rng.random()
    kind = ("ruler" if draw < mix.ruler else "landmark" if draw < mix.ruler + mix.landmark
            else "fact" if draw < mix.ruler + mix.landmark + mix.fact else "passkey")
    draw = source.rng.random()
    haystack = ("prose" if draw < mix.prose and source.prose
                else "noise" if draw < mix.prose + mix.noise else "simple")
    dense = source.chance(mix.dense)
    verbosity = 0 if dense else 2 if length >= 400 and source.chance(0.5) else 1
    numbers = float(source.pick([0.05, 0.15, 0.4])) if source.chance(mix.numbers) else 0.0
    update = 0.35 if kind in ("passkey", "fact") and source.chance(mix.update) else 0.0
    asked = int(source.rng.integers(1, 5))
    stated, cost = COSTS.get(kind, ((1, 1, 1), (1, 1, 1)))
    asked = max(1, min(asked, (length - 40) // (stated[verbosity] + cost[verbosity])))
    most = max(1, (length - 150 * (verbosity == 2) - 20 - asked * cost[verbosity]))
    most = int(most / stated[verbosity] / (1.4 if update else 1)) if kind in COSTS else 1
    most = max(1, min(most, 16 if dense else int(mix.needles)))
    needles = most if dense else int(source.rng.integers(1, most + 1))
    intro = kind == "ruler" and verbosity == 2 and source.chance(0.7)
    pieces = source.document(length, kind, haystack, needles, verbosity, numbers, update,
                             asked, intro)
    label = kind + ("+" if update else "") + ("/dense" if dense else "/" + haystack)
    return pieces, label


def training_batch(source: RecallText, rows: int, length: int, mix: Mix):
    """tokens and classes [rows, length], and the labels."""
    tokens, classes, labels = [], [], []
    while len(tokens) < rows:
        pieces, label = training_document(source, length, mix)
        if size_of(pieces) != length:
            continue  # a long key left no room for its questions: draw again
        each = tokens_of(pieces, length, source.chance(0.5))
        tokens.append(each[0])
        classes.append(each[1])
        labels.append(label)
    return np.stack(tokens), np.stack(classes), labels
