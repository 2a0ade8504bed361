"""A model's licence is shown before the model is fetched, and accepted once: by a word at a terminal, elsewhere by a
flag. What was accepted is remembered beside the model. Knows no hub."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from textwrap import fill

from engine.errors import ConfigError
from engine.files import write_whole
from engine.known_models import Licence

ACCEPTED = "licence-accepted.json"


def text(licence: Licence) -> str:
    """In 100 columns."""
    limits = [fill(limit, 100, initial_indent="  - ", subsequent_indent="    ") for limit in licence.limits]
    return "\n".join([licence.name, f"  {licence.address}", *limits])


def is_accepted(folder: Path) -> bool:
    return (folder / ACCEPTED).is_file()


def agree(name: str, licence: Licence, folder: Path, accept: bool) -> None:
    """Once for a `folder`, in which the model is or will be. `accept`: it was said beforehand.

    Raises `ConfigError` for a no, and where there is nobody to ask.
    """
    if not licence.limits or is_accepted(folder):
        return
    if not accept:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfigError(unaccepted(name, licence))
        print(
            f"The licence of {name}:",
            text(licence),
            "Do you accept it? [y/N] ",
            sep="\n",
            end="",
            file=sys.stderr,
            flush=True,
        )
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            raise ConfigError(f"The licence of {name} was not accepted, so it is not downloaded.")
    record = {"model": name, "licence": licence.name, "address": licence.address}
    record["accepted"] = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ACCEPTED, json.dumps(record, indent=1).encode())
    except OSError as error:
        raise ConfigError(
            f"Nothing can be written to {str(folder)!r} ({error.strerror}); give another folder, or set HF_HOME."
        ) from error


def unaccepted(name: str, licence: Licence) -> str:
    return (
        f"{name} is under the {licence.name}, which is not granted in the EU, the UK and South Korea; read it at "
        f"{licence.address}, and accept it with --accept-licence (YIWEN_ACCEPT_LICENCE=true)."
    )
