"""Where a run is, on the disk: weights that are trained, optimizers, loss scale, random numbers, places in the data.

A folder `state` that is whole or not there: it is written beside and put in its place. Each process writes its own
random numbers and places; what all share, the first one.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from accelerate import Accelerator
from torch import nn

from engine.files import sync_names, write_whole

NAME, BEFORE, UNFINISHED = "state", "state.before", "state.partial"


def save(
    out: Path,
    accelerator: Accelerator,
    model: nn.Module,
    parts: Mapping[str, Any],
    progress: Mapping[str, Any],
    data: Any,
) -> None:
    """Called by all processes at once. `parts`: what has a `state_dict`, by name. `progress` goes into JSON. `data`:
    this process's place in it. Raises `OSError`."""
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
        write_whole(unfinished / "progress.json", json.dumps(progress).encode())
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if (out / NAME).exists():  # else what is in `BEFORE` is all there is, after a kill between two renamings
            shutil.rmtree(out / BEFORE, ignore_errors=True)
            (out / NAME).rename(out / BEFORE)
        unfinished.rename(out / NAME)
        sync_names(out)
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
    """Puts all else back, by way of the host's memory: a card has no room for a second copy."""
    folder = _found(out)
    assert folder is not None
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in torch.load(folder / "weights.pt", map_location="cpu").items():
            parameters[name].copy_(value)
    states = torch.load(folder / "optimizers.pt", map_location="cpu")
    for name, part in parts.items():
        part.load_state_dict(states[name])
    own = _own(out, accelerator)
    torch.set_rng_state(own["cpu"])
    if accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], accelerator.device)


class _Told:
    """A file that torch writes to, a tensor at a time; it raises a `RuntimeError` of its own, this keeps the cause."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _write(value: Any, path: Path) -> None:
    """Raises `OSError`."""
    with path.open("wb", buffering=0) as file:
        told = _Told(file)
        try:
            torch.save(value, told)  # type: ignore[arg-type]  # all that it wants of a file
        except RuntimeError:
            if told.error:
                raise told.error from None
            raise
        os.fsync(file.fileno())


def _own(out: Path, accelerator: Accelerator) -> dict[str, Any]:
    folder = _found(out)
    assert folder is not None
    own: dict[str, Any] = torch.load(folder / f"process-{accelerator.process_index}.pt", map_location="cpu")
    return own


def _found(out: Path) -> Path | None:
    return next((out / name for name in (NAME, BEFORE) if (out / name / "progress.json").exists()), None)
