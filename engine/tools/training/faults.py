"""Where numbers stopped being numbers: the first module whose output is not finite, or the gradients that are not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.tools.training.precision import Precision
from engine.tools.training.trainee import Trainee


@torch.no_grad()
def described(trainee: Trainee, batch: dict[str, Tensor], precision: Precision) -> str:
    """In words, after a step whose loss or gradients were not finite, with the gradients still there."""
    device = batch["ids"].device
    if broken := [name for name, each in trainee.model.named_parameters() if not each.isfinite().all()]:
        return f"the weights of {_listed(broken)} are no longer finite: the update before broke them"
    trainee.attend.set(batch["documents"])
    for row in range(len(batch["ids"])):
        if found := _first_fault(trainee.model, batch, trainee.attend.dense(row), row, precision, device):
            return found
    named = trainee.model.named_parameters()
    broken = [name for name, each in named if each.grad is not None and not each.grad.isfinite().all()]
    if not broken:
        return "every value is finite when looked at again"
    return f"the forward pass is finite, the gradients of {_listed(broken[::-1])} are not"


def _listed(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _first_fault(
    model: nn.Module, batch: dict[str, Tensor], attend: Any, row: int, precision: Precision, device: torch.device
) -> str | None:
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not output.isfinite().all():
                largest = max((float(each.abs().max()) for each in inputs if _floats(each)), default=0.0)
                found.append(
                    f"the first values that are not finite come out of {name}; what goes in is at most {largest:.3g}"
                )

        return look

    leaves = [(name, module) for name, module in model.named_modules() if name and not list(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.compiler.set_stance("force_eager"), precision.autocast(device):
            hidden = model(batch["ids"][row : row + 1], batch["positions"][row : row + 1], attend, precision.compute)
            if not found:
                scores = model.logits(hidden[0, -1:])  # type: ignore[operator]
                if not scores.isfinite().all():
                    found.append("the scores of the head are the first that are not finite")
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0
