"""The models that Yiwen knows: which of them fit this machine, what their licences say, and how they come here.

    python app.py models                              # the list
    python app.py models download HY-MT1.5-7B         # shows the licence and asks; goes on where it was cut off
    python app.py models download Hy-MT2-7B --from modelscope --to FOLDER
    python app.py models licence HY-MT1.5-7B
    python app.py models remove HY-MT1.5-7B

With --json each prints one JSON object as its last line.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import hub, known_models, licences
from engine.config import Config
from engine.errors import ConfigError, ModelNotFound, StartupError
from engine.known_models import APACHE, KNOWN, KnownModel, Licence
from engine.log import start as start_log

if TYPE_CHECKING:
    from engine.inventory import Machine
    from engine.shape import ModelShape

EMBEDDED = "embedded"
GB = 1e9
_SHORTAGE = re.compile(r"at least ([\d.]+) GB .*? free, ([\d.]+) of them for the model")  # as `hardware.plan` says it
_WHOLE = re.compile(r"\d at once")  # of a model that is all where it computes


@dataclass(frozen=True, slots=True)
class Row:
    model: str  # what --model takes
    gigabytes: float
    licence: Licence
    folder: Path | None  # where it is here
    fits: bool
    here: str  # how it would run on this machine, or why not
    reason: str  # the same at length


# ---------------------------------------------------------------------------------------------------------- the list


def rows() -> list[Row]:
    """What `hardware.plan` says of each, from shapes that are known beforehand."""
    from engine.backends.select import EMBEDDED_FOLDER
    from engine.inference.checkpoint import read_config
    from engine.inventory import survey
    from engine.shape import ModelShape

    machine = survey()
    size = sum(path.stat().st_size for path in EMBEDDED_FOLDER.glob("*.safetensors"))
    shape = ModelShape.read(read_config(EMBEDDED_FOLDER), EMBEDDED_FOLDER)
    ours = Row(EMBEDDED, size / GB, APACHE, EMBEDDED_FOLDER, *_on_this(shape, machine))
    others = (Row(each.hub, each.gigabytes, each.licence, _place(each), *_runs_here(each, machine)) for each in KNOWN)
    return [ours, *others]


def _runs_here(model: KnownModel, machine: "Machine") -> tuple[bool, str, str]:
    from engine.shape import ModelShape

    if not model.runs:
        return False, "Yiwen's engine does not read FP8", "vLLM reads it: serve it there and give --remote-url."
    fits, here, reason = _on_this(ModelShape.read(model.config), machine)
    if model.form == "bf16" and not _WHOLE.search(here):
        smaller = _on_this(ModelShape.read(known_models.in_int4(model.config)), machine)
        here += "; INT4 fits" if _WHOLE.search(smaller[1]) else ""
    return fits, here, reason


def _on_this(shape: "ModelShape", machine: "Machine") -> tuple[bool, str, str]:
    from engine.hardware import plan

    try:
        made = plan(Config(), shape, machine)
    except ConfigError as error:
        needed = _SHORTAGE.search(str(error))
        return False, f"needs {needed[1]} GB, {needed[2]} are free" if needed else "does not fit", str(error)
    weights = made.weights.removeprefix("gptq-").upper()
    if away := sum(place in ("cpu", "disk") for place in made.layers):
        return True, f"{weights}, {away} of {shape.layers} layers away", made.reason
    where = "on the CPU" if made.device == "cpu" else "on the card"
    return True, f"{weights} {where}, {made.slots} at once", made.reason


def table(made: Sequence[Row]) -> str:
    """In 100 columns."""
    lines = [("", "--model", "size", "licence", "on this machine")]
    for row in made:
        licence = "Tencent [1]" if row.licence.limits else row.licence.name
        lines.append(("*" if row.folder else "", row.model, _size(row.gigabytes), licence, row.here))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    drawn = []
    for mark, model, size, licence, here in lines:
        drawn.append(
            f"{mark:{widths[0]}} {model:{widths[1]}}  {size:>{widths[2]}}  {licence:{widths[3]}}  {here}".rstrip()
        )
    notes = ["* is here already", f"[1] {licences.text(known_models.TENCENT)}"]
    if any("away" in row.here for row in made):
        notes.append("Layers that are away wait in the machine's memory, and the card fetches them: that is slow.")
    if any("INT4 fits" in row.here for row in made):
        notes.append("INT4 fits: once it is made so, with python -m engine.tools.quantize.")
    return "\n".join([*drawn, "", *notes, "To fetch one: python app.py models download NAME"])


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{gigabytes * 1e3:.0f} MB"


def _place(model: KnownModel) -> Path | None:
    """Where all of it is that --model takes."""
    folder = model.folder(_data_dir())
    return hub.cached(model.hub) or (folder if hub.is_whole(folder) else None)


def _data_dir() -> str:
    return Config.load([], os.environ).data_dir


# ---------------------------------------------------------------------------------------------------------- one model


def download(model: KnownModel, source: str, to: Path | None, accept: bool) -> dict[str, Any]:
    """What was fetched, checked, and where it is. Raises `StartupError`."""
    folder = to or (hub.cache_folder(model.hub) if source == "hf" else model.folder(_data_dir()))
    whole = hub.cached(model.hub) if source == "hf" and to is None else hub.is_whole(folder)
    if not whole:
        licences.agree(model.name, model.licence, folder, accept)
    print(f"{model.name} goes to {folder}.", file=sys.stderr)
    if not model.runs:
        print("Yiwen's engine does not read FP8; serve it with vLLM, and give --remote-url.", file=sys.stderr)
    if source == "hf" and to is None:
        folder = hub.folder_of(model.hub, check=True)
        files = [path for path in folder.rglob("*") if path.is_file()]
    else:
        listed = hub.hub_files(model.hub) if source == "hf" else hub.modelscope_files(model.modelscope)
        wanted = hub.in_folder(listed, folder)
        if not wanted:
            raise ModelNotFound(f"The hub has no files of {model.name}; try the other one (--from).")
        hub.fetch(model.name, wanted, folder, check=True)
        files = [place for _, place in wanted]
    size = sum(path.stat().st_size for path in files)
    name = str(to) if to else model.hub
    return {"model": name, "folder": str(folder), "files": len(files), "bytes": size, "runs": model.runs}


def remove(model: KnownModel) -> dict[str, Any]:
    """All of it, from both places. Raises `ModelNotFound`."""
    folders = [hub.cache_folder(model.hub), model.folder(_data_dir())]
    found = [folder for folder in folders if folder.is_dir()]
    if not found:
        raise ModelNotFound(f"{model.name} is not here: neither in {folders[0]} nor in {folders[1]}.")
    return {"removed": [str(folder) for folder in found], "bytes": sum(map(hub.remove, found))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python app.py models", description="The models that Yiwen knows by name.")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    verbs = parser.add_subparsers(dest="verb", metavar="list|download|licence|remove")
    verbs.add_parser("list", help="which there are, and which fit this machine (default)")
    fetching = verbs.add_parser("download", help="fetch one, or hold what is here against its checksums")
    fetching.add_argument(
        "--accept-licence", action="store_true", help="nobody is asked (or YIWEN_ACCEPT_LICENCE=true)"
    )
    fetching.add_argument("--to", type=Path, metavar="FOLDER", help="a plain folder, instead of the hub's cache")
    fetching.add_argument("--from", dest="source", choices=["hf", "modelscope"], default="hf", help="(default: hf)")
    verbs.add_parser("licence", help="show one's licence")
    verbs.add_parser("remove", help="delete one from this machine")
    for verb in ("download", "licence", "remove"):
        verbs.choices[verb].add_argument("name", metavar="NAME", help="such as HY-MT1.5-7B")
    arguments = parser.parse_args()
    start_log("info", "text")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request says nothing here
    try:
        said, record = _run(arguments)
    except StartupError as error:
        print(f"yiwen: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("yiwen: stopped; the next download goes on from here.", file=sys.stderr)
        raise SystemExit(130) from None
    print(json.dumps(record) if arguments.json else said)


def _run(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    if arguments.verb in (None, "list"):
        made = rows()
        return table(made), {"models": [_record(row) for row in made]}
    model = known_models.find(arguments.name)
    if arguments.verb == "licence":
        licence = model.licence
        fields = {"licence": licence.name, "address": licence.address, "limits": list(licence.limits)}
        return licences.text(licence), {"model": model.name, **fields}
    if arguments.verb == "remove":
        record = remove(model)
        return f"{_size(record['bytes'] / GB)} freed: {', '.join(record['removed'])}", record
    accept = arguments.accept_licence or Config.load([], os.environ).accept_licence
    record = download(model, arguments.source, arguments.to and arguments.to.expanduser(), accept)
    said = (
        f"{record['files']} files, {_size(record['bytes'] / GB)}, each with the hub's checksum, in {record['folder']}"
    )
    return f"{said}\npython app.py --model {record['model']}" if model.runs else said, record


def _record(row: Row) -> dict[str, Any]:
    return {
        "model": row.model,
        "gigabytes": round(row.gigabytes, 3),
        "licence": row.licence.name,
        "licence_address": row.licence.address,
        "licence_limits": list(row.licence.limits),
        "folder": str(row.folder) if row.folder else None,
        "fits": row.fits,
        "here": row.here,
        "reason": row.reason,
    }


if __name__ == "__main__":
    main()
