"""Which optimizer moves which weights, and how fast: Muon or AdamW, warm-up, WSD or cosine. Knows no loop."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from engine.errors import ConfigError
from engine.tools.training.muon import Muon

SCHEDULES = ("wsd", "cosine")
KINDS = ("muon", "adamw")


def optimizers_for(
    named: Iterable[tuple[str, nn.Parameter]], settings: Mapping[str, Any]
) -> list[torch.optim.Optimizer]:
    """`kind` muon: Muon for the matrices of the layers, AdamW for embedding and norms; adamw: AdamW for all, with
    `weight_decay` on matrices. The last is AdamW: `clip_norm` bounds its gradients (Muon's updates are normalised)."""
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    fused = any(parameter.is_cuda for _, parameter in trained)
    adam = {"lr": settings["adam_lr"], "betas": tuple(settings["adam_betas"]), "fused": fused}
    if settings["kind"] == "adamw":
        matrices = [parameter for _, parameter in trained if parameter.ndim == 2]
        vectors = [parameter for _, parameter in trained if parameter.ndim != 2]
        groups = [
            {"params": matrices, "weight_decay": settings.get("weight_decay", 0.0)},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return [torch.optim.AdamW([group for group in groups if group["params"]], **adam)]
    in_layers = [(parameter.ndim == 2 and name.startswith("layers."), parameter) for name, parameter in trained]
    if not (others := [p for inside, p in in_layers if not inside]):
        raise ConfigError("The recipe's optimizer is 'muon'; adapters are trained with 'adamw', give such a recipe.")
    muon = Muon([p for inside, p in in_layers if inside], settings["muon_lr"], settings["muon_weight_decay"])
    rest = torch.optim.AdamW(others, weight_decay=0.0, **adam)
    return [muon, rest]


def learning_rate(step: int, steps: int, settings: Mapping[str, Any]) -> float:
    """The factor on the peak learning rate at `step` of `steps`: a linear warm-up, then `schedule` wsd (held, and from
    the share `decay_from` of the run on straight to zero: warm-up, stable, decay, arXiv 2404.06395) or cosine."""
    warm, done = min(1.0, (step + 1) / max(1.0, float(settings["warmup_steps"]))), step / steps
    if settings["schedule"] == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    return warm * min(1.0, max(0.0, 1 - done) / (1 - float(settings["decay_from"])))
