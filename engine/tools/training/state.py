"""Where a run is, on the disk: weights that are trained, optimizers, loss scale, random numbers, places in the data.

A folder `state` that is whole or not there: it is written beside and put in its place. Each process writes its own
random numbers and places; what all share, the first one.
"""

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

NAME, BEFORE, UNFINISHED = "state", "state.before", "state.partial"


def save(
    out: Path,
    accelerator: Accelerator,
    model: nn.Module,
    parts: Mapping[str, Any],
    progress: Mapping[str, Any],
    data: Any,
) -> None:
    """`parts`: what has a `state_dict`, by name. `progress` goes into JSON. `data`: this process's place in it."""
    unfinished = out / UNFINISHED
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    own: dict[str, Any] = {"cpu": torch.get_rng_state(), "data": data}
    if accelerator.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    _write(own, unfinished / f"process-{accelerator.process_index}.pt")
    if accelerator.is_main_process:
        trained = {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}
        _write(trained, unfinished / "weights.pt")
        _write({name: part.state_dict() for name, part in parts.items()}, unfinished / "optimizers.pt")
        (unfinished / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(out / BEFORE, ignore_errors=True)
        if (out / NAME).exists():
            (out / NAME).rename(out / BEFORE)
        unfinished.rename(out / NAME)
        shutil.rmtree(out / BEFORE, ignore_errors=True)
    accelerator.wait_for_everyone()


def progress_of(out: Path) -> dict[str, Any] | None:
    """None where there is nothing to go on from."""
    folder = _found(out)
    if folder is None:
        return None
    progress: dict[str, Any] = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    return progress


def place_of(out: Path, accelerator: Accelerator) -> Any:
    """This process's place in the data."""
    return _own(out, accelerator)["data"]


def load(out: Path, accelerator: Accelerator, model: nn.Module, parts: Mapping[str, Any]) -> None:
    """Puts all else back."""
    folder = _found(out)
    assert folder is not None
    weights = torch.load(folder / "weights.pt", map_location=accelerator.device)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    states = torch.load(folder / "optimizers.pt", map_location=accelerator.device)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    own = _own(out, accelerator)
    torch.set_rng_state(own["cpu"])
    if accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], accelerator.device)


def _write(value: Any, file: Path) -> None:
    """Raises `OSError`, where torch raises a `RuntimeError` of its own."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with file.open("wb") as opened:
        opened.write(buffer.getbuffer())
        os.fsync(opened.fileno())


def _own(out: Path, accelerator: Accelerator) -> dict[str, Any]:
    folder = _found(out)
    assert folder is not None
    own: dict[str, Any] = torch.load(folder / f"process-{accelerator.process_index}.pt", map_location="cpu")
    return own


def _found(out: Path) -> Path | None:
    return next((out / name for name in (NAME, BEFORE) if (out / name / "progress.json").exists()), None)
