"""Better translations that readers have sent in: a line of JSON each in a file of the data folder, for people to look
at. Knows no transport, and no translation is changed by them.
"""

import asyncio
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import files
from engine.errors import NotStored, TextTooLong

MOST_CHARACTERS = 10_000  # of a text, and of its translation
MOST_BYTES = 64 * 1024**2  # of the file
NAME = "suggestions.jsonl"


@dataclass(frozen=True, slots=True)
class Suggestion:
    source_lang: str
    target_lang: str
    text: str
    translation: str


class Suggestions:
    """To be used within one event loop. `shelf` is the data folder, of which nothing is taken before the first."""

    def __init__(self, shelf: Path) -> None:
        self._shelf = shelf
        self._taken: files.Taken | None = None
        self._turn = asyncio.Lock()

    async def add(self, suggestion: Suggestion) -> None:
        """It is on the disk when this is done. Raises `TextTooLong`, and `NotStored` where there is no room for it."""
        if (size := max(len(suggestion.text), len(suggestion.translation))) > MOST_CHARACTERS:
            raise TextTooLong(
                f"The text has {size:,} characters; a suggestion takes {MOST_CHARACTERS:,}. Send a part of it."
            )
        line = json.dumps(asdict(suggestion), ensure_ascii=False).encode(errors="replace") + b"\n"
        async with self._turn:
            try:
                await asyncio.to_thread(self._append, line)
            except OSError as error:
                raise NotStored(
                    f"The suggestion could not be stored ({files.why(error)}); see to the data folder of the server."
                ) from error

    def _append(self, line: bytes) -> None:
        if self._taken is None:
            self._taken = files.take(self._shelf / "suggestions")
        with (self._taken.path / NAME).open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size + len(line) > MOST_BYTES:
                raise NotStored(
                    f"There are {MOST_BYTES // 1024**2} MiB of suggestions, the most that are kept; move {NAME} out of "
                    "the data folder of the server."
                )
            if size:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the power failed in the middle of a line
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        if self._taken:
            files.leave(self._taken)
