"""A file's name and bytes → the `File` they are. Knows which kind is read by what, and nothing of how."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath

from engine.documents.catalogues import parse_json, write_json
from engine.documents.encoding import decode, encode
from engine.documents.epub import read_epub
from engine.documents.file import File, Options
from engine.documents.office import read_office
from engine.documents.po import parse_po, write_po
from engine.documents.subtitles import parse_subtitles, write_subtitles
from engine.documents.xliff import parse_xliff, write_xliff
from engine.errors import UnsupportedMedia
from engine.languages import LANGUAGES
from engine.markup.page_language import in_language
from engine.markup.parse import PARSERS, Markup
from engine.markup.spans import rebuild, refused, remembering
from engine.markup.verify import at_fault
from engine.types import Block, Document

Read = Callable[[bytes, Options], File]


def read(name: str, data: bytes, options: Options) -> File:
    """The name says what it is. Raises `UnsupportedMedia` for a kind that is not read, `BadDocument` for what is not
    what its name says, or damaged, or too large inside."""
    suffix = PurePosixPath(name).suffix.lower()
    if (reader := READERS.get(suffix)) is None:
        what = f"Files of the kind {suffix[:20]} are" if suffix else "Files without an ending such as .txt are"
        raise UnsupportedMedia(f"{what} not translated here; send one of: {', '.join(KINDS)}.")
    return reader(data, options)


def _text(
    parse: Callable[[str, Options], Document], write: Callable[[Block, str], str], references: bool = False
) -> Read:
    """A reader of text files; `references` may stand for what their encoding lacks: `&#8230;`."""

    def read_text(data: bytes, options: Options) -> File:
        decoded = decode(data, options.source)
        document = parse(decoded.text, options)

        def save(texts: Sequence[str]) -> bytes:
            return encode(rebuild(document, write, texts), decoded, references)[0]

        return File(document.blocks, save)

    return read_text


def _markup(markup: Markup) -> Read:
    """A reader of text files whose structure can be checked."""
    parser = PARSERS[markup]

    def read_markup(data: bytes, options: Options) -> File:
        decoded = decode(data, options.source)
        document, write = parser.parse(decoded.text), remembering(parser.write)
        own_texts = tuple(block.text for block in document.blocks)

        def save(texts: Sequence[str]) -> bytes:
            written = rebuild(document, write, texts)
            if markup == "html" and options.target and tuple(texts) != own_texts:
                written = in_language(written, options.target, LANGUAGES[options.target].direction)
            return encode(written, decoded, references=markup == "html")[0]

        def faults(texts: Sequence[str]) -> list[int]:
            found = at_fault(markup, document, write, texts) or []
            return sorted({*found, *refused(document, write, texts)})

        return File(document.blocks, save, faults)

    return read_markup


def _json(source: str, options: Options) -> Document:
    return parse_json(source, options.exclude)


def _subtitles(source: str, _options: Options) -> Document:
    return parse_subtitles(source)


READERS: dict[str, Read] = {
    ".txt": _markup("text"),
    **dict.fromkeys([".md", ".markdown"], _markup("markdown")),
    **dict.fromkeys([".html", ".htm"], _markup("html")),
    **dict.fromkeys([".srt", ".vtt"], _text(_subtitles, write_subtitles)),
    ".json": _text(_json, write_json),
    **dict.fromkeys([".po", ".pot"], _text(parse_po, write_po)),
    **dict.fromkeys([".xlf", ".xliff"], _text(parse_xliff, write_xliff, references=True)),
    **dict.fromkeys([".docx", ".docm"], partial(read_office, "docx")),
    **dict.fromkeys([".pptx", ".pptm"], partial(read_office, "pptx")),
    **dict.fromkeys([".xlsx", ".xlsm"], partial(read_office, "xlsx")),
    ".epub": read_epub,
}
KINDS = tuple(READERS)
