"""Stored glossaries: each a file that outlives the process. Knows no transport, and no format but its own.

A file's first line says what the glossary is, each line after it is a term: so what there is can be listed without
reading the terms. Glossaries of several pairs of languages may belong together, as a group under one id.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from engine import files
from engine.errors import NoSuchGlossary, NotStored, RequestError, TooManyGlossaries
from engine.languages import LANGUAGES
from engine.termbase.entries import MAX_TERMS
from engine.types import Term

MOST_STORED = 1_000  # glossaries
MOST_TERMS_STORED = 5_000_000  # of all glossaries; terms of a few words take some 60 bytes each on the disk
MOST_TERMS_READY = 200_000  # in memory, of those used last; some 250 bytes each
FIRST_LINE_BYTES = 4_000  # a name of 150 characters takes 1,800 of them at the most

log = logging.getLogger(__name__)
Result = TypeVar("Result")
_OURS = re.compile(  # a UUID: clients of DeepL's ask for one
    r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.jsonl(\.new)?"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A glossary and what it is for. `terms` is empty where it was only listed; `term_count` never lies."""

    id: str
    name: str
    source_lang: str
    target_lang: str
    created: float  # seconds since 1970
    term_count: int
    terms: tuple[Term, ...] = ()
    group: str = ""  # the id of those it belongs to, which is that of the first of them; empty: it stands alone

    @property
    def group_id(self) -> str:
        return self.group or self.id


class SeveralGlossaries(RequestError):
    """More than one would do, and nobody says which."""

    code = "several_glossaries"


class Glossaries:
    """To be used within one event loop, after `start`. `data_folder` is that of all that Yiwen keeps."""

    def __init__(self, data_folder: Path) -> None:
        self._shelf = data_folder / "glossaries"
        self._taken: files.Taken | None = None
        self._listed: dict[str, Stored] = {}  # without terms, the oldest first
        self._ready: dict[str, Stored] = {}  # with terms, the last used last
        self._changing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "glossaries")

    async def start(self) -> None:
        """Takes the shelf, or a passing one where that cannot be had."""
        self._taken = await self._in_thread(lambda: files.take(self._shelf))
        self._shelf = self._taken.path
        for stored in await self._in_thread(lambda: _listed_in(self._shelf)):
            self._listed[stored.id] = stored

    async def close(self) -> None:
        if taken := self._taken:
            await self._in_thread(lambda: files.leave(taken))  # in its turn: what is being written is written
        self._thread.shutdown(wait=False, cancel_futures=True)

    def listed(self) -> tuple[Stored, ...]:
        """All of them, the oldest first, without their terms."""
        return tuple(self._listed.values())

    def group(self, group_id: str) -> tuple[Stored, ...]:
        """Those that belong together, the oldest first, without their terms. Raises `NoSuchGlossary`."""
        if not (members := tuple(stored for stored in self._listed.values() if stored.group_id == group_id)):
            raise _no_such_glossary()
        return members

    async def for_pair(self, glossary_id: str, source: str | None, target: str) -> Stored:
        """With its terms: of a group the one of these languages, or the first where there is none. Raises what `get`
        raises, and `SeveralGlossaries` where `source` is not named and a group has several into `target`."""
        listed = self._listed.get(glossary_id)
        members = (listed,) if listed and listed.group else self.group(glossary_id)
        fitting = [one for one in members if one.target_lang == target and source in (None, one.source_lang)]
        if len(fitting) > 1 and not source:
            raise SeveralGlossaries(
                f"The glossary {fitting[0].name!r} has terms from {len(fitting)} languages to "
                f"{LANGUAGES[target].english}; name the language of the text."
            )
        return await self.get((*fitting, *members)[0].id)

    async def get(self, glossary_id: str) -> Stored:
        """With its terms, the very same tuple each time while it is in use. Raises `NoSuchGlossary`."""
        listed = self._known(glossary_id)
        stored = self._ready.pop(glossary_id, None)
        if stored is None:
            path = self._path(glossary_id)
            try:
                stored = await self._in_thread(lambda: _read(path, glossary_id))
            except (OSError, ValueError, RecursionError) as error:
                self._known(glossary_id)  # it may have been deleted meanwhile
                log.warning("%s cannot be read (%r) and is left as it is", path, error)
                raise NoSuchGlossary(
                    f"The file of the glossary {listed.name!r} is damaged or gone; delete it and send it again."
                ) from error
        if self._listed.get(glossary_id) is listed:  # it was not replaced meanwhile
            self._keep_ready(stored)
        return stored

    async def add(
        self, name: str, source_lang: str, target_lang: str, terms: Sequence[Term], group: str = ""
    ) -> Stored:
        """Codes are ours, terms sound, and `MAX_TERMS` at the most. Raises `TooManyGlossaries`, `NotStored`."""
        async with self._changing:
            if len(self._listed) >= MOST_STORED:
                raise TooManyGlossaries(
                    f"There are {MOST_STORED:,} glossaries, the most that are stored; delete one first."
                )
            new = Stored(str(uuid4()), name, source_lang, target_lang, time.time(), len(terms), tuple(terms), group)
            return await self._write(new)

    async def replace(
        self, glossary_id: str, name: str, source_lang: str, target_lang: str, terms: Sequence[Term]
    ) -> Stored:
        """All of it but its id, its age and its group. Raises `NoSuchGlossary`, `TooManyGlossaries`, `NotStored`."""
        async with self._changing:
            old = self._known(glossary_id)
            new = Stored(glossary_id, name, source_lang, target_lang, old.created, len(terms), tuple(terms), old.group)
            return await self._write(new)

    async def remove(self, glossary_id: str) -> None:
        """Raises `NoSuchGlossary`."""
        async with self._changing:
            self._known(glossary_id)
            path = self._path(glossary_id)
            try:
                await self._in_thread(lambda: path.unlink(missing_ok=True))
            except OSError as error:
                raise _not_stored("deleted", error) from error
            del self._listed[glossary_id]
            self._ready.pop(glossary_id, None)

    async def _write(self, stored: Stored) -> Stored:
        assert len(stored.terms) <= MAX_TERMS
        others = sum(other.term_count for other in self._listed.values() if other.id != stored.id)
        if others + stored.term_count > MOST_TERMS_STORED:
            raise TooManyGlossaries(
                f"The other glossaries have {others:,} terms and this one {stored.term_count:,}, and "
                f"{MOST_TERMS_STORED:,} are stored at the most; delete one first."
            )
        path = self._path(stored.id)
        try:
            await self._in_thread(lambda: files.write_whole(path, _written(stored)))
        except OSError as error:
            raise _not_stored("stored", error) from error
        self._listed[stored.id] = replace(stored, terms=())
        self._ready.pop(stored.id, None)
        self._keep_ready(stored)
        return stored

    def _known(self, glossary_id: str) -> Stored:
        if (listed := self._listed.get(glossary_id)) is None:
            raise _no_such_glossary()
        return listed

    def _keep_ready(self, stored: Stored) -> None:
        self._ready[stored.id] = stored
        terms = sum(each.term_count for each in self._ready.values())
        for glossary_id in list(self._ready)[:-1]:
            if terms <= MOST_TERMS_READY:
                break
            terms -= self._ready.pop(glossary_id).term_count

    def _path(self, glossary_id: str) -> Path:
        return self._shelf / f"{glossary_id}.jsonl"

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _no_such_glossary() -> NoSuchGlossary:
    return NoSuchGlossary("There is no such glossary; it was deleted, or its id is wrong. GET /glossaries lists all.")


def _not_stored(done: str, error: OSError) -> NotStored:
    return NotStored(f"The glossary could not be {done} ({files.why(error)}); see to the data folder of the server.")


def _listed_in(shelf: Path) -> list[Stored]:
    """What the files of `shelf` say first, the oldest first. Whatever else stands there is left alone."""
    found = []
    for path in shelf.iterdir():
        if name := _OURS.fullmatch(path.name):
            try:
                if name[2]:  # it was being written when the process was killed
                    path.unlink()
                    continue
                with path.open("rb") as file:
                    found.append(_first_line(file.readline(FIRST_LINE_BYTES), name[1]))
            except (OSError, ValueError, RecursionError) as error:
                log.warning("%s holds no glossary that this Yiwen can read (%r) and is left as it is", path, error)
    return sorted(found, key=lambda stored: stored.created)


def _written(stored: Stored) -> bytes:
    first = {
        "name": stored.name,
        "source_lang": stored.source_lang,
        "target_lang": stored.target_lang,
        "created": stored.created,
        "term_count": stored.term_count,
        **({"group": stored.group} if stored.group else {}),
    }
    rows = ([term.source, term.target, term.case, term.note] for term in stored.terms)
    return "".join(f"{json.dumps(line)}\n" for line in (first, *rows)).encode()


def _read(path: Path, glossary_id: str) -> Stored:
    """Raises `ValueError` for what is not whole."""
    first, *lines = path.read_text("utf-8").split("\n")
    stored = _first_line(first, glossary_id)
    terms = tuple(_term(row) for row in json.loads(f"[{','.join(filter(None, lines))}]"))
    if len(terms) != stored.term_count:
        raise ValueError(f"{len(terms)} terms of {stored.term_count}")
    return replace(stored, terms=terms)


def _first_line(line: str | bytes, glossary_id: str) -> Stored:
    match json.loads(line):
        case {
            "name": str(name),
            "source_lang": str(source),
            "target_lang": str(target),
            "created": int(created) | float(created),
            "term_count": int(count),
            **more,
        } if isinstance(group := more.get("group", ""), str):
            return Stored(glossary_id, name, source, target, created, count, group=group)
    raise ValueError("the first line is not one of ours")


def _term(row: object) -> Term:
    match row:
        case [str(source), str(target), bool(case), str(note)]:
            return Term(source, target, case, note)
    raise ValueError("a line is not one of ours")
