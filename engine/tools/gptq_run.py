"""The seam to GPTQModel, which fits each matrix of the layers to its inputs: a layer at a time, from the disk.

It works in a folder of ours and is stopped and resumed there. What it prints goes into a file, and a bar of ours shows
how far it is. Knows checkpoints by their folders and texts by their ids.
"""

import gc
import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm  # type: ignore[import-untyped]

from engine.errors import ConfigError

BATCH = 8  # calibration texts in one forward pass
MADE = "made"  # the folder that GPTQModel writes, in the work folder
# What readers of the format need; GPTQModel adds the folder it worked in, and settings of no use after
KEPT_SETTINGS = ("bits", "group_size", "desc_act", "static_groups", "sym", "true_sequential", "lm_head")
_KEPT_EVERY = 4  # layers; more often, and a 7B's embedding is written more often than that takes to do again
_SETTINGS = {  # of GPTQModel 7.6.0, read when it is imported
    # Half of the cores, as it would choose, but with two or fewer it asks its pool of one for two, and stops
    "GPTQMODEL_CPU_WORKERS": str(min(12, max(2, (os.cpu_count() or 1) // 2))),
    "GPTQMODEL_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
}
# GPTQModel resumes Llama. It treats HunYuanDense as Llama's heir, which does so to the last bit (7.6.0, killed and not)
_RESUMABLE = "llama"


@dataclass(frozen=True, slots=True)
class Settings:
    bits: int = 4
    group: int = 128
    sym: bool = True
    act_order: bool = False


def imported() -> Any:
    """The library. Raises `ConfigError` where it is not installed."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with redirect_stdout(sys.stderr):  # its banner: our output is one line of JSON
            return importlib.import_module("gptqmodel")  # here, since most who run a tool have no need of it
    except ImportError as error:
        raise ConfigError(
            f"GPTQModel cannot be imported ({error}); make an environment of its own, and there "
            "pip install gptqmodel==7.6.0 (engine/tools/requirements.txt says why)."
        ) from error


def run(
    model: Path, texts: Sequence[Sequence[int]], settings: Settings, device: str, work: Path
) -> list[dict[str, Any]]:
    """Writes `work`/`MADE`; returns the loss, samples, damping and seconds of each matrix. What an equal run left in
    `work` is gone on with. The process's folder is another meanwhile: GPTQModel makes folders where it stands.

    Raises `ConfigError`: too little memory, stopped by a signal, or what else GPTQModel stumbles on.
    """
    with tqdm(unit="layer", desc="quantising") as bar, _quiet(work), chdir(work), _in_a_sentence(device, work):
        gptqmodel = imported()
        store = importlib.import_module("gptqmodel.looper.checkpoint_store")
        chosen = gptqmodel.QuantizeConfig(
            bits=settings.bits,
            group_size=settings.group,
            sym=settings.sym,
            desc_act=settings.act_order,
            device=device,
            compute_device_filter=lambda devices: devices[:1],  # or it takes all cards
            offload_to_disk_path=str(work / "offload"),
        )
        loaded = gptqmodel.GPTQModel.load(str(model), chosen)
        bar.total = loaded.model.config.num_hidden_layers
        loaded.layer_callback = lambda layer_idx, submodule_finalized: bar.update(layer_idx + 1 - bar.n)
        loaded.model.config.model_type = _RESUMABLE
        kept = store.CheckpointConfig(path=str(work / "kept"), interval=f"layer:{_KEPT_EVERY}")
        inputs = [{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in texts]
        log = loaded.quantize(inputs, batch_size=BATCH, checkpoint=kept)
        shutil.rmtree(work / MADE, ignore_errors=True)
        loaded.save(str(work / MADE))
    del loaded
    gc.collect()
    torch.cuda.empty_cache()
    return [
        {
            "layer": int(row["layer"]),
            "module": row["module"],
            "loss": _number(row["loss"]),
            "samples": int(row["samples"]),
            "damp": _number(row["damp"]),
            "seconds": _number(row["time"]),
        }
        for row in log["gptq"]
    ]


@contextmanager
def _quiet(work: Path) -> Iterator[None]:
    with (work / "gptqmodel.log").open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


@contextmanager
def _in_a_sentence(device: str, work: Path) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"The memory of {device} does not suffice; give fewer --calibration-texts, or use --device cpu."
        ) from error
    except (RuntimeError, ValueError, AssertionError, SafetensorError) as error:  # the seam: all these come through it
        if type(error).__name__ == "CheckpointStopped":
            raise ConfigError(f"Stopped; the same command goes on from what is in {str(work)!r}.") from error
        first = str(error).partition("\n")[0]
        raise ConfigError(
            f"GPTQModel stumbled ({type(error).__name__}: {first}); {str(work / 'gptqmodel.log')!r} has its own words. "
            "Delete that folder to begin anew."
        ) from error


def _number(said: str) -> float | None:
    """None where it says that it fell back to another way."""
    try:
        return float(said)
    except ValueError:
        return None
