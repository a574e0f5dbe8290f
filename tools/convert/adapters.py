"""LoLCATs adapters: feature maps, window factors and LoRA matrices, by layer.

Checkpoints name the same tensor in several ways. What stands before `layers.` depends on how the
model was wrapped when it was saved and is dropped; `window_factor` is an older spelling; PEFT puts
an adapter's name between `lora_A` and `weight`.
"""
from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from convert import ConvertError
from convert.tensor_files import Tensor, read_safetensors
from convert.torch_file import read_torch

MAPS = ("feature_map_q.mlp.layer", "feature_map_k.mlp.layer")
FACTORS = "window_factors"
FEATURES_MAX = 256  # of one half
DEFAULT_ALPHA = 16.0  # of LoLCATs, whose files do not say it
_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")
_LORA = re.compile(r"((?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj)"
                   r"\.lora_([AB])(?:\.([\w-]+))?\.weight")


@dataclass
class Lora:
    """One low-rank update: W + scale * B A."""

    a: Tensor | None = None  # [rank, in]
    b: Tensor | None = None  # [out, rank]

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass
class Adapters:
    """All adapters together, keyed by (layer, leaf)."""

    memory: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    lora: dict[tuple[int, str], Lora] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    # Of files with LoRA: alpha (None: the file does not say) and whether it is rank-stabilised.
    scales: dict[Path, tuple[float | None, bool]] = field(default_factory=dict)
    overridden: int = 0  # feature maps and factors that a later file replaced

    @property
    def ranks(self) -> list[int]:
        return sorted({lora.rank for lora in self.lora.values()})

    @property
    def rank_stabilised(self) -> bool:
        return any(stabilised for _, stabilised in self.scales.values())

    def alpha(self, given: float | None) -> float:
        """alpha of all LoRA files: `given`, or what they say. They are merged by one rule."""
        rules = {}
        for file, (own, stabilised) in self.scales.items():
            alpha = given if given is not None else DEFAULT_ALPHA if own is None else own
            rules.setdefault((alpha, stabilised), file)
        if len(rules) > 1:
            raise ConvertError("LoRA files of different scales: " + "; ".join(
                f"{file}: alpha {alpha:g}{', rank-stabilised' if stabilised else ''}"
                for (alpha, stabilised), file in rules.items())
                + ": merge one of them into the base first")
        return next(iter(rules), (DEFAULT_ALPHA if given is None else given, False))[0]


def find_file(path: Path) -> Path:
    """The tensor file of an adapter given as a file or as a repository directory."""
    if not path.is_dir():
        if not path.exists():
            raise ConvertError(f"{path}: missing")
        return path
    for name in ("adapter_model.safetensors", "model.safetensors", "model.pt"):
        if (path / name).exists():
            return path / name
    raise ConvertError(f"{path}: none of adapter_model.safetensors, model.safetensors, model.pt")


def _classify(name: str) -> tuple[int, str, str | None, str | None] | None:
    """(layer, leaf, A or B, adapter name) of a tensor's name; None when it has no meaning here."""
    match = _LAYER.fullmatch(name)
    if not match:
        return None
    layer, leaf = int(match[1]), match[2]
    lora = _LORA.fullmatch(leaf)
    if lora:
        return layer, lora[1], lora[2], lora[3] or "default"
    leaf = leaf.removeprefix("self_attn.")
    leaf = FACTORS if leaf == "window_factor" else leaf
    return (layer, leaf, None, None) if leaf in (*MAPS, FACTORS) else None


def _add_file(adapters: Adapters, file: Path) -> None:
    tensors = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    known = {name: _classify(name) for name in tensors}
    unknown = sorted(name for name, meaning in known.items() if meaning is None)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ConvertError(f"{file}: unknown tensors: {', '.join(unknown[:5])}{more}")
    names = {meaning[3] for meaning in known.values() if meaning[3]}
    if len(names) > 1:
        raise ConvertError(f"{file}: LoRA adapters of several names: {', '.join(sorted(names))}")
    seen: set[tuple] = set()
    for name, meaning in known.items():
        if meaning[:3] in seen:
            raise ConvertError(f"{file}: tensor {name} stands there under another name too")
        seen.add(meaning[:3])
        layer, leaf, side, _ = meaning
        if side is None:
            adapters.overridden += (layer, leaf) in adapters.memory
            adapters.memory[layer, leaf] = tensors[name]
            continue
        lora = adapters.lora.setdefault((layer, leaf), Lora())
        if getattr(lora, side.lower()) is not None:
            raise ConvertError(f"{file}: tensor {name}: another file has it too")
        setattr(lora, side.lower(), tensors[name])


def _read_peft_config(path: Path) -> tuple[float, bool]:
    """alpha, and whether the scale is alpha / sqrt(r); other variants of LoRA are refused."""
    try:
        config = json.loads(path.read_text())
        alpha = float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"{path}: lora_alpha: {error}") from None
    for key in ("use_dora", "alpha_pattern", "rank_pattern", "modules_to_save"):
        if config.get(key):
            raise ConvertError(f"{path}: {key}: {config[key]!r} is not supported")
    if config.get("bias", "none") != "none":
        raise ConvertError(f"{path}: bias: {config['bias']!r} is not supported")
    return alpha, bool(config.get("use_rslora"))


def read_adapters(paths: list[Path]) -> Adapters:
    """Reads files in order; feature maps and factors of a later one replace an earlier one's."""
    adapters = Adapters()
    for path in paths:
        file, before = find_file(path), len(adapters.lora)
        _add_file(adapters, file)
        adapters.files.append(file)
        config, scale = file.parent / "adapter_config.json", (None, False)
        if file.name == "adapter_model.safetensors" and config.exists():
            scale = _read_peft_config(config)
        if len(adapters.lora) > before:
            adapters.scales[file] = scale
    return adapters


def _missing(what: str, layers: list[int]) -> str:
    return f"{what}: missing in layer{'s' if len(layers) > 1 else ''} " + ", ".join(
        map(str, layers[:8])) + (", ..." if len(layers) > 8 else "")


def check_finite(name: str, values: np.ndarray, first: int = 0) -> None:
    """Refuses NaN and infinity; `first` is the row that `values` begin at."""
    finite = np.isfinite(values)
    if not finite.all():
        at = np.unravel_index(int(np.argmin(finite)), values.shape)
        where = [int(at[0]) + first, *map(int, at[1:])] if at else []
        raise ConvertError(f"tensor {name}: element {where} is {values[at]}")


def check_adapters(adapters: Adapters, shape: "ModelShape", widths: dict) -> int:
    """Everything there, of the right shape and finite. Returns the feature maps' width.

    `widths` gives (out, in) of each projection leaf.
    """
    everywhere = range(shape.layers)
    beyond = sorted({i for i, _ in (*adapters.memory, *adapters.lora) if i >= shape.layers})
    if beyond:
        raise ConvertError(f"layer {beyond[0]}: the base model has {shape.layers} layers")
    for leaf in (*MAPS, FACTORS):
        absent = [i for i in everywhere if (i, leaf) not in adapters.memory]
        if absent:
            files = ", ".join(str(file) for file in adapters.files)
            raise ConvertError(f"{files}: {_missing(leaf, absent)}")
    feature_dim = adapters.memory[0, MAPS[0]].shape[-1] if (
        adapters.memory[0, MAPS[0]].shape) else 0
    for (i, leaf), tensor in sorted(adapters.memory.items()):
        name = f"layers.{i}.self_attn.{leaf}"
        want = (shape.heads, shape.head_dim, feature_dim) if leaf in MAPS else (
            1, shape.heads, 1, 1)
        if tensor.shape != want or feature_dim == 0:
            raise ConvertError(f"tensor {name}: shape {list(tensor.shape)}, expected {list(want)}")
        check_finite(name, _values(name, tensor))
    if feature_dim % 16 or feature_dim > FEATURES_MAX:
        raise ConvertError(f"feature maps of width {feature_dim}: not a multiple of 16 up to "
                           f"{FEATURES_MAX}, the engine has no others")
    for leaf in sorted({leaf for _, leaf in adapters.lora}):
        absent = [i for i in everywhere if (i, leaf) not in adapters.lora]
        if absent:
            raise ConvertError(_missing(f"LoRA of {leaf}", absent))
    for (i, leaf), lora in sorted(adapters.lora.items()):
        name = f"layers.{i}.{leaf}"
        for side, tensor in (("A", lora.a), ("B", lora.b)):
            if tensor is None:
                raise ConvertError(f"tensor {name}.lora_{side}: missing, though the other is there")
            check_finite(f"{name}.lora_{side}", _values(f"{name}.lora_{side}", tensor))
        out, width = widths[leaf]
        if len(lora.a.shape) != 2 or lora.a.shape[1] != width or (
                lora.b.shape != (out, lora.a.shape[0])):
            raise ConvertError(f"tensor {name}: lora_A {list(lora.a.shape)} and lora_B "
                               f"{list(lora.b.shape)}, expected [r, {width}] and [{out}, r]")
    return feature_dim


def _values(name: str, tensor: Tensor) -> np.ndarray:
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise ConvertError(f"tensor {name}: type {tensor.dtype}; known: F32, F16, BF16")
    return tensor.values()
