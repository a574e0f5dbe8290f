"""Streaming LoLA in plain PyTorch: the judge of every other implementation.

Tokens are fed in any portions; the result depends on the token sequence alone. The decoder
around the memory (lola_memory.py) is written out here once more, on purpose: it shares
nothing with the training code but the names of the weights.
"""
from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from lola_memory import LIFELONG, PAPER, LayerMemory, Settings

__all__ = ["LIFELONG", "PAPER", "LolaReference", "Settings"]
Tensor = torch.Tensor


def rope_frequencies(config: dict) -> Tensor:
    """One float64 frequency per dimension pair, with llama3 scaling when configured."""
    half = config["head_dim"] // 2
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = config.get("rope_theta") or rope["rope_theta"]
    freq = float(theta) ** (-torch.arange(half, dtype=torch.float64) / half)
    if rope.get("rope_type", "default") != "llama3":
        return freq
    wave = 2 * math.pi / freq
    old, low, high = (rope["original_max_position_embeddings"], rope["low_freq_factor"],
                      rope["high_freq_factor"])
    blend = ((old / wave - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - blend) * freq / rope["factor"] + blend * freq


class LolaReference:
    """A decoder with LoLA memory over one or more equal-length streams."""

    def __init__(self, directory: Path | str, settings: Settings, batch: int = 1):
        directory = Path(directory)
        self.config = json.loads((directory / "config.json").read_text())
        self.weights = {name: tensor.float() for name, tensor
                        in load_file(directory / "model.safetensors").items()}
        self.heads = self.config["num_attention_heads"]
        self.kv_heads = self.config["num_key_value_heads"]
        self.settings, self.position = settings, 0
        freq = rope_frequencies(self.config)
        shape = (batch, self.heads, self.config["head_dim"])
        self.layers = [LayerMemory(settings, i, self._memory_weights(i), freq, shape,
                                   self.kv_heads)
                       for i in range(self.config["num_hidden_layers"])]

    def _memory_weights(self, layer: int) -> dict:
        if self.settings.mode == "softmax":
            return {}
        name = f"model.layers.{layer}.self_attn."
        return {"q": self.weights[name + "feature_map_q.mlp.layer"],
                "k": self.weights[name + "feature_map_k.mlp.layer"],
                "gate": self.weights[name + "window_factors"]}

    def _norm(self, x: Tensor, name: str) -> Tensor:
        mean = x.square().mean(-1, keepdim=True)
        return x * torch.rsqrt(mean + self.config["rms_norm_eps"]) * self.weights[name]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[name + ".weight"].T

    def _split(self, x: Tensor, heads: int) -> Tensor:
        x = x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)
        return x.repeat_interleave(self.heads // heads, 1)

    @torch.no_grad()
    def feed(self, tokens: Tensor) -> Tensor:
        """Logits [batch, count, vocabulary] of the next tokens [batch, count]."""
        chunk, outputs, done = self.settings.chunk, [], 0
        while done < tokens.shape[1]:
            size = min(chunk - self.position % chunk, tokens.shape[1] - done)
            outputs.append(self._portion(tokens[:, done:done + size]))
            done += size
        return torch.cat(outputs, 1)

    def _portion(self, tokens: Tensor) -> Tensor:
        """Tokens of one chunk through all layers, each followed by its event if one is due."""
        end = self.position + tokens.shape[1]
        due = end % self.settings.chunk == 0 and end >= self.settings.window + self.settings.chunk
        x = self.weights["model.embed_tokens.weight"][tokens]
        for i, memory in enumerate(self.layers):
            name = f"model.layers.{i}."
            h = self._norm(x, name + "input_layernorm.weight")
            q = self._split(self._linear(h, name + "self_attn.q_proj"), self.heads)
            k = self._split(self._linear(h, name + "self_attn.k_proj"), self.kv_heads)
            v = self._split(self._linear(h, name + "self_attn.v_proj"), self.kv_heads)
            y = memory.read(q, k, v, self.position)
            if due and self.settings.mode != "softmax":
                memory.event(end)
            x = x + self._linear(y.transpose(1, 2).flatten(2), name + "self_attn.o_proj")
            h = self._norm(x, name + "post_attention_layernorm.weight")
            gate = torch.nn.functional.silu(self._linear(h, name + "mlp.gate_proj"))
            x = x + self._linear(gate * self._linear(h, name + "mlp.up_proj"),
                                 name + "mlp.down_proj")
        self.position = end
        x = self._norm(x, "model.norm.weight")
        tied = self.config.get("tie_word_embeddings", False)
        return self._linear(x, "model.embed_tokens" if tied else "lm_head")
