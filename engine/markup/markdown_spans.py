"""Where in a Markdown source each inline thing stands. Knows no marks or translations.

What the parser's tokens say is laid over the source, and only believed where it fits: letter by letter, or not at all.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from markdown_it import __version__
from markdown_it.common.utils import normalizeReference, unescapeAll
from markdown_it.token import Token
from markdown_it.utils import EnvType

from engine.markup.markdown_parser import BOX, INLINE_START, PARSER

MAX_INLINE_CHARACTERS = 100_000  # of a paragraph full of marks; some cost markdown-it-py marks × characters
MAX_TITLE_LINE_CHARACTERS = 1_000

Kind = Literal["text", "break", "open", "close", "void"]  # a "break" is a line's end that a reader sees as a space
_BLANKS = " \t"
TITLE = r"""(?:"(?P<double>(?:[^"\\\n]|\\.)*+)"|'(?P<single>(?:[^'\\\n]|\\.)*+)'|\((?P<round>(?:[^()\\\n]|\\.)*+)\))"""
_DEFINITION_TITLE = re.compile(rf"(?:^|[ \t]){TITLE}[ \t]*$")
_CONTAINER_TITLE = re.compile(  # of those whose title is one: `::: include a.md` has none
    r":{3,}[ \t]*(?:note|tip|info|warning|danger|caution|important|details|success|question|example|quote|abstract"
    r"|summary|bug|failure|hint|attention|error|seealso|todo)(?:[ \t]+|(?P<bracket>\[))(?P<title>[^{}]+?)(?(bracket)\])"
    r"[ \t]*(?:\{[^{}]*\})?[ \t]*$"
)
_LABEL = re.compile(r"\[(?!\^)((?:[^\[\]\\]|\\.)+)(?=\])")
_NOTE = re.compile(r"\[\^([^\s\]]+)\]")
_RULE = re.compile(r"[ \t>]*[-:|][-:| \t]*$", re.MULTILINE)
_NEWLINE = re.compile(r"\r\n?")
_PAIR = re.compile("\r\n")


class Piece(NamedTuple):
    """A part of a block's inline content, from `start` to `end` there; pieces tile it, but for white space."""

    kind: Kind
    start: int
    end: int
    text: str  # what a reader reads of it
    name: str  # the parser's word for it


class Content(NamedTuple):
    """What one block holds. Character i of `text` stands at `positions[i]` of the source.

    The form says what inline content stands in. Not inline are an HTML block, "html", and a definition's title.
    """

    text: str
    positions: Sequence[int]
    form: str


def contents(source: str) -> tuple[Iterator[Content], EnvType]:
    """The content of each block, in order, where its place is certain; and what else the parser must know."""
    env: EnvType = {}
    normal = _NEWLINE.sub("\n", source).replace("\0", "\ufffd")
    tokens = PARSER.parse(normal, env)
    return _contents(tokens, normal, [match.start() - count for count, match in enumerate(_PAIR.finditer(source))]), env


def _contents(tokens: list[Token], source: str, pairs: Sequence[int]) -> Iterator[Content]:
    """`pairs` are the places in `source` of line ends that are two characters in truth."""
    column = 0
    cells: list[list[int]] = []  # of the row under way
    tokens.reverse()
    while tokens:  # each is let go when it is done: a great many of them would keep the garbage collector busy
        token = tokens.pop()
        if token.type == "tr_open":
            column = 0
        elif token.type in ("th_close", "td_close"):
            column += 1
        elif "lines" in token.meta:
            if token.meta["rule"] == "table" and not column:
                cells = _cells(source, *token.meta["lines"][0])
            content = _content(token, source, cells[column : column + 1])
            if content and pairs:
                content = content._replace(positions=[at + bisect_left(pairs, at) for at in content.positions])
            if content:
                yield content


def block_types(source: str) -> tuple[list[str], list[str]]:
    """The types of the block tokens of `source`, and the inline contents among them."""
    tokens = PARSER.parse(source, {})
    return [token.type for token in tokens], [token.content for token in tokens if token.type == "inline"]


def pieces(content: str, env: EnvType) -> list[Piece] | None:
    """The pieces that tile `content`; None where the parser's answer does not."""
    if not INLINE_START.search(content):
        return [Piece("text", 0, len(content), content, "text")]
    found: list[Piece] = []
    end = 0
    for piece in _merged(PARSER.inline.parse(content, PARSER, env, [])):
        if piece is None or piece.start < end or content[end : piece.start].strip(_BLANKS + "\n"):
            return None
        if piece.name == "text" and content[piece.start : piece.end] != piece.text:
            return None
        found.append(piece)
        end = piece.end
    return None if content[end:].strip(_BLANKS + "\n") else found


def _merged(tokens: Sequence[Token]) -> Iterator[Piece | None]:
    """A piece for each token; the two halves of `**` and the three tokens of an autolink make one."""
    halves = 0  # of the last strong_close; the parser leaves an empty text after it
    start = -1  # of a `**` whose first half is an empty text
    skip = ""
    for token in tokens:
        span: tuple[int, int] | None = token.meta.get("span")
        if span is None:
            yield None
            return
        if skip:
            skip = "" if token.type == skip else skip
            continue
        if token.info == "auto":
            skip = "link_close"
            yield Piece("void", *span, "", "autolink")
        elif token.type == "text" and not token.content:
            if halves:
                halves = 0
                yield Piece("close", span[0] - 1, span[1], "", "strong_close")
            elif span[1] > span[0]:
                start = span[0]
        elif token.type == "strong_close":
            halves = 1
        elif token.type == "strong_open":
            yield Piece("open", start if start >= 0 else span[0], span[1], "", token.type)
            start = -1
        elif token.type in ("text", "text_special"):
            yield Piece("text", *span, token.content, token.type)
        elif token.type == "softbreak":
            yield Piece("break", *span, " ", token.type)
        else:
            kind: Kind = "open" if token.nesting == 1 else "close" if token.nesting == -1 else "void"
            yield Piece(kind, *span, "", token.type)


def _content(token: Token, source: str, cell: Sequence[list[int]]) -> Content | None:
    """What the block of this token holds, if that is anything and its place certain; `cell` is empty outside a row."""
    start, end = token.meta["lines"][0]
    if token.type == "container_any_open":
        line = source[start : min(end, start + MAX_TITLE_LINE_CHARACTERS)]
        return _part_of_line(source, start, _CONTAINER_TITLE.match(line), "title", "heading")
    if token.type == "definition":
        start, end = token.meta["lines"][-1]
        title = _DEFINITION_TITLE.search(source[start:end])
        if title is None or unescapeAll(title[title.lastgroup or 0]) != token.meta["title"]:
            return None
        return _part_of_line(source, start, title, title.lastgroup or "", f"title {title.lastgroup}")
    if token.meta["rule"] == "admonition":
        return _part_of_line(source, start, BOX.match(source[start:end]), "title", "quoted")
    text = token.content
    if token.type == "html_block":
        text = text.removesuffix("\n")
    elif _is_too_much(text):
        return None
    positions = _positions(text, token, source, cell)
    if not text or not positions:
        return None
    return Content(text, positions, _form(token, source, positions[0]))


def _is_too_much(text: str) -> bool:
    if len(text) <= MAX_INLINE_CHARACTERS:
        return False
    return len(text) * sum(1 for _ in INLINE_START.finditer(text)) > MAX_INLINE_CHARACTERS**2


def _part_of_line(source: str, start: int, line: re.Match[str] | None, group: str, form: str) -> Content | None:
    if line is None or not line[group]:
        return None
    first, last = start + line.start(group), start + line.end(group)
    return Content(source[first:last], range(first, last + 1), form)


def _form(token: Token, source: str, start: int) -> str:
    match token.meta["rule"]:
        case "table":
            return "cell-start" if start == token.meta["lines"][0][0] else "cell"
        case "heading":
            return "heading"
        case "lheading":
            return "heading-underlined"
        case "html_block":
            return "html"
        case _:  # after a `|` the parser would take a rule below for a table's second line
            below = source.find("\n", token.meta["lines"][-1][1]) + 1
            return "paragraph-over-rule" if below and _RULE.match(source, below) else "paragraph"


def _positions(content: str, token: Token, source: str, cell: Sequence[list[int]]) -> Sequence[int] | None:
    """Where each character of the token's content stands in `source`, and where it ends; None where that is unclear."""
    rule, lines = token.meta["rule"], token.meta["lines"]
    start, end = lines[0]
    if rule == "table":
        return _cell_positions(content, source, cell[0]) if cell else None
    if rule == "heading":
        start += len(source[start:end]) - len(source[start:end].lstrip("#"))
        while start < end and source[start].isspace():
            start += 1
        return range(start, start + len(content) + 1) if source.startswith(content, start) else None
    texts = content.split("\n")
    if len(texts) == 1 and source.startswith(content, start):
        return range(start, start + len(content) + 1)
    positions: list[int] = []
    if len(texts) > len(lines):
        return None
    for (start, end), text in zip(lines, texts, strict=False):
        body = text.lstrip(_BLANKS)
        if not positions and rule != "html_block":
            start += len(source[start:end]) - len(source[start:end].lstrip())
        if not source.startswith(body, start):
            return None
        positions += [start] * (len(text) - len(body))
        positions += range(start, start + len(body))
        positions.append(end)
    positions[-1] = start + len(body)
    return positions


def _cells(source: str, start: int, end: int) -> list[list[int]]:
    """Where the characters of a row stand, cell by cell. The parser's own cells have lost the backslash of `\\|`."""
    row = source[start:end]
    offset = start + len(row) - len(row.lstrip())
    cells: list[list[int]] = [[]]
    escaped = False
    for at, character in enumerate(row.strip(), offset):
        if character == "|" and not escaped:
            cells.append([])
        elif character == "|":
            cells[-1][-1] = at - 1
        else:
            cells[-1].append(at)
        escaped = character == "\\"
    cells = cells[1:] if not cells[0] else cells
    return cells[:-1] if cells and not cells[-1] else cells


def _cell_positions(content: str, source: str, cell: list[int]) -> list[int] | None:
    """As `_positions`."""
    first, last = 0, len(cell)
    while first < last and source[cell[first]].isspace():
        first += 1
    while first < last and source[cell[last - 1]].isspace():
        last -= 1
    cell = cell[first:last]
    shown = [source[at + source.startswith("\\|", at)] for at in cell]
    if not cell or "".join(shown) != content:
        return None
    return [*cell, cell[-1] + 1 + source.startswith("\\|", cell[-1])]


class _Labels(dict[str, Any]):
    """Knows all labels but those that stand in the source as text."""

    def __init__(self, used: frozenset[str], absent: frozenset[str], value: Any) -> None:
        self.used, self.absent, self.value = used, absent, value

    def __contains__(self, label: object) -> bool:
        return label in self.used or label not in self.absent

    def __bool__(self) -> bool:
        return True

    def get(self, label: str, default: Any = None) -> Any:
        return self.value if label in self and label[:1] != "^" else default  # [^1] is a note


def supposed(source: str, tags: str) -> EnvType:
    """What the parser must know to read a block alone. It does not know which labels the document defines, so it
    supposes all are but those that stand in `source` and in none of its `tags`."""
    used, absent = (frozenset(map(normalizeReference, _LABEL.findall(text))) for text in (tags, source))
    noted, unnoted = (frozenset(f":{label}" for label in _NOTE.findall(text)) for text in (tags, source))
    reference = {"href": "", "title": "", "map": [0, 0]}
    return {
        "references": _Labels(used, absent, reference),
        "footnotes": {"refs": _Labels(noted, unnoted, -1), "list": {}},
    }


def _self_test() -> None:
    assert (4, 2) <= tuple(int(part) for part in __version__.split(".")[:2]) < (5, 0), "markdown-it-py>=4.2,<5"
    source = "> - a *b* **[c\n>   d](e)** `f` &amp; \\_\n\n| g\\|h | i |\n|---|---|\n| ~~j~~ | k |\n\n# l #\n"
    shown: list[Any] = []
    found, env = contents(source)
    for content in found:
        parts = pieces(content.text, env)
        assert parts is not None
        shown.append([source[content.positions[part.start] : content.positions[part.end]] for part in parts])
    assert shown == [
        ["a ", "*", "b", "*", " ", "**", "[", "c", "\n>   ", "d", "](e)", "**", " ", "`f`", " ", "&amp;", " ", "\\_"],
        ["g\\|h"],
        ["i"],
        ["~~", "j", "~~"],
        ["k"],
        ["l"],
    ], f"markdown-it-py {__version__} does not work as this file expects"


_self_test()
