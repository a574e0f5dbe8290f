#!/usr/bin/env python3
"""Compares engine_tokenize with Hugging Face tokenizers on real vocabularies, id by id.

The vocabularies are those of fixtures.py behind every Unicode form, and those that Python packages
carry, where they are installed (nothing of theirs is committed):
    pip install -r tools/requirements.txt -r tools/tokenizer_check/requirements.txt
    tools/tokenizer_check/real.py --program build/release/bin/engine_tokenize

Writes one tokenizer.json per family under --out, then for each: texts with control tokens as text
(encode_special_tokens) and with them parsed, and the decoded texts. Exits 1 at any difference.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
import unicodedata

import samples
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors
from transformers.convert_slow_tokenizer import TikTokenConverter, generate_merges

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "tests/testdata/tokenizer"
PATTERNS = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
              r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
             r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
LLAMA3_SPECIAL = (["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
                   "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>",
                   "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
                   "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"] +
                  [f"<|reserved_special_token_{i}|>" for i in range(3, 248)])


def package_folder(name):
    return pathlib.Path(importlib.util.find_spec(name).submodule_search_locations[0])


def with_prefix(tokenizer, bos):
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))])
    return tokenizer


def llama3(pattern):
    path = package_folder("llama_models") / "llama3" / "tokenizer.model"
    made = TikTokenConverter(str(path), PATTERNS[pattern], extra_special_tokens=LLAMA3_SPECIAL)
    return with_prefix(made.converted(), "<|begin_of_text|>")


def tekken(name):
    """Mistral's own byte-level format: ranks with base64 bytes, special tokens first."""
    import base64
    data = json.loads((package_folder("mistral_common") / "data" / name).read_text())
    config = data["config"]
    reserved = config["default_num_special_tokens"]
    count = config["default_vocab_size"] - reserved
    ranks = {base64.b64decode(e["token_bytes"]): e["rank"] for e in data["vocab"][:count]}
    converter = TikTokenConverter("", config["pattern"])
    converter.load_tiktoken_bpe = lambda _: ranks
    vocab, merges = converter.extract_vocab_merges_from_model("")
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    special += [f"<SPECIAL_{i}>" for i in range(len(special), reserved)]
    vocab = {token: rank + reserved for token, rank in vocab.items()}
    vocab.update({token: i for i, token in enumerate(special)})
    tokenizer = Tokenizer(models.BPE(vocab, merges, fuse_unk=False, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(config["pattern"]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return with_prefix(tokenizer, "<s>")


def sentencepiece(file, scheme):
    """A SentencePiece BPE as transformers writes it: "legacy" (Prepend) or a Metaspace scheme."""
    from sentencepiece import sentencepiece_model_pb2
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(file.read_bytes())
    scores = [(p.piece, p.score) for p in proto.pieces]
    vocab = {piece: i for i, (piece, _) in enumerate(scores)}
    tokenizer = Tokenizer(models.BPE(vocab, generate_merges(vocab, scores), unk_token="<unk>",
                                     fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([
        AddedToken(p.piece, normalized=False, special=True)
        for p in proto.pieces if p.type in (2, 3)])
    if scheme == "legacy":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return with_prefix(tokenizer, "<s>")


def made(file, normalizer):
    """A vocabulary of fixtures.py behind a Unicode normalization form: needs no package."""
    data = json.loads((FIXTURES / file).read_text())
    data["normalizer"] = normalizer
    for token in data["added_tokens"]:  # control tokens to the engine, marked or not
        token["special"] |= token["content"].startswith("<|")
    return Tokenizer.from_str(json.dumps(data))


def families():
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        for file in ("byte_level", "sentencepiece"):
            yield f"made_{file}_{form.lower()}", (
                lambda file=file, form=form: made(file + ".json", {"type": form}))
    if not importlib.util.find_spec("mistral_common"):
        print("only made vocabularies: the packages of requirements.txt are not installed")
        return
    mistral = package_folder("mistral_common") / "data"
    yield "llama3", lambda: llama3("llama3")
    yield "llama3_qwen2_pattern", lambda: llama3("qwen2")
    yield "llama3_gpt2_pattern", lambda: llama3("gpt2")
    for scheme in ("legacy", "first", "always", "never"):
        yield f"mistral_v1_{scheme}", (
            lambda s=scheme: sentencepiece(mistral / "tokenizer.model.v1", s))
    for file in sorted(mistral.glob("mistral_instruct_tokenizer_*.model.v[237]")):
        yield f"mistral_{file.suffix[1:]}", lambda f=file: sentencepiece(f, "legacy")
    for file in sorted(mistral.glob("tekken_*.json")):
        yield file.stem, lambda f=file: tekken(f.name)
    deepseek = package_folder("litellm") / "litellm_core_utils/tokenizers/deepseek_tokenizer.json"
    yield "deepseek_v2", lambda: Tokenizer.from_file(str(deepseek))


def ours(program, path, mode, values):
    lines = "".join(json.dumps(value) + "\n" for value in values)
    done = subprocess.run([program, path, *mode], input=lines, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{path}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.split("\n") if line], done.stderr.strip()


def report(name, texts, expected, got):
    wrong = [i for i in range(len(texts)) if expected[i] != got[i]]
    for i in wrong[:3]:
        print(f"  {name}: {texts[i]!r}\n    theirs {expected[i]}\n    ours   {got[i]}")
    return len(wrong)


def clean(text):
    """Byte-fallback decoders of both sides replace broken bytes differently: leave those out."""
    return "\ufffd" not in text


def check(name, make, args, texts):
    path = args.out / f"{name}.json"
    if not path.exists():
        make().save(str(path))
    theirs = Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    plain = [e.ids for e in theirs.encode_batch_fast(texts, add_special_tokens=False)]
    mine, loaded = ours(args.program, path, [], texts)
    wrong = report(name + " text", texts, plain, mine)
    theirs.encode_special_tokens = False
    parsed = [e.ids for e in theirs.encode_batch_fast(texts, add_special_tokens=False)]
    mine, _ = ours(args.program, path, ["--control"], texts)
    wrong += report(name + " control", texts, parsed, mine)
    decoded = theirs.decode_batch(parsed, skip_special_tokens=True)
    mine, _ = ours(args.program, path, ["--decode"], parsed)
    kept = [i for i in range(len(texts)) if clean(decoded[i])]
    wrong += report(name + " decode", [parsed[i] for i in kept], [decoded[i] for i in kept],
                    [mine[i] for i in kept])
    print(f"{name}: {len(texts)} texts twice, {len(kept)} decoded, {wrong} differences ({loaded})")
    return wrong


def timing(name, args):
    path = args.out / f"{name}.json"
    import random
    text = samples.prose(random.Random(1), 400_000)
    file = args.out / "prose.txt"
    file.write_text(text)
    theirs = Tokenizer.from_file(str(path))
    best = min(_seconds(lambda: theirs.encode_batch_fast([text])) for _ in range(3))
    out = subprocess.run([args.program, path, "--time", file], capture_output=True, text=True)
    print(f"{name}: ours {out.stdout.strip()}; theirs {len(text.encode()) / best / 1e6:.2f} MB/s")


def _seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/bin/engine_tokenize",
                        help="our tokenizer (build/release/bin/engine_tokenize)")
    parser.add_argument("--out", default="build/tokenizers", type=pathlib.Path,
                        help="folder for the vocabularies (build/tokenizers)")
    parser.add_argument("--count", default=12_000, type=int, help="texts per vocabulary (12000)")
    parser.add_argument("--seed", default=1, type=int, help="of the texts (1)")
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--all-characters", action="store_true",
                        help="also every Unicode character between letters and behind a space")
    parser.add_argument("--time", action="store_true", help="also megabytes per second, one thread")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for package in ("tokenizers", "transformers", "llama-models", "mistral-common", "litellm"):
        if importlib.util.find_spec(package.replace("-", "_")):
            print(package, importlib.metadata.version(package))
    texts = samples.make(args.count, args.seed)
    if args.all_characters:
        points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
        texts += ["".join(f"a{c}b {c}1{c}'{c} \n" for c in points[i:i + 8])
                  for i in range(0, len(points), 8)]
        # Marks in an order that normalization changes, around all that could be a mark.
        marks = [c for c in points if unicodedata.decomposition(c) or (
            c < "\U00020000" and unicodedata.category(c) not in ("Lo", "Co"))]
        texts += ["".join(f"e\u0323{c}\u0301\u0334{c}\u0327" for c in marks[i:i + 99])
                  for i in range(0, len(marks), 99)]
    wrong = 0
    for name, make in families():
        if args.only in name:
            wrong += check(name, make, args, texts)
            if args.time:
                timing(name, args)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
