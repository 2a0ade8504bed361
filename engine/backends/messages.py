"""What a backend and a worker in another process say to each other, and how that is written: a byte that says what it
is, four that say how long, JSON. Knows no pipe and no process: any pair of binary files will do.
"""

import struct
from dataclasses import dataclass
from typing import IO

from pydantic import TypeAdapter

from engine.config import Config
from engine.errors import (
    BackendError,
    ConfigError,
    ModelNotFound,
    StartupError,
    TextTooLong,
    UnsupportedModel,
    YiwenError,
)
from engine.progress import Step
from engine.types import ModelInfo, Prompt, TokenChunk

BEAT_SECONDS = 0.5  # between two `Beat`s of a worker, also while it loads


@dataclass(frozen=True, slots=True)
class Load:
    """To a worker: the first message, and said once. `name` tells it from the others, in its log."""

    config: Config
    name: str = ""


@dataclass(frozen=True, slots=True)
class Open:
    """To a worker: answer this. `stream` is a number not used before."""

    stream: int
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Close:
    """To a worker: nobody reads this stream any more. There may be none of that number by now."""

    stream: int


@dataclass(frozen=True, slots=True)
class Expected:
    """Of a worker that loads: `Progress.expect`."""

    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class Reported:
    """Of a worker that loads: `Progress.report`."""

    step: Step
    share: float


@dataclass(frozen=True, slots=True)
class Ready:
    """Of a worker that has loaded its model."""

    info: ModelInfo
    slots: int
    memory: dict[str, int]  # `Backend.memory`
    pid: int


@dataclass(frozen=True, slots=True)
class Told:
    """Of a worker: what has come of its streams since it was said last, each with its number."""

    chunks: list[tuple[int, TokenChunk]]


@dataclass(frozen=True, slots=True)
class Broken:
    """Of a worker: a stream has ended without its last chunk. `kind`: see `kind_of`."""

    stream: int
    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Beat:
    """Of a worker: it lives."""

    memory: dict[str, int]


@dataclass(frozen=True, slots=True)
class Failed:
    """Of a worker: the last message. Its model could not be loaded, or does nothing any more."""

    kind: str
    sentence: str


Message = Load | Open | Close | Expected | Reported | Ready | Told | Broken | Beat | Failed
_KINDS: tuple[type[Message], ...] = (Load, Open, Close, Expected, Reported, Ready, Told, Broken, Beat, Failed)
_ADAPTERS: list[TypeAdapter[Message]] = [TypeAdapter(kind) for kind in _KINDS]
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_HEAD = struct.Struct(">BI")
_ERRORS: dict[str, type[YiwenError]] = {
    kind.__name__: kind
    for kind in (BackendError, TextTooLong, StartupError, ConfigError, ModelNotFound, UnsupportedModel)
}


def written(message: Message) -> bytes:
    number = _NUMBERS[type(message)]
    body = _ADAPTERS[number].dump_json(message)
    return _HEAD.pack(number, len(body)) + body


def read(file: IO[bytes]) -> Message | None:
    """Waits for it. None: there comes no more. Raises `ValueError` for what is no message."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    number, size = _HEAD.unpack(head)
    if number >= len(_KINDS):
        raise ValueError(f"there are {len(_KINDS)} kinds of messages, and this is of kind {number}")
    body = file.read(size)
    return _ADAPTERS[number].validate_json(body) if len(body) == size else None


def kind_of(error: YiwenError) -> str:
    """By which it comes up again on the other side. A card that is lost to one process is not lost to the next, so
    `DeviceLost` is a `BackendError` there."""
    name = type(error).__name__
    return name if name in _ERRORS else BackendError.__name__


def error_of(kind: str, sentence: str) -> YiwenError:
    return _ERRORS[kind](sentence)
