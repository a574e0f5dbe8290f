"""Strings that tokenizers disagree about: made by a seeded generator, valid Unicode only."""

import random
import unicodedata

# One block per script: where its letters are. Spread over one to four UTF-8 bytes.
SCRIPTS = {
    "latin": (0x41, 0x7B), "latin1": (0xC0, 0x180), "greek": (0x370, 0x400),
    "cyrillic": (0x400, 0x500), "armenian": (0x531, 0x590), "hebrew": (0x5D0, 0x5EB),
    "arabic": (0x620, 0x6D4), "devanagari": (0x900, 0x980), "bengali": (0x980, 0xA00),
    "tamil": (0xB80, 0xC00), "thai": (0xE00, 0xE60), "tibetan": (0xF00, 0xFD0),
    "georgian": (0x10A0, 0x1100), "hangul_parts": (0x1100, 0x1200), "ethiopic": (0x1200, 0x1380),
    "cherokee": (0x13A0, 0x1400), "khmer": (0x1780, 0x1800), "mongolian": (0x1800, 0x18B0),
    "extended": (0x1E00, 0x2000), "kana": (0x3040, 0x3100), "han": (0x4E00, 0x5200),
    "hangul": (0xAC00, 0xB000), "gothic": (0x10330, 0x1034B), "deseret": (0x10400, 0x10450),
    "cuneiform": (0x12000, 0x12100), "han_b": (0x20000, 0x20100),
    "mathematical": (0x1D400, 0x1D500), "enclosed": (0x1F100, 0x1F200),
}
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u1680",
          "\u180e", "\u2002", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
          "\u0085", "\x0b", "\x0c", "\ufeff"]
CONTROLS = [chr(c) for c in [*range(0, 32), 127, *range(128, 160)]] + ["\u200d", "\u200e", "\u061c"]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️‍🔥", "1️⃣", "🧑🏿‍🚀", "☺️", "🫠"]
NUMBERS = ["0", "1234567890", "3.14159", "1,000,000", "0xDEADBEEF", "1e-9", "٣٤٥", "४२", "½", "²³",
           "Ⅻ", "１２３", "12345678901234567890123", "-7", "+49 (30) 123456", "①②", "𝟘𝟙"]
WORDS = ("the of and to in that is was for it with as his on be at by had not are but from or have "
         "state memory stream token position window cache recall Der die das und ist nicht où été "
         "naïve façade Straße ΑΒΓ слово שלום مرحبا नमस्ते こんにちは 世界 안녕 HTTPServer camelCase "
         "snake_case kebab-case I'm you're they'll we've he'd it's CAN'T DON'T I'LL o'clock "
         "'tis '' `` don’t ſ's K'ſ").split()
CODE = ["def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}",
        "#include <vector>\n\n\n", "SELECT * FROM t WHERE a<>'b';", "if __name__ == \"__main__\":",
        "x=>y;//z", "<div class=\"a\">&nbsp;</div>", "\\frac{a}{b}", "git commit -m 'x' && echo $?",
        "https://example.org/a/b?c=d&e=%20f#g", "{\"a\": [1, 2.5, null]}", "\t\t\t}", "/* ... */",
        "...!!!???", "~~--==>>", "$$$ €€ ¥ ₿", "a\u0301e\u0300", "\u0301\u0302 x", "…“quoted”—dash"]
# Spellings of control tokens and of byte tokens: text like any other.
SPELLED = ["<s>", "</s>", "<unk>", "<0x0A>", "<0xFF>", "<|eot_id|>", "<|begin_of_text|>",
           "<|start_header_id|>user<|end_header_id|>", "[INST]", "[/INST]", "<<SYS>>",
           "<|im_start|>", "<|im_end|>",
           "▁", "▁▁a", "Ġ", "<|", "|>", "<pad>", "<|reserved_special_token_0|>"]


def _script_run(rng):
    low, high = SCRIPTS[rng.choice(list(SCRIPTS))]
    return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 12)))


def _any_characters(rng):
    text = []
    while len(text) < rng.randrange(1, 16):
        code = rng.choice([rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x110000)])
        if not 0xD800 <= code < 0xE000:
            text.append(chr(code))
    return "".join(text)


def _spaces(rng):
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(SPACES) * rng.randrange(1, 40)
    return "".join(rng.choice(SPACES) for _ in range(rng.randrange(1, 8)))


PARTS = [
    (5, lambda rng: " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 8)))),
    (2, _script_run), (2, _spaces), (2, lambda rng: rng.choice(CODE)),
    (1, lambda rng: rng.choice(EMOJI)), (1, lambda rng: rng.choice(NUMBERS)),
    (1, _any_characters), (1, lambda rng: rng.choice(CONTROLS)),
    (1, lambda rng: rng.choice(SPELLED)), (1, lambda rng: " "),
    (1, lambda rng: rng.choice("aA!?'\"-_.,;:()[]{}<>/\\|@#%^&*~`") * rng.randrange(1, 30)),
    (1, lambda rng: "".join(rng.choice("abcdefgh") for _ in range(rng.randrange(10, 90)))),
]


def fixed():
    """Every sample of the tables by itself, and with neighbours that change how it is cut."""
    tables = [SPACES, CONTROLS, EMOJI, NUMBERS, WORDS, CODE, SPELLED]
    ends = [chr(low) for low, _ in SCRIPTS.values()]
    singles = [text for table in tables for text in table] + ends
    result = ["", " ", "a", " a", "a ", "  a", "\n", "\n\n\n", " " * 17, "\t" * 9, "a" * 300]
    for text in singles:
        result += [text, " " + text, text + " ", "a" + text + "b", text + text, "1" + text,
                   text + "\n"]
    return result


def make(count, seed):
    """`count` strings: the fixed ones first, then random concatenations."""
    rng = random.Random(seed)
    weights, makers = zip(*PARTS)
    result = fixed()[:count]
    while len(result) < count:
        pieces = rng.choices(makers, weights, k=rng.randrange(1, 7))
        text = "".join(piece(rng) for piece in pieces)
        if rng.random() < 0.05:
            text = unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKD"]), text)
        result.append(text)
    return result


def prose(rng, words):
    """Text to train small vocabularies on."""
    out = []
    while len(out) < words:
        out.append(rng.choice(WORDS) if rng.random() < 0.9 else rng.choice(NUMBERS + CODE + EMOJI))
        if rng.random() < 0.1:
            out.append(_script_run(rng))
        if rng.random() < 0.1:
            out[-1] += rng.choice([".", ",", "!\n", ":\n\n", ";"])
    return " ".join(out)
