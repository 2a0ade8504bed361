"""What sheets have of their own: headers and footers, a small language of codes in one string.

`&L&"Arial,Bold"Report &P of &N&RDraft` has three places (left, centre, right), and codes for fonts and page numbers
(ECMA-376 part 1, 18.3.1.46). Each place is a block, codes in it are marks. All else of a sheet is for `paragraphs`.
"""

import re
from collections.abc import Iterator
from html import unescape

from engine.documents import paragraphs
from engine.documents.xml import Node, Part, allowed, escaped
from engine.markup import marks
from engine.types import Block

HEADERS = frozenset({f"s:{which}{what}" for which in ("odd", "even", "first") for what in ("Header", "Footer")})
_HOLDS_TEXT = (b"inlineStr", b"Header>", b"Footer>")
_FORM = "header"
_PLACES = ("&amp;L", "&amp;C", "&amp;R")
_CODE = re.compile(r'&amp;(?:&amp;|(?:"|&quot;)[^"<>]*?(?:"|&quot;)|K(?:[0-9A-F]{6}|\d\d[+-]\d{3})|\d+|[A-Za-z])')
_SEEN = re.compile(
    r"\s*(?:&amp;(?:&amp;|[PNDTFAZ])|(?!&amp;)\S)"
)  # codes: ampersand, page, pages, date, time, sheet, file, path


def may_hold_text(data: bytes) -> bool:
    """Whether a sheet's part is worth reading: most are numbers and places of shared strings alone."""
    return any(word in data for word in _HOLDS_TEXT)


def header(part: Part, node: Node) -> Iterator[tuple[int, Block]]:
    """A block for each place that says something."""
    start = node.inside
    for code in _CODE.finditer(part.source, node.inside, node.rest):
        if code[0] in _PLACES:
            yield from _place(part.source, start, code.start())
            start = code.end()
    yield from _place(part.source, start, node.rest)


def _place(source: str, start: int, end: int) -> Iterator[tuple[int, Block]]:
    parts: list[tuple[int, int, bool]] = []  # runs and codes: from, to, whether a code
    done = start
    for code in _CODE.finditer(source, start, end):
        parts += (done, code.start(), False), (*code.span(), True)
        done = code.end()
    parts.append((done, end, False))
    seen = [index for index, (low, high, _) in enumerate(parts) if _SEEN.match(source, low, high)]
    parts = parts[seen[0] : seen[-1] + 1] if seen else []
    words = "".join(unescape(source[low:high]) for low, high, is_code in parts if not is_code)
    if not any(map(str.isalpha, words)) or "<" in source[start:end]:  # a comment or CDATA: nobody writes such
        return
    numbers = marks.free_numbers(words)
    tags: dict[int, tuple[str, str]] = {}
    text = ""
    for low, high, is_code in parts:
        if is_code:
            number = next(numbers)
            tags[number] = (source[low:high], "")
        text += f"<s{number}></s{number}>" if is_code else unescape(source[low:high])
    yield parts[0][0], Block(text, source[parts[0][0] : parts[-1][1]], _FORM, tags)


def write(block: Block, text: str) -> str:
    """The source of any block of an Office file, those of headers included."""
    if block.form != _FORM or text == block.text:
        return paragraphs.write(block, text)
    return marks.restore(block, text, lambda run: escaped(allowed(run).replace("&", "&&")))
