"""The log tells what happens, never what is translated: a line each, as text or as JSON. Knows no layer.

A line may carry `fields`, a mapping of names to plain values (`extra={"fields": …}`), and says during which request it
came up, and of a process that works for another which one it is of.
"""

import asyncio
import io
import json
import logging
import re
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from copy import copy
from types import TracebackType
from typing import Any, TextIO

MOMENT_SECONDS = 0.02
LINES = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# What these say comes from the machine and its libraries, which are given numbers and names of files; others may quote
# what somebody sent.
_OF_THE_MACHINE = (OSError, RuntimeError, MemoryError)
# What these say was written by a programmer, for programmers
_OF_PROGRAMS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning, ImportWarning)
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)  # to make one takes as long as to use it
_PLAIN = re.compile(r"[\w./{}:+%#-]+")

request_id: ContextVar[str] = ContextVar("request_id", default="")  # of the request that is being answered
Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Formatter(logging.Formatter):
    """Of an error nobody foresaw it says where it came up and of which kind it is."""

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        """`fields`: of every line."""
        super().__init__(LINES)
        self._fields = dict(fields or {})
        self._stamp = (0, "")  # the last second, and how it is written

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or record.exc_text:
            record = copy(record)
            record.exc_text = None  # as another handler has written it
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second, said = self._stamp
        if second != int(record.created):
            second, said = int(record.created), time.strftime(self.default_time_format, time.localtime(record.created))
            self._stamp = (second, said)
        return f"{said},{int(record.msecs):03d}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        told = self.told(record)
        return super().formatMessage(record) + "".join(f" {name}={_shown(value)}" for name, value in told.items())

    def formatException(self, ei: Raised) -> str:
        return "".join(_lines(ei[1])).rstrip() if ei[1] else ""

    def told(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}
        return fields | self._fields | ({"request": asked} if (asked := request_id.get()) else {})


class JsonFormatter(Formatter):
    """An object a line; its time is UTC, as RFC 3339 writes it."""

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, Any] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.told(record),
        }
        if record.exc_info and record.exc_info[1]:
            said["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(said)


class Together(logging.StreamHandler[io.StringIO]):
    """Writes what is said within a moment on an event loop at once: to write costs more than to say it. What warns
    does not wait, and all that waits is written before it."""

    def __init__(self, to: TextIO) -> None:
        super().__init__(io.StringIO())
        self._to = to
        self._loop: asyncio.AbstractEventLoop | None = None  # that will write

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if record.levelno >= logging.WARNING:
            self._write()

    def flush(self) -> None:
        """Called for each line, and when the program ends."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._write()
        if loop is not self._loop:
            self._loop = loop
            loop.call_later(MOMENT_SECONDS, self._write)

    def _write(self) -> None:
        self.acquire()
        try:
            self._loop = None
            if said := self.stream.getvalue():
                self.stream = io.StringIO()
                self._to.write(said)
                self._to.flush()
        finally:
            self.release()


def start(level: str, form: str = "text", fields: Mapping[str, str] | None = None) -> None:
    """Everything that logs or warns comes the same way; every line has these `fields`."""
    handler = Together(sys.stderr)
    handler.setFormatter(JsonFormatter(fields) if form == "json" else Formatter(fields))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # no line says these, and each costs time
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # where a line is said; so Python's own guide to the speed of logging
    warnings.showwarning = _warned


def _shown(value: object) -> str:
    """Parted from what follows, and in one line."""
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    said = f": {message}" if issubclass(category, _OF_PROGRAMS) else ""
    logging.getLogger("py.warnings").warning("%s at %s:%d%s", category.__name__, filename, lineno, said)


def _lines(error: BaseException) -> list[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    first = [*_lines(before), "which led to\n"] if before else []
    said = f": {error}" if isinstance(error, _OF_THE_MACHINE) else ""
    return [*first, *traceback.format_tb(error.__traceback__), f"{type(error).__name__}{said}\n"]
