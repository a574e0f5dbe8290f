"""Writes and reads model directories in Hugging Face's Llama layout with a "lola" object."""
from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llama import ModelConfig
from passkey_text import BOS, EOS, PAD

FEATURE_KEYS = ("feature_map_q.mlp.layer", "feature_map_k.mlp.layer", "window_factors")


def hf_config(c: ModelConfig, length: int, lola: dict | None) -> dict:
    """config.json; without `lola` the directory is a plain Llama."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab,
        "hidden_size": c.hidden,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": length,
        "rms_norm_eps": c.eps,
        "rope_theta": c.theta,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "float32",
    }
    if lola is not None:
        config["lola"] = lola
    return config


def lola_object(feature_dim: int, window: int, length: int, defaults: dict,
                provenance: dict) -> dict:
    """The nested object; `defaults` overrides single fields of the lifelong profile."""
    profile = {
        "profile": "lifelong", "window": window, "chunk": window, "cache_pairs": 128,
        "memory_positions": "constant", "memory_distance": 128, "mass_cap": 512,
        "redundancy_threshold": 0.3, "mixing": "gated_natural", "score_epsilon": 1e-6,
        "cache_dtype": "float32",
    }
    return {
        "format_version": 1,
        "feature_map": {"kind": "softmax_dim", "feature_dim": feature_dim,
                        "fullspace": True, "clamp_eps": 1e-12},
        "trained": {"window": window, "mask": "terrace", "length": length,
                    "memory_positions": "constant", "memory_distance": 128,
                    "mixing": "gated_natural"},
        "defaults": profile | defaults,
        "provenance": provenance,
    }


def byte_symbols() -> list[str]:
    """The printable character that byte-level tokenizers write for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols, spare = [], 256
    for byte in range(256):
        symbols.append(chr(byte if byte in plain else spare))
        spare += byte not in plain
    return symbols


def tokenizer_json() -> dict:
    """A byte-level vocabulary without merges: byte b is id b, then <bos>, <eos>, <pad>."""
    special = {"<bos>": BOS, "<eos>": EOS, "<pad>": PAD}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    start = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": t, **flags} for t, i in special.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text],
            "pair": [start, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}},
        },
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {s: i for i, s in enumerate(byte_symbols())} | special,
                  "merges": []},
    }


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n")


def save_directory(directory: Path, c: ModelConfig, tensors: dict[str, torch.Tensor],
                   length: int, lola: dict | None) -> None:
    """Weights, configuration, tokenizer and generation defaults."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)
    _write_json(directory / "config.json", hf_config(c, length, lola))
    _write_json(directory / "tokenizer.json", tokenizer_json())
    _write_json(directory / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>",
        "eos_token": "<eos>", "pad_token": "<pad>", "clean_up_tokenization_spaces": False,
        "model_max_length": length})
    _write_json(directory / "generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "do_sample": False,
        "max_new_tokens": 16})


def load_directory(directory: Path) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Shape and tensors of a directory written by save_directory."""
    config = json.loads((directory / "config.json").read_text())
    shape = ModelConfig(
        vocab=config["vocab_size"], hidden=config["hidden_size"],
        layers=config["num_hidden_layers"], heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"], head_dim=config["head_dim"],
        ffn=config["intermediate_size"], theta=config["rope_theta"],
        eps=config["rms_norm_eps"])
    return shape, load_file(directory / "model.safetensors")


def is_feature_weight(name: str) -> bool:
    """Whether a tensor belongs to the linearised memory, not to the plain Llama."""
    return name.endswith(FEATURE_KEYS)
