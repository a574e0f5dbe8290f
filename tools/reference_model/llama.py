"""A plain Llama-style decoder for training: RMSNorm, rotary positions, SwiGLU.

Parameter names equal those of Hugging Face's Llama, so a state dictionary is a
checkpoint. Linearised attention is in linear_attention.py; streaming is in
lola_reference.py, which shares nothing with this file but the names.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class ModelConfig:
    """Shape of the model; the defaults are the reference model's."""

    vocab: int = 272
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 32
    ffn: int = 352
    theta: float = 10000.0
    eps: float = 1e-5

    def to_dict(self) -> dict:
        return asdict(self)


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotary_table(length: int, head_dim: int, theta: float, start: int = 0):
    """cos and sin [length, head_dim / 2]; angles in float64, rounded once."""
    freq = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(start, start + length, dtype=torch.float64)[:, None] * freq
    return torch.cos(angle).float(), torch.sin(angle).float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the pairs (i, i + d/2) of the last axis."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    """Causal softmax attention; q, k, v are exposed for attention transfer."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.hidden, bias=False)
        self.record: list | None = None  # collects (k, v) when training looks at memory

    def project(self, x: torch.Tensor):
        """q, k, v as [batch, heads, length, head_dim]; k, v repeated per query head."""
        rows, length, _ = x.shape
        group = self.c.heads // self.c.kv_heads

        def split(y: torch.Tensor, heads: int) -> torch.Tensor:
            return y.view(rows, length, heads, self.c.head_dim).transpose(1, 2)

        q = split(self.q_proj(x), self.c.heads)
        k = split(self.k_proj(x), self.c.kv_heads)
        v = split(self.v_proj(x), self.c.kv_heads)
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        return q, k, v

    def mix(self, q, k, v, cos, sin) -> torch.Tensor:
        """Heads' outputs before o_proj; replaced by the linearised model."""
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x)
        if self.record is not None:
            self.record.append((k, v))
        y = self.mix(q, k, v, cos, sin)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden, c.ffn, bias=False)
        self.up_proj = nn.Linear(c.hidden, c.ffn, bias=False)
        self.down_proj = nn.Linear(c.ffn, c.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Pre-norm decoder layer."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden, c.eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden, c.eps)
        self.mlp = Mlp(c)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers, final norm (the part Hugging Face calls `model`)."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab, c.hidden)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.hidden, c.eps)


class Llama(nn.Module):
    """The language model; `forward` returns logits."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.c = c
        self.model = Decoder(c)
        self.lm_head = nn.Linear(c.hidden, c.vocab, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Fan-in scaled normals; branches that write to the stream start smaller."""
        for name, weight in self.named_parameters():
            if weight.dim() != 2:
                continue
            std = 0.5 if "embed" in name else weight.shape[1] ** -0.5
            if "o_proj" in name or "down_proj" in name:
                std *= (2 * self.c.layers) ** -0.5
            nn.init.normal_(weight, std=std)

    def forward(self, tokens: torch.Tensor, start: int = 0) -> torch.Tensor:
        cos, sin = rotary_table(tokens.shape[1], self.c.head_dim, self.c.theta, start)
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))
