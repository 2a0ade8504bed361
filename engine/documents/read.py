"""A file's name and bytes → the `File` they are. Knows which kind is read by what, and nothing of how."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, partial
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
from engine.markup.spans import filled, rebuild, refused, remembering
from engine.markup.verify import Unverifiable, at_fault, skeleton, unordered
from engine.types import Block, Document

WHOLE_CHARACTERS = 60_000  # of a source that is read again for one text that changes; 20 ms of HTML
BLOCKS_AROUND = 25  # on either side; of a longer one

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

        placed = [part for part in document.skeleton if isinstance(part, int)]
        places = [at for at, part in enumerate(document.skeleton) if isinstance(part, int)]
        reach = len(places) if len(decoded.text) <= WHOLE_CHARACTERS else BLOCKS_AROUND

        @cache
        def own_written() -> list[str]:
            return _written(document, write, [], range(len(document.blocks)), own_texts)

        def broken(texts: Sequence[str], number: int) -> bool:
            """Looks at the whole, or where that takes long at what stands around the block."""
            if markup == "text":
                return False
            middle = bisect_left(placed, number)  # a block in another's tag comes right before that
            first, last = max(0, middle - reach), min(len(placed), middle + reach + 1)
            inside = range(placed[first - 1] + 1 if first else 0, placed[last - 1] + 1)
            written = _written(document, write, own_written(), inside, texts)
            if texts[number] != own_texts[number] and written[number] == own_written()[number]:
                return True
            start = places[first - 1] + 1 if first else 0
            end = places[last] if last < len(places) else len(document.skeleton)
            parts = document.skeleton[start:end]
            own, new = (
                "".join(part if isinstance(part, str) else texts[part] for part in parts)
                for texts in (own_written(), written)
            )
            return not _same_structure(markup, own, new)

        return File(document.blocks, save, faults, broken)

    return read_markup


def _written(
    document: Document, write: Callable[[Block, str], str], before: Sequence[str], numbers: range, texts: Sequence[str]
) -> list[str]:
    """What was written `before` for the blocks, with these of `texts` in their places."""
    written = [*before] or [""] * len(document.blocks)
    for number in numbers:
        written[number] = write(filled(document.blocks[number], written), texts[number])
    return written


def _same_structure(markup: Markup, source: str, rebuilt: str) -> bool:
    """Also where the source has none that can be read."""
    try:
        own = skeleton(markup, source)
    except Unverifiable:
        return True
    try:
        new = skeleton(markup, rebuilt)
    except Unverifiable:
        return False
    return own == new or unordered(own) == unordered(new)


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
