"""Text with hidden pass keys: training documents and held-out questions.

All wording lives in one JSON file (models/<name>/passkey_text.json), so that another
program can produce the same kind of text from the same word lists. A text is a run of
filler sentences; a few statements ("The pass key of abc is 12345. ") stand between them
and are asked at the end. One token is one byte; an optional <bos> comes first.

Run `python passkey_text.py --help` to write held-out questions as JSON lines.
"""
from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BOS, EOS, PAD = 256, 257, 258
SLOT = re.compile(r"\{(\w+)\}")
DEFAULT_TEXT = Path(__file__).resolve().parents[2] / "models/passkey-1m/passkey_text.json"


@dataclass
class Question:
    """One held-out question: the prompt ends right before the first answer byte."""

    prompt: str
    names: list[str]
    answers: list[str]
    depth: float
    distance: int


class TextSource:
    """Draws sentences, statements and questions from the word lists of one JSON file."""

    def __init__(self, path: Path | str = DEFAULT_TEXT, seed: int = 0):
        self.spec = json.loads(Path(path).read_text())
        if self.spec["format_version"] != 1:
            raise ValueError("passkey_text.json: unknown format_version")
        self.rng = np.random.default_rng(seed)

    def _pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def _letters(self, kind: str) -> str:
        rule = self.spec[kind]
        return "".join(self._pick(rule["alphabet"]) for _ in range(rule["length"]))

    def _slot(self, match: re.Match) -> str:
        if match.group(1) == "number":
            rule = self.spec["number"]
            return str(int(self.rng.integers(rule["min"], rule["max"] + 1)))
        return self._pick(self.spec["slots"][match.group(1)])

    def sentence(self, number_share: float = 0.0) -> str:
        """One filler sentence; with probability number_share one that holds other numbers."""
        numeric = number_share > 0 and self.rng.random() < number_share
        template = self._pick(self.spec["number_sentences" if numeric else "sentences"])
        return SLOT.sub(self._slot, template)

    def needles(self, count: int) -> list[tuple[str, str]]:
        """Distinct names, each with its own digits."""
        found: dict[str, str] = {}
        while len(found) < count:
            found.setdefault(self._letters("name"), self._letters("digits"))
        return list(found.items())

    def statement(self, name: str, digits: str) -> str:
        return self.spec["statement"].format(name=name, digits=digits)

    def question(self, name: str) -> str:
        return self.spec["question"].format(name=name)

    def filler(self, budget: int, number_share: float = 0.0) -> list[str]:
        """Sentences until the next one would not fit into budget bytes."""
        sentences: list[str] = []
        used = 0
        while True:
            text = self.sentence(number_share)
            if used + len(text) > budget:
                return sentences
            sentences.append(text)
            used += len(text)

    def held_out(self, length: int, needles: int = 1, min_distance: int = 192,
                 number_share: float = 0.0) -> Question:
        """A prompt of at most `length` bytes that asks one of its statements.

        The asked statement ends at least min_distance bytes before the prompt does, so
        that it lies outside the attention window; its place is uniform over the rest.
        """
        pairs = self.needles(needles)
        asked = int(self.rng.integers(needles))
        question = self.question(pairs[asked][0])
        statements = [self.statement(*pair) for pair in pairs]
        budget = length - len(question) - sum(map(len, statements))
        parts = self.filler(budget, number_share)
        ends = np.cumsum([0] + [len(part) for part in parts])
        last = int(np.searchsorted(ends, ends[-1] + len(question) - min_distance, "right"))
        place = int(self.rng.integers(max(1, last)))
        for index, statement in enumerate(statements):
            if index != asked:
                other = int(self.rng.integers(len(parts) + 1))
                parts.insert(other, statement)
                place += other <= place
        head = "".join(parts[:place] + [statements[asked]])
        prompt = head + "".join(parts[place:]) + question
        return Question(prompt, [pairs[asked][0]], [pairs[asked][1]],
                        len(head) / len(prompt), len(prompt) - len(head))

    def training_document(self, length: int, max_needles: int, number_share: float = 0.0,
                          dense: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Exactly length tokens and a weight class per token.

        Classes: 0 cannot be predicted (names, digits of statements), 1 plain text,
        2 answer digits. All statements are asked at the end in random order. The front is
        cut at a random byte, and <bos> stands there in half of the documents, so that the
        model does not depend on how a text begins. Dense documents hold as many statements
        as fit, cut down to "abc is 12345. ": matching names is learned from these first.
        """
        template = self.spec["statement"]
        template = template[template.index("{name}"):] if dense else template
        room = (length - 1) // (2 * len(template.format(name="abc", digits="12345")))
        count = int(self.rng.integers(1, max(1, min(max_needles, room)) + 1))
        count = max(1, min(room, 16)) if dense else count
        pairs = self.needles(count)
        tail = [pairs[i] for i in self.rng.permutation(count)]
        statements = [template.format(name=name, digits=digits) for name, digits in pairs]
        budget = length - sum(map(len, statements)) * 2
        parts: list = self.filler(max(0, budget), number_share)
        gap = max(0, budget) - sum(map(len, parts))
        for pair in pairs:
            parts.insert(int(self.rng.integers(len(parts) + 1)), pair)
        front = self.sentence(0.0) + self.sentence(0.0) + self.sentence(0.0)
        parts.insert(0, front[len(front) - gap:] if gap else "")
        text, classes = self._classify(parts, tail, template)
        tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        if self.rng.random() < 0.5:
            tokens = tokens.copy()
            tokens[0], classes[0] = BOS, 0
        return tokens[:length], classes[:length]

    def _classify(self, parts: list, tail: list, template: str) -> tuple[str, np.ndarray]:
        """Joins sentences, statements (as pairs) and the asked tail; classes per byte."""
        pieces: list[tuple[str, int]] = []
        for group, digit_class in ((parts, 0), (tail, 2)):
            for part in group:
                if isinstance(part, str):
                    pieces.append((part, 1))
                    continue
                before, rest = template.split("{name}")
                middle, after = rest.split("{digits}")
                pieces += [(before, 1), (part[0], 0), (middle, 1), (part[1], digit_class),
                           (after, 1)]
        classes = np.concatenate([np.full(len(t), c, np.int64) for t, c in pieces])
        return "".join(t for t, _ in pieces), classes

    def local_document(self, length: int, number_share: float = 0.0) -> np.ndarray:
        """Text for linearising: statements, but only questions that the window can answer.

        A base without a sparse cache must not be trained to look further back, or it would
        no longer be an honest base.
        """
        parts: list[str] = []
        used, chance = 0, self.rng.choice([0.0, 0.05, 0.2])
        while used < length + 200:
            parts.append(self.sentence(number_share))
            if self.rng.random() < chance:
                (name, digits), = self.needles(1)
                statement = self.statement(name, digits)
                parts += [statement] * (1 + int(self.rng.random() < 0.5))
            used = sum(map(len, parts))
        tokens = np.frombuffer("".join(parts).encode(), np.uint8).astype(np.int64)
        first = int(self.rng.integers(len(tokens) - length + 1))
        tokens = tokens[first:first + length].copy()
        if self.rng.random() < 0.5:
            tokens[0] = BOS
        return tokens

    def exact_prompt(self, item: Question, length: int) -> list[int]:
        """<bos> and the prompt, filled up in front with part of a sentence to length tokens."""
        front = "".join(self.sentence() for _ in range(4))
        gap = length - 1 - len(item.prompt)
        return encode(front[len(front) - gap:] + item.prompt if gap else item.prompt)

    def batch(self, rows: int, length: int, max_needles: int, number_share: float,
              number_documents: float,
              dense_documents: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """rows documents; some contain other numbers, some are dense."""
        documents = []
        for _ in range(rows):
            share = number_share if self.rng.random() < number_documents else 0.0
            dense = self.rng.random() < dense_documents
            documents.append(self.training_document(length, max_needles, share, dense))
        tokens, classes = zip(*documents)
        return np.stack(tokens), np.stack(classes)


def encode(text: str, bos: bool = True) -> list[int]:
    """Byte tokens of a text, with <bos> in front by default."""
    return ([BOS] if bos else []) + list(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write held-out pass key questions.")
    parser.add_argument("--text", type=Path, default=DEFAULT_TEXT, help="word list file")
    parser.add_argument("--length", type=int, default=1024, help="most bytes in a prompt")
    parser.add_argument("--count", type=int, default=10, help="number of questions")
    parser.add_argument("--needles", type=int, default=1, help="statements in each prompt")
    parser.add_argument("--min-distance", type=int, default=192,
                        help="least bytes between the asked statement and the prompt's end")
    parser.add_argument("--number-share", type=float, default=0.0,
                        help="share of filler sentences that hold other numbers")
    parser.add_argument("--seed", type=int, default=1_000_003, help="held-out seed")
    args = parser.parse_args()
    source = TextSource(args.text, args.seed)
    for _ in range(args.count):
        item = source.held_out(args.length, args.needles, args.min_distance,
                               args.number_share)
        print(json.dumps({"prompt": item.prompt, "questions": item.names,
                          "answers": item.answers, "depth": round(item.depth, 4),
                          "distance": item.distance}))


if __name__ == "__main__":
    main()
