"""Recall tasks as text: RULER needles, landmark pass keys, statements and their updates.

A document is a haystack (noise lines, simple sentences, or prose and code from a folder of
plain text files) with statements between its sentences and questions at the end. One token is
one byte. Training documents carry a weight class per byte; held-out questions use words and
prose that training does not.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from passkey_text import BOS, TextSource
from recall_words import ADJECTIVES, ATTRIBUTES, NOISE_LINE, NOUNS, NUMBER_SENTENCES

SKIP, PLAIN, ANSWER, VALUE = 0, 1, 2, 3  # VALUE: what a statement states
FORMATS = ("passkey", "ruler", "landmark", "fact")
HAYSTACKS = ("noise", "simple", "prose")
INTRO = ("A special magic number is hidden within the following text. Make sure to memorize "
         "it. I will quiz you about the number afterwards.\n")
LANDMARK_INTRO = ("There is an important info hidden inside a lot of irrelevant text. Find it "
                  "and memorize them. I will quiz you about the important information there.\n")
LINE = re.compile(r"\n+")
WORD = re.compile(r"[A-Za-z]{2,}")
BORDER = re.compile(r"(?<=[.!?;:]) +|\n+")
Pieces = list[tuple[str, int]]


@dataclass
class Task:
    """How one kind of statement reads, from the statement's own words to the question."""

    before: str
    middle: str
    ask_before: str
    ask_middle: str
    end: str = "."

    def statement(self, key: str, value: str, now: bool = False) -> Pieces:
        middle = self.middle + "now " if now else self.middle
        return [(self.before, PLAIN), (key, SKIP), (middle, PLAIN), (value, VALUE),
                (self.end, PLAIN)]

    def question(self, key: str, value: str) -> Pieces:
        return [(self.ask_before.format(key), SKIP if "{}" in self.ask_before else PLAIN),
                (key, SKIP), (self.ask_middle, PLAIN), (value + self.end, ANSWER)]


def make_task(kind: str, attribute: str, verbosity: int) -> Task:
    """verbosity 0: keys and values alone; 1: a short question; 2: the published wording."""
    if kind == "ruler":
        ask = "What is the special magic number for {} mentioned in the provided text? "
        ask = (ask if verbosity == 2 else "") + "The special magic number for "
        before = "One of the special magic numbers for "
        task = Task(before, " is: ", ask, " mentioned in the provided text is ")
    elif kind == "landmark":
        task = Task("The pass key is ", "", "What is the pass key? The pass key is ", "")
    else:
        name = "pass key" if kind == "passkey" else attribute
        task = Task(f"The {name} of ", " is ", f"The {name} of ", " is ")
    if verbosity == 0:
        task.before = task.ask_before = ""
    return task


class RecallText:
    """Draws haystacks, statements and questions; `held_out` picks the other half of the words."""

    def __init__(self, folder: Path | None, seed: int, held_out: bool = False):
        self.rng = np.random.default_rng(seed)
        self.simple = TextSource(seed=seed + 1)
        self.simple.rng = self.rng
        half = 1 if held_out else 0
        self.adjectives, self.nouns = ADJECTIVES[half::2], NOUNS[half::2]
        self.held_out_words = held_out
        files = sorted(Path(folder).glob("*.txt")) if folder else []
        self.prose = [path.read_bytes().decode("latin1") for path in files]

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def letters(self, count: int) -> str:
        return "".join(chr(97 + int(i)) for i in self.rng.integers(0, 26, count))

    def pseudo_word(self) -> str:
        parts = [self.pick("bcdfghjklmnprstvwz") + self.pick("aeiou")
                 for _ in range(int(self.rng.integers(2, 4)))]
        return "".join(parts) + self.pick(["", "n", "r", "st", "l"])

    def key(self, kind: str, others: list[str]) -> str:
        """A new key; some share one half with an earlier key, so that both halves count."""
        pair = self.pick(self.adjectives), self.pick(self.nouns)
        if not self.held_out_words and self.chance(0.45):
            pair = self.pseudo_word(), self.pseudo_word()
        if kind == "ruler":
            old = self.pick(others).split("-") if others and self.chance(0.2) else []
            if len(old) == 2:
                pair = (old[0], pair[1]) if self.chance(0.5) else (pair[0], old[1])
            return "-".join(pair)
        if kind == "passkey" and (self.held_out_words or self.chance(0.7)):
            return self.letters(3)
        return self.pick([pair[1], pair[1], pair[0] + " " + pair[1],
                          self.letters(int(self.rng.integers(3, 8)))])

    def value(self, kind: str) -> str:
        if kind == "landmark":
            return str(int(self.rng.integers(1, 50001)))
        count = {"passkey": 5, "ruler": 7}.get(kind) or int(self.rng.integers(3, 9))
        if not self.held_out_words and self.chance(0.2):
            count = int(self.rng.integers(3, 10))
        first = str(int(self.rng.integers(1, 10))) if kind != "passkey" else ""
        digits = self.rng.integers(0, 10, count - len(first))
        return first + "".join(map(str, digits))

    def number_sentence(self) -> str:
        def slot(match: re.Match) -> str:
            if match.group(1) == "n":
                return str(int(10 ** (1 + 6 * self.rng.random())))
            return self.pick(self.nouns if match.group(1) == "w" else self.adjectives)
        return re.sub(r"\{(\w)\}", slot, self.pick(NUMBER_SENTENCES))

    def number_word(self) -> str:
        """What looks like a year, a date, a version, a size or a name with digits in it."""
        form = self.pick(["d", "d", "dd", "ddd", "1ddd", "20dd", "dddd", "ddddd", "dddddd",
                          "ddddddd", "ddddddddd", "d.d.d", "d.dd", "dd/dd/dd", "20dd-dd-dd",
                          "dd:dd", "#dddddd", "ddd-dddd", "ddd.ddd.d.dd", "w-d.d", "wdd", "ddd KB",
                          "wdddd", "dd%", "$dd", "(dddd)", "dddd,"])
        form = re.sub("d", lambda _: str(int(self.rng.integers(10))), form)
        return re.sub("w", lambda _: self.pseudo_word(), form)

    def haystack(self, kind: str, size: int, numbers: float) -> str:
        """Exactly size bytes; `numbers` is the chance of a number sentence at a border.

        Half of the prose with numbers has them in the place of words instead.
        """
        if size <= 0:
            return ""
        if kind == "noise":
            text = "\n".join([NOISE_LINE] * (size // len(NOISE_LINE) + 2))
        elif kind == "simple":
            text = "".join(self.simple.filler(size + 120))
        else:
            text = self.prose_slice(size * 3 // 2 + 40)
            if numbers and self.chance(0.5):  # in the place of words; else sentences, below
                share, numbers = numbers / 8, 0.0
                text = WORD.sub(lambda word: self.number_word() if self.chance(share)
                                else word.group(), text)
            text = text[-size - 40:]
        if numbers:
            places = [m.end() for m in BORDER.finditer(text)]
            chosen = [p for p in places if self.chance(numbers)]
            for place in reversed(chosen):
                gap = "\n" if text[place - 1] == "\n" else " "
                text = text[:place] + self.number_sentence() + gap + text[place:]
        return text[len(text) - size:]

    def break_(self, kind: str) -> str:
        """What stands before the questions: held-out text has a line break where RULER has."""
        if self.held_out_words:
            return "\n" if kind in ("ruler", "landmark") else ""
        return self.pick(["\n", "\n", " ", ""])

    def prose_slice(self, size: int) -> str:
        """At least size bytes of one file, half of the time with single spaces only."""
        flat = self.chance(0.5)
        while True:
            text = self.pick(self.prose)
            span = size * 2 + 50 if flat else size
            first = int(self.rng.integers(max(1, len(text) - span)))
            text = text[first:first + span]
            if flat:
                text = " ".join(text.split()) + " "
            if len(text) >= size:
                return text[:size]

    def place(self, text: str, statements: list[Pieces], last: int | None = None,
              lines: bool = False) -> Pieces:
        """Statements in their order between sentences (or lines) of text, none after `last`."""
        end = len(text) if last is None else last
        border = LINE if lines else BORDER
        borders = [m.end() for m in border.finditer(text, 0, end)] or [0]
        places = sorted(int(self.pick(borders)) for _ in statements)
        pieces, done = [], 0
        for where, statement in zip(places, statements):
            gap = "\n" if where and text[where - 1] == "\n" else " "
            pieces += [(text[done:where], PLAIN), *statement, (gap, PLAIN)]
            done = where
        return pieces + [(text[done:], PLAIN)]

    def facts(self, kind: str, needles: int, update: float) -> tuple[list, dict[str, str]]:
        """Statements (key, value, says "now") in text order, and each key's newest value."""
        stated, truth = [], {}
        while len(truth) < needles:
            key = self.key(kind, list(truth))
            if key not in truth:
                truth[key] = self.value(kind)
                stated.append((key, truth[key], False))
        for key in truth:
            if self.chance(update):
                truth[key] = self.value(kind)
                first = 1 + next(i for i, s in enumerate(stated) if s[0] == key)
                where = int(self.rng.integers(first, len(stated) + 1))
                now = kind != "ruler" and self.chance(0.5)
                stated.insert(where, (key, truth[key], now))
        return stated, truth

    def document(self, length: int, kind: str, haystack: str, needles: int, verbosity: int = 2,
                 numbers: float = 0.0, update: float = 0.0, asked: int = 99,
                 intro: bool = False, near: int = 0) -> Pieces:
        """Exactly length bytes, if the statements fit. Questions stand at the end, in random
        order; a key that was stated twice has its newest value.

        `update` is the chance of a second statement for a key. With `near`, no statement
        begins in the last `near` bytes before the prompt's end.
        """
        if kind == "landmark":
            return self.landmark(length, haystack, numbers, near)
        task = make_task(kind, self.pick(ATTRIBUTES), verbosity)
        facts, truth = self.facts(kind, needles, update)
        keys = list(truth)
        gap = "\n" if kind == "ruler" else " "
        tail: Pieces = [(self.break_(kind), PLAIN)]
        for i in self.rng.permutation(len(keys))[:asked]:
            tail += [*task.question(keys[i], truth[keys[i]]), (gap, PLAIN)]
        stated = [task.statement(*fact) for fact in facts]
        if verbosity == 0:
            body = [p for s in stated for p in [*s, (" ", PLAIN)]]
            lead = self.haystack(haystack, length - size_of(body + tail), 0.0)
            return [(lead, PLAIN), *body, *tail]
        front: Pieces = [(INTRO, PLAIN)] if intro else []
        return self.assemble(length, front, stated, tail, haystack, numbers, near)

    def assemble(self, length: int, front: Pieces, stated: list[Pieces], tail: Pieces,
                 haystack: str, numbers: float, near: int) -> Pieces:
        room = length - size_of(front + tail) - sum(size_of(s) + 1 for s in stated)
        last = max(1, room - max(0, near - size_of(tail))) if near else None
        # RULER puts needles on lines of their own; training sees both.
        lines = haystack == "noise" and (self.held_out_words or self.chance(0.5))
        text = self.haystack(haystack, room, numbers)
        return front + self.place(text, stated, last, lines) + tail

    def landmark(self, length: int, haystack: str, numbers: float, near: int) -> Pieces:
        value = self.value("landmark")
        statement = [("The pass key is ", PLAIN), (value, VALUE), (". Remember it. ", PLAIN),
                     (value, PLAIN), (" is the pass key.", PLAIN)]
        tail = [(self.break_("landmark"), PLAIN),
                ("What is the pass key? The pass key is ", PLAIN), (value + ".", ANSWER)]
        front = [(LANDMARK_INTRO, PLAIN)] if length > 400 and self.chance(0.5) else []
        return self.assemble(length, front, [statement], tail, haystack, numbers, near)

    def local_document(self, length: int, numbers: float = 0.0) -> np.ndarray:
        """Text for linearising: statements, but only questions that the window can answer.

        A base without a sparse cache must not be trained to look further back, or it would
        no longer be an honest base.
        """
        kind = self.pick(FORMATS[:2] + FORMATS[3:])
        haystack = self.pick(HAYSTACKS if self.prose else HAYSTACKS[:2])
        statements: list[Pieces] = []
        for _ in range(int(self.rng.integers(1, 2 + length // 256))):
            task = make_task(kind, self.pick(ATTRIBUTES), 1)
            key, value = self.key(kind, []), self.value(kind)
            statements.append(task.statement(key, value))
            if kind != "ruler" and self.chance(0.5):  # RULER's question is wider than the window
                statements[-1] += [(" ", PLAIN), *task.question(key, value)]
        text = self.haystack(haystack, length, numbers)
        front = [(INTRO, PLAIN)] if self.chance(0.3) else []
        tokens, _ = tokens_of(front + self.place(text, statements), length, self.chance(0.5))
        return tokens


def says(text: str, value: str) -> bool:
    """Whether text begins with the value; a longer run of digits is another number."""
    return text.startswith(value) and not text[len(value):len(value) + 1].isdigit()


def size_of(pieces: Pieces) -> int:
    return sum(len(text) for text, _ in pieces)


def tokens_of(pieces: Pieces, length: int, bos: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and classes; <bos> replaces the first byte when asked for."""
    text = "".join(t for t, _ in pieces).encode("latin1")
    tokens = np.frombuffer(text, np.uint8).astype(np.int64)[:length]
    classes = np.concatenate([np.full(len(t), c, np.int64) for t, c in pieces])[:length]
    if bos:
        tokens[0], classes[0] = BOS, SKIP
    return tokens, classes
