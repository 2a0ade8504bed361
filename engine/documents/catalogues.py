"""Files of messages that programs show: JSON so far. Values are translated, keys and all else stay byte for byte."""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

from engine.errors import BadDocument
from engine.markup import marks, plain
from engine.markup.spans import cut
from engine.types import Block, Document

MOST_NESTED = 500  # Python's own reader gives up near 1,000

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)
_ICU = re.compile(r"\{\s*\w+\s*,\s*(?:plural|select|selectordinal)\s*,")  # words and syntax mixed: it stays as it is


def parse_json(source: str, exclude: Collection[str] = ()) -> Document:
    """A block for each string that is a value and holds a word. `exclude` names keys ("id"), or paths with stars
    ("pages.*.slug"), whose values stay. Raises `BadDocument`."""
    _check(source)
    ascii_only = source.isascii() and "\\u" in source
    return cut(source, _placed(source, exclude, ascii_only))


def _placed(source: str, exclude: Collection[str], ascii_only: bool) -> Iterator[tuple[int, Block]]:
    for start, end, path in _values(source):
        if any(fnmatchcase(path, name) or path.rpartition(".")[2] == name for name in exclude):
            continue
        if block := _block(source[start + 1 : end - 1], ascii_only):
            yield start + 1, block


def write_json(block: Block, text: str) -> str:
    if text == block.text:
        return block.source
    return marks.restore(block, text, partial(_escaped, ascii_only=block.form == "json-ascii"))


def _check(source: str) -> None:
    depth = deepest = 0
    for token in _TOKEN.finditer(source):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token.group(), 0)
        deepest = max(deepest, depth)
    if deepest > MOST_NESTED:
        raise BadDocument(
            f"The JSON is nested {deepest:,} deep; {MOST_NESTED} is the most. Flatten it, or send a part."
        )
    try:
        json.loads(
            source.removeprefix("\ufeff"), parse_int=str
        )  # Python refuses numbers of 5,000 digits, JSON does not
    except ValueError as error:
        raise BadDocument(f"The file is no valid JSON: {error}. Mend it there and send it again.") from error


def _values(source: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, dotted path) of every string that is a value; the source is valid JSON."""
    path: list[str | int] = []  # of each container that is open: the key or the index that comes next
    key_next = False
    for found in _TOKEN.finditer(source):
        token = found.group()
        if token == "{":
            path.append("")
            key_next = True
        elif token == "[":
            path.append(0)
            key_next = False
        elif token in "}]":
            path.pop()
        elif token == ":":
            key_next = False
        elif token == ",":
            if isinstance(here := path[-1], int):
                path[-1] = here + 1
            else:
                key_next = True
        elif key_next:
            path[-1] = json.loads(token)
        else:
            yield found.start(), found.end(), ".".join(map(str, path))


def _block(source: str, ascii_only: bool) -> Block | None:
    text = json.loads(f'"{source}"')
    if _ICU.search(text):
        return None
    block = plain.block_of(text, "json-ascii" if ascii_only else "json")
    if block is None:
        return None
    tags = {
        number: (_escaped(opening, ascii_only), _escaped(closing, ascii_only))
        for number, (opening, closing) in block.tags.items()
    }
    return replace(block, source=source, tags=tags)


def _escaped(text: str, ascii_only: bool) -> str:
    return json.dumps(text, ensure_ascii=ascii_only)[1:-1]
