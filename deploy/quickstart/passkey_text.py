"""Endless plain sentences with pass keys planted in them, from the model's passkey_text.json."""

import json
import pathlib
import random
import re

_SLOT = re.compile(r"\{(\w+)\}")


class PasskeyText:
    """Sentences drawn from word lists with a seed. One byte is one token of the model."""

    def __init__(self, path, seed):
        self._spec = json.loads(pathlib.Path(path).read_text())
        if self._spec.get("format_version") != 1:
            raise ValueError(f"{path}: format_version {self._spec.get('format_version')}, "
                             "this program reads 1")
        self._random = random.Random(seed)
        self.digits = self._spec["digits"]["length"]

    def keys(self, count):
        """Distinct names, each with its digits."""
        found = {}
        while len(found) < count:
            found.setdefault(self._letters("name"), self._letters("digits"))
        return list(found.items())

    def statement(self, name, digits):
        return self._spec["statement"].format(name=name, digits=digits)

    def question(self, name):
        return self._spec["question"].format(name=name)

    def sentence(self):
        template = self._random.choice(self._spec["sentences"])
        return _SLOT.sub(lambda m: self._random.choice(self._spec["slots"][m.group(1)]), template)

    def pieces(self, tokens, keys, piece):
        """Yields text of about `piece` tokens until `tokens` are reached.

        The keys stand at the beginning of equal parts of the text: the first key at the very
        start, none in the last part's remainder.
        """
        places = [tokens * i // len(keys) for i in range(len(keys))]
        waiting = list(zip(places, keys))
        made, part = 0, ""
        while made < tokens:
            if waiting and made >= waiting[0][0]:
                text = self.statement(*waiting.pop(0)[1])
            else:
                text = self.sentence()
            part += text
            made += len(text)
            if len(part) >= piece or made >= tokens:
                yield part
                part = ""

    def _letters(self, kind):
        rule = self._spec[kind]
        return "".join(self._random.choice(rule["alphabet"]) for _ in range(rule["length"]))
