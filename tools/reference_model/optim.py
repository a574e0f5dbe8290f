"""Optimisers of the teacher: Muon for the matrices inside layers, AdamW for the rest.

Muon finds the copying circuit in fewer tokens than AdamW alone; on one CPU core tokens are
what is scarce.
"""
from __future__ import annotations

import math

import torch


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; for the matrices inside the layers."""

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["m"] = torch.zeros_like(p)
                state["m"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(state["m"], group["momentum"]))
                scale = math.sqrt(max(1.0, p.shape[0] / p.shape[1]))
                p.add_(update, alpha=-group["lr"] * scale)


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrix, roughly: five quintic Newton-Schulz steps."""
    wide = g.shape[0] > g.shape[1]
    x = g.T if wide else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if wide else x


def make_optimisers(model: torch.nn.Module, args) -> list[torch.optim.Optimizer]:
    """Muon for layer matrices when asked for, AdamW for everything else."""
    inner = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    ids = {id(p) for p in inner} if args.muon else set()
    rest = [p for p in model.parameters() if id(p) not in ids]
    found = [torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)]
    if args.muon:
        found.append(Muon(inner, lr=args.muon_lr))
    for optimiser in found:
        for group in optimiser.param_groups:
            group["base"] = group["lr"]
    return found
