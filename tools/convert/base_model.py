"""The base model's directory: shape, the tensors the engine reads, and what it would refuse."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from convert import ConvertError
from convert.dtypes import STORED
from convert.tensor_files import Tensor, read_directory

# Names that carry no weights and are left out.
IGNORED_ENDINGS = ("rotary_emb.inv_freq",)
HEAD_DIM_MAX = 256
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                   "generation_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class ModelShape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool

    def projections(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each projection of a layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"self_attn.q_proj": (q, self.hidden), "self_attn.k_proj": (kv, self.hidden),
                "self_attn.v_proj": (kv, self.hidden), "self_attn.o_proj": (self.hidden, q),
                "mlp.gate_proj": (self.ffn, self.hidden), "mlp.up_proj": (self.ffn, self.hidden),
                "mlp.down_proj": (self.hidden, self.ffn)}

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the base model, in the order they are written."""
        names: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab, self.hidden)}
        for i in range(self.layers):
            base = f"model.layers.{i}."
            names[base + "input_layernorm.weight"] = (self.hidden,)
            for leaf, shape in self.projections().items():
                names[f"{base}{leaf}.weight"] = shape
            names[base + "post_attention_layernorm.weight"] = (self.hidden,)
        names["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            names["lm_head.weight"] = (self.vocab, self.hidden)
        return names


@dataclass(frozen=True)
class BaseModel:
    directory: Path
    config: dict
    shape: ModelShape
    tensors: dict[str, Tensor]  # exactly those of shape.tensors()
    left_out: list[str]  # names without a use


def _count(config: dict, key: str, fallback: int | None = None) -> int:
    value = config.get(key)
    value = fallback if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConvertError(f"config.json: {key}: {value!r}, must be a positive whole number")
    return value


def read_shape(config: dict) -> ModelShape:
    heads, hidden = _count(config, "num_attention_heads"), _count(config, "hidden_size")
    shape = ModelShape(
        layers=_count(config, "num_hidden_layers"), hidden=hidden, heads=heads,
        kv_heads=_count(config, "num_key_value_heads", heads),
        head_dim=_count(config, "head_dim", max(1, hidden // heads)),
        ffn=_count(config, "intermediate_size"), vocab=_count(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)))
    if shape.head_dim % 16 or shape.head_dim > HEAD_DIM_MAX:
        raise ConvertError(f"config.json: head_dim: {shape.head_dim} is not a multiple of 16 up to "
                           f"{HEAD_DIM_MAX}")
    if heads % shape.kv_heads:
        raise ConvertError(f"config.json: num_key_value_heads: {shape.kv_heads} does not divide "
                           f"num_attention_heads {heads}")
    return shape


def check_config(config: dict) -> None:
    """Refuses what the engine would refuse, before hours are spent on it."""
    if "lola" in config:
        raise ConvertError("config.json: lola: there already; the base must be unconverted")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    wanted = {"model_type": ("llama", "mistral"), "hidden_act": ("silu",),
              "attention_bias": (False,), "mlp_bias": (False,), "quantization_config": (None,),
              "partial_rotary_factor": (None, 1)}
    if config.get("model_type") != "mistral":
        wanted["sliding_window"] = (None,)
    defaults = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False,
                "mlp_bias": False}
    for key, known in wanted.items():
        value = config.get(key, defaults.get(key))
        if value not in known:
            raise ConvertError(f"config.json: {key}: {value!r} (known: "
                               f"{', '.join(map(str, known))})")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ConvertError(f"config.json: rope_type: {kind!r} (known: default, llama3)")


def read_base(directory: Path) -> BaseModel:
    """Configuration and mapped tensors; nothing of the weights is read yet."""
    if not directory.is_dir():
        raise ConvertError(f"{directory}: not a directory")
    try:
        config = json.loads((directory / "config.json").read_text())
    except OSError as error:
        raise ConvertError(f"{directory / 'config.json'}: {error.strerror}") from None
    except ValueError as error:
        raise ConvertError(f"{directory / 'config.json'}: {error}") from None
    if not isinstance(config, dict):
        raise ConvertError(f"{directory / 'config.json'}: not a JSON object")
    check_config(config)
    if not (directory / "tokenizer.json").exists():
        raise ConvertError(f"{directory / 'tokenizer.json'}: missing; the engine reads no other "
                           "tokenizer file")
    shape, found = read_shape(config), read_directory(directory)
    wanted = shape.tensors()
    for name, want in wanted.items():
        if name not in found:
            raise ConvertError(f"{directory}: tensor {name}: missing")
        if found[name].shape != want:
            raise ConvertError(f"{directory}: tensor {name}: shape {list(found[name].shape)}, "
                               f"expected {list(want)} from config.json")
        if found[name].dtype not in STORED:
            raise ConvertError(f"{directory}: tensor {name}: type {found[name].dtype}; "
                               f"known: {', '.join(STORED)}")
    extra = sorted(set(found) - set(wanted))
    tied_head = ["lm_head.weight"] if shape.tied else []
    unknown = [n for n in extra if not n.endswith(IGNORED_ENDINGS) and n not in tied_head]
    if unknown:
        raise ConvertError(f"{directory}: tensor {unknown[0]}: unknown; without it the model would "
                           "be another one")
    return BaseModel(directory, config, shape, {n: found[n] for n in wanted}, extra)
