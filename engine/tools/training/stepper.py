"""One step of training: forward and backward over one batch or several, the gradients' norm, and the update.

An update is made only where loss and gradients are finite; of several processes all decide alike. With a loss scale, a
step that overflowed is skipped and the scale halved; without one, or where halving does not help, training stops and
says where the numbers went.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from engine.errors import YiwenError
from engine.tools.training import faults
from engine.tools.training.packing import IGNORED
from engine.tools.training.precision import LOWEST_SCALE, Precision, underflow
from engine.tools.training.trainee import Trainee


class Diverged(YiwenError):
    """Numbers that are not finite, and no way on. The weights are those before the step."""


@dataclass(frozen=True, slots=True)
class Stepped:
    loss: float  # nats a target token, without smoothing; of all processes
    norm: float  # of all gradients
    applied: bool  # whether the weights moved
    underflow: dict[str, float] | None  # of the layers' gradients, where it was asked for
    unchanged: float | None  # share of one matrix's weights that the update left as they were, where it was asked for


class Stepper:
    def __init__(
        self,
        accelerator: Accelerator,
        trainee: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        precision: Precision,
        clip_norm: float,
    ) -> None:
        """`trainee`: as `accelerator` prepared it. `clip_norm` bounds what the last optimizer moves."""
        self._accelerator, self._trainee, self._optimizers = accelerator, trainee, optimizers
        self._plain: Trainee = accelerator.unwrap_model(trainee)
        self._precision, self._clip_norm = precision, clip_norm
        self.scaler = precision.scaler(accelerator.device)
        self._watched = [(name, each) for name, each in self._plain.model.named_parameters() if each.requires_grad]
        matrices = [each for name, each in self._watched if each.ndim == 2 and name.startswith("layers.")]
        self._matrices = matrices or [each for _, each in self._watched]

    def __call__(self, batches: Sequence[dict[str, Tensor]], look_closer: bool = False) -> Stepped:
        """`batches`: as many as are gathered into one update. Raises `Diverged`."""
        loss = self._gradients(batches)
        scale = self.scaler.get_scale() if self._precision.scaled else 1.0
        for optimizer in self._optimizers:
            if self._precision.scaled:
                self.scaler.unscale_(optimizer)
        norms = [torch.nn.utils.get_total_norm(_gradients_of(optimizer)).float() for optimizer in self._optimizers]
        loss_value, norm_value = torch.stack((loss, torch.stack(norms).norm())).tolist()
        finite = math.isfinite(loss_value) and math.isfinite(norm_value)
        shares = before = None
        if look_closer:
            shares = underflow((each.grad for each in self._matrices if each.grad is not None), scale)
            before = self._middle.detach().clone()
        if finite:
            torch.nn.utils.clip_grads_with_norm_(_weights_of(self._optimizers[-1]), self._clip_norm, norms[-1])
            for optimizer in self._optimizers:
                optimizer.step()
        elif not self._precision.scaled or scale <= LOWEST_SCALE:
            where = faults.described(self._plain, batches[-1], self._precision)
            raise Diverged(f"the loss is {loss_value:.4g} and the gradients' norm {norm_value:.4g}: {where}")
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        if self._precision.scaled:
            self.scaler.update()
        unchanged = None if before is None else float((self._middle.detach() == before).float().mean())
        return Stepped(loss_value, norm_value, finite, shares, unchanged)

    @property
    def _middle(self) -> Tensor:
        middle: Tensor = self._matrices[len(self._matrices) // 2]
        return middle

    def _gradients(self, batches: Sequence[dict[str, Tensor]]) -> Tensor:
        """Of the mean over all target tokens of all batches and processes; gives the plain loss, in fp32."""
        counts = torch.stack([(batch["labels"] != IGNORED).sum() for batch in batches]).sum().float()
        shared: Any = self._accelerator.reduce(counts, "mean")  # data parallelism takes the mean of gradients
        plain = torch.zeros_like(counts)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else self._accelerator.no_sync(self._trainee):
                self._plain.attend.set(batch["documents"])
                with self._precision.autocast(batch["ids"].device):
                    sums = self._trainee(batch)
                self.scaler.scale(sums[0] / shared).backward()
                plain += sums[1].detach()
        mean: Any = self._accelerator.reduce(plain, "mean")
        found: Tensor = mean / shared
        return found


def _weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"]]


def _gradients_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [each.grad for each in _weights_of(optimizer) if each.grad is not None]
