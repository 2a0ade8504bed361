"""The log tells what happens, never what is translated. Knows no layer."""

import logging
import traceback
from copy import copy
from types import TracebackType

LINES = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# What these say comes from the machine and its libraries, which are given numbers and names of files; others may quote
# what somebody sent.
_OF_THE_MACHINE = (OSError, RuntimeError, MemoryError)

Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Formatter(logging.Formatter):
    """Of an error nobody foresaw it says where it came up and of which kind it is."""

    def __init__(self) -> None:
        super().__init__(LINES)

    def format(self, record: logging.LogRecord) -> str:
        record = copy(record)
        record.exc_text = None  # as another handler has written it
        return super().format(record)

    def formatException(self, ei: Raised) -> str:
        return "".join(_lines(ei[1])).rstrip() if ei[1] else ""


def start(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _lines(error: BaseException) -> list[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    first = [*_lines(before), "which led to\n"] if before else []
    said = f": {error}" if isinstance(error, _OF_THE_MACHINE) else ""
    return [*first, *traceback.format_tb(error.__traceback__), f"{type(error).__name__}{said}\n"]
