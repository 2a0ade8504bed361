"""A file's name and bytes → the `File` they are. Knows which kind is read by what, and nothing of how."""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from engine.documents.catalogues import parse_json, write_json
from engine.documents.encoding import Decoded, decode, encode
from engine.documents.file import File, Options
from engine.errors import UnsupportedMedia
from engine.markup.parse import PARSERS, Markup
from engine.markup.spans import rebuild
from engine.markup.verify import at_fault
from engine.types import Block, Document

Write = Callable[[Block, str], str]
_REFERENCES = frozenset({".html", ".htm", ".xhtml"})  # what their encoding lacks is written as &#8230;


def read(name: str, data: bytes, options: Options) -> File:
    """The name says what it is. Raises `UnsupportedMedia` for a kind that is not read, `BadDocument` for what is not
    what its name says, or damaged, or too large inside."""
    suffix = PurePosixPath(name).suffix.lower()
    if (reader := READERS.get(suffix)) is None:
        what = f"Files of the kind {suffix[:20]} are" if suffix else "Files without an ending such as .txt are"
        raise UnsupportedMedia(f"{what} not translated here; send one of: {', '.join(READERS)}.")
    return reader(data, options)


def _markup(markup: Markup) -> Callable[[bytes, Options], File]:
    def read_markup(data: bytes, _options: Options) -> File:
        decoded, parser = decode(data), PARSERS[markup]
        document = parser.parse(decoded.text)

        def faults(texts: Sequence[str]) -> list[int] | None:
            return at_fault(markup, document, parser.write, texts)

        return _file(decoded, document, parser.write, faults, references=markup == "html")

    return read_markup


def _text(
    parse: Callable[[str, Options], Document], write: Write, references: bool = False
) -> Callable[[bytes, Options], File]:
    def read_text(data: bytes, options: Options) -> File:
        decoded = decode(data)
        return _file(decoded, parse(decoded.text, options), write, references=references)

    return read_text


def _file(
    decoded: Decoded,
    document: Document,
    write: Write,
    faults: Callable[[Sequence[str]], list[int] | None] = lambda _texts: [],
    references: bool = False,
) -> File:
    def save(texts: Sequence[str]) -> bytes:
        return encode(rebuild(document, write, texts), decoded, references)[0]

    return File(document.blocks, save, faults)


def _json(source: str, options: Options) -> Document:
    return parse_json(source, options.exclude)


READERS: dict[str, Callable[[bytes, Options], File]] = {
    ".txt": _markup("text"),
    ".md": _markup("markdown"),
    ".markdown": _markup("markdown"),
    ".html": _markup("html"),
    ".htm": _markup("html"),
    ".json": _text(_json, write_json),
}
