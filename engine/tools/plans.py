"""What `--precision auto` picks on which machine: the table in README.md, as `hardware.plan` decides it for each.

    python -m engine.tools.plans                      # the table, and why
    python -m engine.tools.plans --model FOLDER       # of one model
    python -m engine.tools.plans --markdown           # the table alone, as it stands in README.md

Machines are described here, not looked at. Knows no weights: a model is what its config.json says of it.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.backends.select import EMBEDDED_FOLDER
from engine.config import Config
from engine.errors import ConfigError, YiwenError
from engine.footprint import LoadPlan
from engine.hardware import plan
from engine.inference.checkpoint import GPTQ_METHOD, read_config, transformers_config
from engine.inference.kv_cache import PAGE_TOKENS
from engine.inventory import CONTEXT_BYTES, GB, Card, Machine
from engine.shape import ModelShape
from engine.tools import synthetic

GIB = 2**30
FREE_SHARE = 0.75  # of a computer's memory: the rest is the system's, a browser's
BESIDE_CARD_GIB = 32  # memory of the computer that a card is in
CORES = 8

# Names in the table → names of the shapes of `synthetic`, and whether they are in INT4
SHAPES = {
    "1.8B": ("1.8b", False),
    "1.8B GPTQ INT4": ("1.8b", True),
    "7B": ("7b", False),
    "7B GPTQ INT4": ("7b", True),
}
EMBEDDED = "embedded"
ENGINES = {"cuda": "our kernels", "openvino": "OpenVINO", "onnx": "ONNX Runtime", "torch": "plain torch"}

_SHORTAGE = re.compile(r"at least ([\d.]+) GB .*? free, ([\d.]+) of them for the model")  # what a plan is refused with

Answer = LoadPlan | ConfigError


@dataclass(frozen=True, slots=True)
class Described:
    name: str
    machine: Machine


def _with_card(name: str, sold_gb: int, gib: float, capability: tuple[int, int]) -> Described:
    """`gib`: as torch reports them on Linux, where ECC and the driver have had their share. Nobody else uses the card;
    what is free there is looked at with CUDA itself in place."""
    total = int(gib * GIB)
    card = Card("cuda:0", f"NVIDIA {name}", total, capability, total - CONTEXT_BYTES)
    return Described(f"{name}, {sold_gb} GB, sm_{capability[0]}{capability[1]}", _computer(BESIDE_CARD_GIB, (card,)))


def _without_card(gib: int) -> Described:
    return Described(f"no card, {gib} GB of memory", _computer(gib))


def _computer(gib: int, cards: tuple[Card, ...] = ()) -> Machine:
    return Machine(
        ram_bytes=gib * GIB, ram_free_bytes=int(gib * GIB * FREE_SHARE), cores=CORES, bf16=False, cards=cards
    )


MACHINES = (
    _with_card("H200", 141, 139.8, (9, 0)),
    _with_card("RTX 4090", 24, 23.6, (8, 9)),
    _with_card("L4", 24, 22.0, (8, 9)),
    _with_card("RTX 4080", 16, 15.7, (8, 9)),
    _with_card("T4", 16, 14.6, (7, 5)),
    _with_card("RTX 3060", 12, 11.7, (8, 6)),
    _with_card("RTX 3070", 8, 7.8, (8, 6)),
    _without_card(64),
    _without_card(16),
)


def shapes(model: str | None = None) -> dict[str, ModelShape]:
    """Name → shape: of a folder, of one that is known by name, or of all of these.

    Raises `ModelNotFound`, `UnsupportedModel` for a folder.
    """
    names = (EMBEDDED, *SHAPES)
    if model in names:
        names = (model,)
    elif model is not None:
        return {Path(model).resolve().name: _of_folder(Path(model))}
    return {name: _of_folder(EMBEDDED_FOLDER) if name == EMBEDDED else _of_size(*SHAPES[name]) for name in names}


def _of_folder(folder: Path) -> ModelShape:
    return ModelShape.read(read_config(folder), folder)


def _of_size(name: str, int4: bool) -> ModelShape:
    settings = {"quant_method": GPTQ_METHOD, "bits": 4, "group_size": synthetic.GROUP}
    form = {"quantization_config": settings} if int4 else {"dtype": "bfloat16"}
    return ModelShape.read(transformers_config(synthetic.SHAPES[name]) | form)


def answers(models: Mapping[str, ModelShape]) -> dict[tuple[str, str], Answer]:
    """(machine, model) → what is planned, or why nothing can be."""
    made: dict[tuple[str, str], Answer] = {}
    for described in MACHINES:
        for name, shape in models.items():
            try:
                made[described.name, name] = plan(Config(), shape, described.machine)
            except ConfigError as error:
                made[described.name, name] = error
    return made


def table(models: Sequence[str], made: Mapping[tuple[str, str], Answer]) -> str:
    """In Markdown: a row a machine, a column a model."""
    rows = [["machine", *models], ["---"] * (len(models) + 1)]
    rows += [[each.name, *(cell(made[each.name, model]) for model in models)] for each in MACHINES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(answer: Answer) -> str:
    """Weights and engine; how many at once, in how large a cache; all the memory that is taken."""
    if isinstance(answer, ConfigError):
        needed, room = _SHORTAGE.findall(str(answer))[0]
        return f"– (needs {needed} GB, {room} are free for it)"
    tokens = answer.pages * PAGE_TOKENS // 1000
    fetched = sum(place not in answer.cards for place in answer.layers)
    engine = ENGINES[answer.engine] + (f", {fetched} of {len(answer.layers)} layers fetched" if fetched else "")
    return (
        f"{answer.weights.removeprefix('gptq-').upper()}, {engine}<br>{answer.slots} at once, "
        f"{tokens}k tokens in {answer.kv_dtype.upper()}<br>{answer.bytes.total / GB:.1f} GB"
    )


def record(machine: str, model: str, answer: Answer) -> dict[str, Any]:
    if isinstance(answer, ConfigError):
        return {"machine": machine, "model": model, "refused": str(answer)}
    planned = asdict(answer) | {"kv_tokens": answer.pages * PAGE_TOKENS, "total_bytes": answer.bytes.total}
    return {"machine": machine, "model": model, "plan": planned}


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what `--precision auto` picks on which machine, and why.")
    parser.add_argument(
        "--model", help=f"a folder, or one of: {', '.join([EMBEDDED, *SHAPES])} (default: all of these)"
    )
    parser.add_argument("--markdown", action="store_true", help="the table alone, as it stands in README.md")
    arguments = parser.parse_args()
    try:
        models = shapes(arguments.model)
    except YiwenError as error:
        raise SystemExit(str(error)) from error
    made = answers(models)
    print(table(list(models), made))
    if arguments.markdown:
        return
    print()
    for (machine, model), answer in made.items():
        print(f"- {machine}, {model}: {answer if isinstance(answer, ConfigError) else answer.reason}")
    print(json.dumps({"plans": [record(*place, answer) for place, answer in made.items()]}))


if __name__ == "__main__":
    main()
