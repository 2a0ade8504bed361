"""Files of parallel text → pairs: TSV, JSON Lines, TMX and FLORES-style plain files. Knows no training, no model.

    NAME.en-zh.tsv     two columns, or three with the origin first; a heading line of language codes is skipped, and
                       gives the languages where the name has none
    NAME.jsonl         {"source_lang": "en", "target_lang": "zh", "source": "…", "target": "…"}, and "origin" if wanted
    NAME.tmx           1.1 to 1.4b; of a unit the source language with each other one
    eng_Latn.devtest   beside zho_Hans.devtest, or en.txt beside zh.txt: a sentence a line; English with each other
                       one, and where it is not wanted the first by its code

Each but the last also as `.zst`, `.gz`, or alone in a `.zip`. All is read as a stream; XML without entities, DTDs and
network. Languages may be called as any standard calls them. A pair with nothing on a side is left out.
"""

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path, PurePath
from typing import Any

import zstandard
from lxml import etree

from engine.documents.xml import DAMAGED, LANG, Readable, local_name, streamed
from engine.errors import ConfigError
from engine.languages import resolve_any

CHUNK_BYTES = 1 << 18
LONGEST_LINE_BYTES = 1 << 24  # a file without line breaks would be held whole
_PACKED_BYTES = 1 << 14  # of zstd at a time, since a few bytes can become many
_FORMATS = (".tsv", ".jsonl", ".tmx")
_COMPRESSIONS = (".zst", ".gz", ".zip")
_FIELDS = ("source_lang", "target_lang", "source", "target")
_CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})  # elements of TMX that hold another format's codes, not words
_NUMBERED = re.compile(r"(.+):\d+")  # the tuid of a unit of a document


@dataclass(frozen=True, slots=True)
class Pair:
    origin: str  # which source of the corpus it came from
    first: str  # in `first_lang`
    second: str  # in `lang`
    lang: str
    first_lang: str = "en"


def read(place: Path, langs: Collection[str] | None = None) -> Iterator[Pair]:
    """Every pair of a file, or of a folder's files in the order of their names; only of these languages where given.

    Raises `ConfigError`, at the latest when the bad line is reached.
    """
    if place.is_dir():
        files = [path for path in sorted(place.iterdir()) if _format(path.name) and path.is_file()]
        if files:
            return chain.from_iterable(_read_file(path, langs) for path in files)
        return _read_plain_files(place, langs)
    if not place.exists():
        raise ConfigError(f"There is no file or folder {str(place)!r}; check the path.")
    if not _format(place.name):
        raise ConfigError(
            f"{place.name!r} is no file of pairs that is known; give {', '.join(_FORMATS)} (also as "
            f"{', '.join(_COMPRESSIONS)}), or a folder of such or of plain files named by language."
        )
    return _read_file(place, langs)


def languages_of(name: str) -> tuple[str, str] | None:
    """The two languages that a file's name tells, as in `NAME.en-zh.tsv` or `NAME.eng_Latn-zho_Hans.devtest`."""
    for part in reversed(name.split(".")):
        words = part.split("-")
        for place in range(1, len(words)):  # codes have hyphens, too
            first, second = (resolve_any("-".join(words[slice])) for slice in (slice(place), slice(place, None)))
            if first and second and first != second:
                return first, second
    return None


def _format(name: str) -> str:
    """Of a file by its name, compressed or not; empty where it is none of ours."""
    path = PurePath(name.lower())
    suffix = PurePath(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
    return suffix if suffix in _FORMATS else ""


def _read_file(path: Path, langs: Collection[str] | None) -> Iterator[Pair]:
    told = languages_of(path.name)
    if langs is not None and told and not set(told) <= set(langs):
        return  # not opened: a corpus is read again and again
    origin = path.name[: path.name.lower().index(_format(path.name))]
    any_pair = False
    with ExitStack() as stack:
        try:
            file = _opened(path, stack)
            match _format(path.name):
                case ".tsv":
                    pairs = _read_tsv(path.name, _lines(file, path.name), origin, told)
                case ".jsonl":
                    pairs = _read_jsonl(path.name, _lines(file, path.name), origin)
                case _:
                    pairs = _read_tmx(path.name, file, origin)
            for pair in pairs:
                any_pair = True
                if langs is None or (pair.lang in langs and pair.first_lang in langs):
                    yield pair
        except (zstandard.ZstdError, zlib.error, zipfile.BadZipFile, EOFError) as error:
            raise ConfigError(f"{path.name} is damaged ({_first_line(error)}); fetch or pack it anew.") from error
        except OSError as error:  # gzip's own is one, too
            raise ConfigError(f"{path.name} cannot be read: {error}.") from error
    if not any_pair:
        raise ConfigError(f"{path.name} holds no pairs; give a file with text in two of the languages of HY-MT.")


# ---------------------------------------------------------------------------------------------------------------------
# the formats


def _read_tsv(name: str, lines: Iterable[str], origin: str, told: tuple[str, str] | None) -> Iterator[Pair]:
    langs = told
    for number, line in enumerate(lines, 1):
        columns = line.split("\t")
        if len(columns) not in (2, 3):
            if not line.strip():
                continue
            count = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
            raise ConfigError(
                f"{name}, line {number:,} has {count}; a pair has two, parted by a tab, or three with its origin first."
            )
        *before, first, second = columns
        if number == 1:
            heading = resolve_any(first), resolve_any(second)
            if heading[0] and heading[1] and heading[0] != heading[1] and heading == (told or heading):
                langs = heading[0], heading[1]
                continue
        if langs is None:
            raise ConfigError(
                f"{name} does not tell two languages of HY-MT; call it as NAME.en-zh.tsv, or give it a heading line "
                "of two codes."
            )
        first, second = first.strip(), second.strip()
        if first and second:
            yield Pair(before[0] if before else origin, first, second, langs[1], langs[0])


def _read_jsonl(name: str, lines: Iterable[str], origin: str) -> Iterator[Pair]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{name}, line {number:,} is no JSON ({error}); each line is an object.") from error
        values = [value for field in _FIELDS if isinstance(entry, dict) and isinstance(value := entry.get(field), str)]
        if len(values) < len(_FIELDS):
            raise ConfigError(f"{name}, line {number:,}: not an object with the texts {', '.join(_FIELDS)}.")
        langs = [resolve_any(value) for value in values[:2]]
        first_lang, lang = langs
        if not first_lang or not lang:
            unknown = values[langs.index(None)]
            raise ConfigError(f"{name}, line {number:,}: the language {unknown[:40]!r} is none of HY-MT's 38.")
        if first_lang == lang:
            raise ConfigError(f"{name}, line {number:,}: source and target are both {lang}; a pair is of two.")
        first, second = values[2].strip(), values[3].strip()
        if first and second:
            told = entry.get("origin")
            yield Pair(told if isinstance(told, str) else origin, first, second, lang, first_lang)


def _read_tmx(name: str, file: Readable, origin: str) -> Iterator[Pair]:
    source = ""
    unknown: set[str] = set()
    any_pair = False
    for element in _elements(name, file):
        if local_name(element) == "header":
            source = resolve_any(element.get("srclang", "")) or ""
            continue
        texts: dict[str, str] = {}
        for part in element:
            if local_name(part) != "tuv":
                continue
            code = part.get(LANG) or part.get("lang") or ""
            segment = next((inner for inner in part if local_name(inner) == "seg"), None)
            if (lang := resolve_any(code)) is None:
                unknown.add(code[:40])
            elif segment is not None and (text := " ".join(_words(segment).split())):
                texts.setdefault(lang, text)
        if not texts:
            continue
        numbered = _NUMBERED.fullmatch(element.get("tuid", ""))
        first_lang = source if source in texts else next(iter(texts))
        for lang, text in texts.items():
            if lang != first_lang:
                any_pair = True
                yield Pair(numbered[1] if numbered else origin, texts[first_lang], text, lang, first_lang)
    if unknown and not any_pair:
        raise ConfigError(f"{name} has no pair of two languages of HY-MT; unknown are: {', '.join(sorted(unknown))}.")


def _elements(name: str, file: Readable) -> Iterator[etree._Element]:
    """The header and each unit of a TMX, which is gone after its turn."""
    try:
        for element in streamed(file, ("tmx", "header", "tu")):
            if element.getparent() is not None:
                yield element
                continue
            declared = element.getroottree().docinfo.internalDTD
            if declared is not None and any(declared.iterentities()):  # type: ignore[attr-defined]  # missing in its stubs
                raise ConfigError(f"{name} declares entities, which are not followed; write out what they mean.")
    except DAMAGED as error:
        raise ConfigError(f"{name} is no XML, or damaged: {_first_line(error)}; export it anew.") from error


def _words(element: etree._Element) -> str:
    """The text of a segment, without another format's codes."""
    parts = [element.text or ""]
    for inner in element:
        if local_name(inner) not in _CODES:
            parts.append(_words(inner))
        parts.append(inner.tail or "")
    return "".join(parts)


# ---------------------------------------------------------------------------------------------------------------------
# plain files, a sentence a line


def _read_plain_files(folder: Path, langs: Collection[str] | None) -> Iterator[Pair]:
    any_pair = False
    for files in _plain_files(folder):
        wanted = sorted(lang for lang in files if langs is None or lang in langs)
        first_lang = "en" if "en" in wanted else next(iter(wanted), "")
        for lang in wanted:
            if lang != first_lang:
                any_pair = True
                yield from _read_lines(folder, files[first_lang], files[lang], first_lang, lang)
    if not any_pair:
        raise ConfigError(
            f"The folder {str(folder)!r} holds no pairs; put {', '.join(_FORMATS)} into it (also as "
            f"{', '.join(_COMPRESSIONS)}), or two or more plain files named by language, as en.txt and zh.txt."
        )


def _plain_files(folder: Path) -> list[dict[str, Path]]:
    """By language, for each ending; of two names of a language the first."""
    endings: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        code, dot, ending = path.name.partition(".")
        if dot and path.is_file() and (lang := resolve_any(code)):
            endings.setdefault(ending, {}).setdefault(lang, path)
    return list(endings.values())


def _read_lines(folder: Path, first_path: Path, second_path: Path, first_lang: str, lang: str) -> Iterator[Pair]:
    with ExitStack() as stack:
        sides = [_lines(_opened(path, stack), path.name) for path in (first_path, second_path)]
        number = 0
        for number, (first, second) in enumerate(zip_longest(*sides), 1):
            if first is None or second is None:
                shorter = first_path if first is None else second_path
                raise ConfigError(
                    f"{shorter.name} ends after {number - 1:,} lines, before its partner ({first_path.name}, "
                    f"{second_path.name}); line by line they must say the same."
                )
            first, second = first.strip(), second.strip()
            if first and second:
                yield Pair(folder.name, first, second, lang, first_lang)
    if number == 0:
        raise ConfigError(f"{first_path.name} and {second_path.name} are empty; give files with a sentence a line.")


# ---------------------------------------------------------------------------------------------------------------------
# bytes and lines


def _opened(path: Path, stack: ExitStack) -> Readable:
    """The uncompressed content as a stream."""
    file = stack.enter_context(path.open("rb"))
    match path.suffix.lower():
        case ".zst":
            return io.BufferedReader(_Zstandard(file), CHUNK_BYTES)
        case ".gz":
            return stack.enter_context(gzip.GzipFile(fileobj=file))
        case ".zip":
            packed = stack.enter_context(zipfile.ZipFile(file))
            members = [name for name in packed.namelist() if not name.endswith("/")]
            if len(members) != 1:
                raise ConfigError(f"{path.name} holds {len(members)} files; unpack it and give the one that is meant.")
            return stack.enter_context(packed.open(members[0]))
        case _:
            return file


class _Zstandard(io.RawIOBase):
    """Of any number of frames. The library's own reader takes a file that was cut off for a whole one."""

    def __init__(self, file: Readable) -> None:
        self._file, self._rest, self._at = file, b"", 0
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer)
        while self._at == len(self._rest):
            if self._frame.eof:
                packed = self._frame.unused_data
                self._frame, self._begun = zstandard.ZstdDecompressor().decompressobj(), False
            else:
                packed = b""
            packed = packed or self._file.read(_PACKED_BYTES)
            if not packed:
                if self._begun:
                    raise EOFError("it ends too early")
                return 0
            self._begun = True
            self._rest, self._at = self._frame.decompress(packed), 0
        size = min(len(room), len(self._rest) - self._at)
        room[:size] = self._rest[self._at : self._at + size]
        self._at += size
        return size


def _lines(file: Readable, name: str) -> Iterator[str]:
    """Without their ends. Only a line feed ends one: what else Unicode calls an end may stand in a text."""
    number, rest = 0, b""
    while chunk := file.read(CHUNK_BYTES):
        whole, found, after = chunk.rpartition(b"\n")
        if not found:
            rest += chunk
            if len(rest) > LONGEST_LINE_BYTES:
                raise ConfigError(f"{name}, line {number + 1:,} is over {LONGEST_LINE_BYTES >> 20} MiB long; break it.")
            continue
        for line in _decoded(rest + whole, name, number).split("\n"):
            number += 1
            yield line
        rest = after
    if rest:
        yield _decoded(rest, name, number)


def _decoded(data: bytes, name: str, before: int) -> str:
    """Some lines, of which `before` others stand in the file."""
    try:
        text = data.decode("utf-8" if before else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = before + data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}, line {line:,} is not UTF-8 ({error.reason}); save the file as UTF-8.") from error
    return text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0][:200]
