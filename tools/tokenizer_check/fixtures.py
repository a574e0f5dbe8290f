#!/usr/bin/env python3
"""Writes tests/testdata/tokenizer: small vocabularies, texts, and what Hugging Face makes of them.

    tools/tokenizer_check/fixtures.py [--train]

byte_level.json, sentencepiece.json, sentencepiece_cross.json   trained here on made text; kept as
                  they are without --train, because training breaks ties another way every time
texts.jsonl       one JSON string per line
expected.json     per case: vocabulary file, a patch for it, per text and mode the low 16 bits of an
                  FNV-1a of the ids (4 bytes each, little endian) as 4 hex digits; some ids in
                  full; whether the decoded text is the text (=), another (x) or not compared (-);
                  the versions that made it
tests/fuzz/corpus/fuzz_tokenizer   smaller vocabularies of both kinds
"""

import argparse
import copy
import json
import pathlib
import random

import samples
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

TESTS = pathlib.Path(__file__).resolve().parents[2] / "tests"
FOLDER, CORPUS = TESTS / "testdata/tokenizer", TESTS / "fuzz/corpus/fuzz_tokenizer"
TEXTS, FULL = 2400, 60
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def metaspace(scheme, cut):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}


def byte_level(text, size=1000):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    data = json.loads(tokenizer.to_str())
    # Words no merge leads to: only ignore_merges finds them.
    vocab = data["model"]["vocab"]
    for word in ("Ġmemoryless", "HTTPServerX", "abcdefgh", "Ġnicht", "StraÃŁe"):
        vocab.setdefault(word, len(vocab))
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
        "<|eot_id|>")])
    # Every flag an added token may have; "<|im_start|>" is a control token without the mark.
    tokenizer.add_tokens([
        AddedToken("<|im_start|>", normalized=False), AddedToken("[INST]", lstrip=True),
        AddedToken("[/INST]", rstrip=True, normalized=False), AddedToken("state", single_word=True),
        AddedToken("<<SYS>>", lstrip=True, rstrip=True), AddedToken("   ", normalized=False)])
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                      special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    data = json.loads(tokenizer.to_str())
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    return data


def sentencepiece(text, cut, size=900):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", split=cut)
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=size, limit_alphabet=size // 6, show_progress=False, max_token_length=12))
    data = json.loads(tokenizer.to_str())
    trained = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += [t for t in trained if t not in tokens] + ["▁" * n for n in range(2, 9)]
    merges = data["model"]["merges"] + [["▁" * a, "▁" * b] for n in range(2, 9)
                                        for a in range(1, n) for b in [n - a]]
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(dict.fromkeys(tokens))},
                                [tuple(m) for m in merges], unk_token="<unk>", fuse_unk=True,
                                byte_fallback=True))
    made.add_special_tokens([AddedToken(t, normalized=False, special=True)
                             for t in ("<unk>", "<s>", "</s>")])
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                      decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return json.loads(made.to_str())


def cases(files):
    plain = {"normalizer": None}
    yield "llama3", "byte_level.json", {}
    yield "ignore_merges", "byte_level.json", {"model": {"ignore_merges": True}}
    yield "byte_level_pattern", "byte_level.json", {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                          "use_regex": True}}
    yield "digits", "byte_level.json", {"pre_tokenizer": sequence(
        {"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True})}
    yield "inverted", "byte_level.json", {"pre_tokenizer": sequence(
        split(r"\p{Lu}\p{Ll}*|\p{Han}+|[^\s\p{L}]++", "Removed", True), BYTES)}
    yield "string", "byte_level.json", {"pre_tokenizer": sequence(
        split(". ", kind="String"), split("e", "Removed", kind="String"), BYTES)}
    yield "sentencepiece", "sentencepiece.json", {}
    # Special tokens looked for in the normalized text, as early Llama 2 files have them.
    special = [{**t, "normalized": True} for t in files["sentencepiece.json"]["added_tokens"]]
    yield "normalized_tokens", "sentencepiece.json", {"added_tokens": special}
    for scheme in ("always", "first", "never"):
        yield f"metaspace_{scheme}", "sentencepiece.json", {
            **plain, "pre_tokenizer": metaspace(scheme, False)}
    yield "metaspace_split", "sentencepiece.json", {
        **plain, "pre_tokenizer": metaspace("always", True)}
    for fuse in (True, False):
        yield f"unknown_fused_{fuse}".lower(), "sentencepiece.json", {
            "model": {"byte_fallback": False, "fuse_unk": fuse}}
    yield "across_spaces", "sentencepiece_cross.json", {}
    for form in FORMS:
        yield form.lower(), "byte_level.json", {"normalizer": {"type": form}}
    yield "nfkc_spaces", "sentencepiece.json", {"normalizer": {
        "type": "Sequence", "normalizers": [
            {"type": "NFKC"}, *files["sentencepiece.json"]["normalizer"]["normalizers"]]}}
    yield "nfc_normalized_tokens", "sentencepiece.json", {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        "added_tokens": special}


def merged(data, patch):
    result = copy.deepcopy(data)
    for key, value in patch.items():
        nested = isinstance(value, dict) and key == "model"
        result[key] = merged(result[key], value) if nested else value
    return result


def fnv(ids):
    value = 0x811C9DC5
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{value & 0xFFFF:04x}"


def expect(data, texts):
    # The engine takes <|...|> for a control token even where the file forgot the mark.
    data = copy.deepcopy(data)
    for token in data["added_tokens"]:
        token["special"] |= token["content"].startswith("<|")
    tokenizer = Tokenizer.from_str(json.dumps(data))
    result = {}
    for mode, as_text in (("text", True), ("control", False)):
        tokenizer.encode_special_tokens = as_text
        ids = [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        result[mode] = "".join(map(fnv, ids))
        if mode == "text":
            result["ids"] = ids[200:200 + FULL]
            decoded = tokenizer.decode_batch(ids, skip_special_tokens=True)
            # Byte-fallback decoders replace broken bytes differently: those are left out.
            result["decoded"] = "".join("-" if "\ufffd" in d or "\ufffd" in t else
                                        "=" if d == t else "x" for d, t in zip(decoded, texts))
    return result


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="make the vocabularies anew too")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    lines = [samples.prose(rng, 200) for _ in range(60)]
    names = ("byte_level.json", "sentencepiece.json", "sentencepiece_cross.json")
    if arguments.train:
        write(FOLDER / names[0], byte_level(lines))
        write(FOLDER / names[1], sentencepiece(lines, True))
        write(FOLDER / names[2], sentencepiece([l[:400] for l in lines], False))
        write(CORPUS / "byte_level_bpe.json", byte_level(lines[:2], 300))
        write(CORPUS / "sentencepiece_bpe.json", sentencepiece(lines[:2], True, 60))
    files = {name: json.loads((FOLDER / name).read_text()) for name in names}
    texts = samples.make(TEXTS, 11)
    (FOLDER / "texts.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    result = {"made_by": {"tokenizers": tokenizers.__version__}, "cases": []}
    for name, file, patch in cases(files):
        result["cases"].append({"name": name, "file": file, "patch": patch,
                                **expect(merged(files[file], patch), texts)})
    write(FOLDER / "expected.json", result)
    for file in sorted(FOLDER.iterdir()):
        print(f"{file.stat().st_size:8d}  {file.name}")


if __name__ == "__main__":
    main()
