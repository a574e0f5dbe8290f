"""Writes small random models with Hugging Face transformers, and the logits it gives them.

Each directory under tests/testdata/transformers is what `save_pretrained` writes (or, marked
`published`, the same in the older spelling of published Llama and Mistral repositories) plus
`logits.safetensors`: `tokens` (int32), `positions` (int32), `logits` (float32, one row per
position). Its header's `__metadata__.made_with` is JSON: the versions that made it, and how far
transformers' own float32 and bfloat16 passes are from its float64 pass, which the logits come
from. The engine is judged against them by tests/services/engine/transformers_test.cc.
"""
from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
import transformers
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
TOKENS, EVERY, VOCAB = 192, 16, 96
# Llama 3's scaling with an original length so short that all three of its branches show at
# positions below TOKENS.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 48}


@dataclass(frozen=True)
class Case:
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    kind: str = "llama"
    tied: bool = False
    scaled: bool = False
    theta: float = 10000.0
    hidden: int = 32
    layers: int = 2
    vocab: int = VOCAB
    sliding_window: int | None = None
    shards: bool = False
    published: bool = False  # older spelling of config.json, as in published repositories


CASES = {
    "llama2_gqa1_d64_float32": Case(2, 2, 64, "float32", published=True),
    "llama2_gqa1_d128_float16": Case(2, 2, 128, "float16", shards=True, published=True),
    "llama3_gqa4_d128_bfloat16": Case(8, 2, 128, "bfloat16", theta=5e5, hidden=24),
    "llama31_gqa4_d128_bfloat16": Case(4, 1, 128, "bfloat16", scaled=True, theta=5e5, shards=True,
                                       published=True),
    "llama32_gqa4_d64_bfloat16": Case(4, 1, 64, "bfloat16", tied=True, scaled=True, theta=5e5),
    "llama32_gqa8_d64_float32": Case(8, 1, 64, "float32", tied=True, scaled=True, theta=5e5,
                                     hidden=24),
    "llama_gqa8_d64_float16": Case(16, 2, 64, "float16", tied=True, layers=1),
    "mistral_gqa4_d64_float32": Case(4, 1, 64, "float32", kind="mistral", shards=True),
    "mistral_gqa4_d128_bfloat16": Case(4, 1, 128, "bfloat16", kind="mistral", published=True,
                                       sliding_window=128),
}


def build(case: Case, seed: int) -> torch.nn.Module:
    """A random model, sharp enough that attention, norms and scaling all show in the logits."""
    shape = dict(
        vocab_size=case.vocab, hidden_size=case.hidden, intermediate_size=2 * case.hidden,
        num_hidden_layers=case.layers, num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads, head_dim=case.head_dim, max_position_embeddings=512,
        rms_norm_eps=1e-5, tie_word_embeddings=case.tied, attn_implementation="eager",
        rope_parameters={"rope_theta": case.theta} | (
            LLAMA3 if case.scaled else {"rope_type": "default"}))
    if case.vocab > 256:  # bytes and the special ids of the byte-level tokenizer
        shape |= {"bos_token_id": 256, "eos_token_id": 257}
    if case.kind == "mistral":
        config = transformers.MistralConfig(sliding_window=case.sliding_window, **shape)
        model = transformers.MistralForCausalLM(config)
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(1 + 0.2 * draw)
            elif "embed" in name or "lm_head" in name:
                weight.copy_(draw * (1 if "embed" in name else case.hidden ** -0.5))
            else:
                gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
                weight.copy_(gain * draw * weight.shape[1] ** -0.5)
    return model.to(getattr(torch, case.dtype)).eval()


def logits_of(directory: Path, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Logits of all tokens in the given arithmetic, from the files as they stand.

    The model is read anew for each arithmetic: casting one with `.to` would also round its
    rotary frequencies.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(tokens).logits[0].double()


def publish(path: Path) -> None:
    """Rewrites config.json in the spelling of repositories written before transformers 5."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.42.3"
    path.write_text(json.dumps(config, indent=2) + "\n")


def check_sensitivity(directory: Path, tokens: torch.Tensor, exact: torch.Tensor) -> None:
    """Asserts that rotary scaling matters here: a test on this fixture would notice it missing."""
    text = (directory / "config.json").read_text()
    assert '"llama3"' in text
    (directory / "config.json").write_text(text.replace('"llama3"', '"default"'))
    other = logits_of(directory, tokens, torch.float64)
    (directory / "config.json").write_text(text)
    assert (other - exact).abs().max() > 0.1, "scaling hardly changes the logits"


def write_case(directory: Path, name: str, case: Case, seed: int) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    build(case, seed).save_pretrained(directory, max_shard_size="60KB" if case.shards else "1GB")
    (directory / "generation_config.json").unlink(missing_ok=True)
    if case.published:
        publish(directory / "config.json")
    # Within the sliding window it changes nothing; beyond it the engine refuses to go.
    count = min(TOKENS, case.sliding_window or TOKENS)
    tokens = torch.randint(0, case.vocab, (1, count), generator=torch.Generator().manual_seed(seed))
    apart = {}
    exact = logits_of(directory, tokens, torch.float64)
    if case.scaled:
        check_sensitivity(directory, tokens, exact)
    for dtype in ("float32", "bfloat16"):
        rounded = logits_of(directory, tokens, getattr(torch, dtype))
        apart[dtype] = (rounded - exact).abs().max().item()
    positions = torch.arange(EVERY - 1, count, EVERY, dtype=torch.int32)
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__,
                 "safetensors": safetensors.__version__, "seed": seed,
                 "largest_logit": exact.abs().max().item(), "differences": apart}
    save_file({"tokens": tokens[0].int(), "positions": positions,
               "logits": exact[positions.long()].float().contiguous()},
              directory / "logits.safetensors", metadata={"made_with": json.dumps(made_with)})
    for path in directory.iterdir():
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{name}: {size // 1024} KiB, float32 {apart['float32']:.1e}, "
          f"bfloat16 {apart['bfloat16']:.1e}, largest {made_with['largest_logit']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write fixtures with Hugging Face transformers.")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/testdata/transformers",
                        help="folder (default: tests/testdata/transformers)")
    parser.add_argument("names", nargs="*", help="only these (default: all)")
    args = parser.parse_args()
    for seed, (name, case) in enumerate(CASES.items(), start=21):
        if not args.names or name in args.names:
            write_case(args.out / name, name, case, seed)


if __name__ == "__main__":
    main()
