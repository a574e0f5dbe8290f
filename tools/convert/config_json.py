"""config.json of the converted model: the base's, with the nested `lola` object."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from convert import VERSION, ConvertError
from convert.adapters import Adapters
from convert.base_model import BaseModel
from convert.dtypes import config_name


@dataclass(frozen=True)
class Defaults:
    """What a stream of this model gets unless it asks for something else."""

    profile: str = "paper"
    window: int = 256
    chunk: int = 256
    cache_pairs: int = 256
    mixing: str = "gated_natural"
    score_epsilon: float = 1e-6
    cache_dtype: str = "bfloat16"

    def check(self) -> None:
        if self.chunk < 1 or self.window < 1 or self.window % self.chunk:
            raise ConvertError(f"--chunk: {self.chunk} does not divide --window {self.window}")
        if self.cache_pairs < 0:
            raise ConvertError(f"--cache-pairs: {self.cache_pairs}, must be 0 or more")
        if not 0 < self.score_epsilon <= 1:
            raise ConvertError(f"--score-epsilon: {self.score_epsilon}, must be in (0, 1]")

    def to_json(self) -> dict:
        memory = {"memory_positions": "rotary", "mass_cap": 0, "redundancy_threshold": 0.0}
        if self.profile == "lifelong":
            memory = {"memory_positions": "constant", "memory_distance": 128, "mass_cap": 512,
                      "redundancy_threshold": 0.3}
        return {"profile": self.profile, "window": self.window, "chunk": self.chunk,
                "cache_pairs": self.cache_pairs, "mixing": self.mixing, **memory,
                "score_epsilon": self.score_epsilon, "cache_dtype": self.cache_dtype}


@dataclass(frozen=True)
class Trained:
    """How the adapters were trained; the published LoLCATs runs by default."""

    window: int = 64
    length: int = 1024


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(8 << 20):
            digest.update(block)
    return digest.hexdigest()


def provenance(base: BaseModel, weight_files: list[Path], adapters: Adapters, alpha: float,
               hashed: bool) -> dict:
    """Which inputs made this directory: SHA-256 of every file, and how LoRA was merged."""
    def entry(path: Path) -> str:
        return file_hash(path) if hashed else "not computed"
    lora = None
    if adapters.lora:
        lora = {"alpha": alpha, "ranks": adapters.ranks,
                "rank_stabilised": adapters.rank_stabilised,
                "merged": sorted({leaf for _, leaf in adapters.lora})}
    return {
        "tool": "tools/convert", "version": VERSION,
        "base": {path.name: entry(path)
                 for path in (base.directory / "config.json", *weight_files)},
        "adapters": [{"file": path.name, "sha256": entry(path)} for path in adapters.files],
        "lora": lora,
    }


def converted_config(base: BaseModel, dtype: str | None, feature_dim: int, trained: Trained,
                     defaults: Defaults, origin: dict) -> dict:
    config = dict(base.config)
    if dtype is not None:
        config["dtype" if "dtype" in config else "torch_dtype"] = config_name(dtype)
    config["lola"] = {
        "format_version": 1,
        "feature_map": {"kind": "softmax_dim", "feature_dim": feature_dim, "fullspace": True,
                        "clamp_eps": 1e-12},
        "trained": {"window": trained.window, "mask": "terrace", "length": trained.length,
                    "memory_positions": "rotary", "mixing": "lolcats",
                    "affine_attention_factors": False},
        "defaults": defaults.to_json(),
        "provenance": origin,
    }
    return config
