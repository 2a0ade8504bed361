"""Where in a Markdown source each inline thing stands: markdown-it-py, made to say so. Knows no marks or translations.

Its public tokens have no offsets within a line, so this uses its internals: a new version must be looked at first.
Dialect: CommonMark with GFM's tables, `~~` and task boxes, `$` math, footnotes, alerts, `:::` containers, and
template expressions as single things.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from markdown_it import MarkdownIt, __version__
from markdown_it.common.utils import normalizeReference
from markdown_it.helpers import parseLinkLabel
from markdown_it.parser_block import RuleFuncBlockType
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType
from mdit_py_plugins.container import container_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.footnote import footnote_plugin

MAX_INLINE_CHARACTERS = 100_000  # of one paragraph; markdown-it-py takes quadratic time on some longer ones
MAX_TEMPLATE_CHARACTERS = 500

Kind = Literal["text", "break", "open", "close", "void"]  # a "break" is a line's end that a reader sees as a space
_BLANKS = " \t"
_TEMPLATE = re.compile(
    rf"\{{\{{(?s:.{{0,{MAX_TEMPLATE_CHARACTERS}}}?)\}}\}}"
    rf"|\{{%(?s:.{{0,{MAX_TEMPLATE_CHARACTERS}}}?)%\}}"
    rf"|\{{[#:.][^{{}}\n]{{0,{MAX_TEMPLATE_CHARACTERS}}}\}}"  # {#id}, {: .class}
)
_LABEL = re.compile(r"\[(?!\^)((?:[^\[\]\\]|\\.)+)(?=\])")
_NOTE = re.compile(r"\[\^([^\s\]]+)\]")
_RULE = re.compile(r"[ \t>]*[-:|][-:| \t]*$", re.MULTILINE)
_NEWLINE = re.compile(r"\r\n?")


class Piece(NamedTuple):
    """A part of a block's inline content, from `start` to `end` there; pieces tile it, but for white space."""

    kind: Kind
    start: int
    end: int
    text: str  # what a reader reads of it
    name: str  # the parser's word for it


class Content(NamedTuple):
    """The inline content of one block. Character i of `text` stands at `positions[i]` of the source."""

    text: str
    positions: Sequence[int]
    form: str


class _State(StateInline):
    pending_start = 0

    def pushPending(self) -> Token:
        token = super().pushPending()
        token.meta["span"] = (self.pending_start, self.pending_start + len(token.content))
        return token

    def push(self, ttype: str, tag: str, nesting: Literal[-1, 0, 1]) -> Token:
        token = super().push(ttype, tag, nesting)
        token.meta["at"] = self.pos
        return token


class _Inline(ParserInline):
    def tokenize(self, state: StateInline) -> None:
        assert isinstance(state, _State)
        rules = self.ruler.getRules("")
        end = state.posMax
        while state.pos < end:
            start = state.pos
            if not state.pending:
                state.pending_start = start
            known = len(state.tokens)
            if state.level < state.md.options["maxNesting"] and any(rule(state, False) for rule in rules):
                _stamp(state.tokens[known:], start, state.pos)
                continue
            state.append_pending(state.src[start])
            state.pos = start + 1
        if state.pending:
            state.pushPending()

    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        state = _State(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


def _stamp(tokens: Sequence[Token], start: int, end: int) -> None:
    """Give the tokens that one rule made of `start` to `end` their spans."""
    new = [token for token in tokens if "span" not in token.meta]
    if new and new[0].info == "auto":  # <https://…>: three tokens, and one thing
        for token in new:
            token.meta["span"] = (start, end)
    elif new and all(token.type == "text" for token in new):  # delimiters, each its own token
        for token in new:
            token.meta["span"] = (start, start + len(token.content))
            start += len(token.content)
    else:
        for token in new:
            opening, closing = token.nesting == 1, token.nesting == -1
            token.meta["span"] = (token.meta["at"] if closing else start, token.meta["at"] if opening else end)


def _template(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] != "{" or state.html_terminator_last("}") < state.pos:
        return False
    match = _TEMPLATE.match(state.src, state.pos, state.posMax)
    if match is None:
        return False
    if not silent:
        state.push("template", "", 0)
    state.pos = match.end()
    return True


def _inline_footnote(state: StateInline, silent: bool) -> bool:
    """The plugin's own rule moves the text of `^[…]` out of the paragraph."""
    start, end = state.pos, state.posMax
    if not state.src.startswith("^[", start):
        return False
    label_end = parseLinkLabel(state, start + 1)
    if label_end < 0:
        return False
    if not silent:
        state.pos, state.posMax = start + 2, label_end
        state.push("footnote_inline_open", "", 1)
        state.md.inline.tokenize(state)
        state.push("footnote_inline_close", "", -1)
    state.pos, state.posMax = label_end + 1, end
    return True


def _with_lines(name: str, rule: RuleFuncBlockType) -> RuleFuncBlockType:
    """The rule, which now also notes where the lines of new content start and end, past the marks of lists and quotes.

    Only while the rule runs do the state's offsets say so; of nested rules the innermost comes first, and counts.
    """

    def stamping(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        known = len(state.tokens)
        matched = rule(state, start, end, silent)
        if matched and not silent:
            for token in state.tokens[known:]:
                if token.type == "inline" and token.map and "lines" not in token.meta:
                    first, last = token.map[0], min(token.map[1], len(state.bMarks) - 1)
                    token.meta["rule"] = name
                    token.meta["lines"] = [
                        (state.bMarks[line] + state.tShift[line], state.eMarks[line]) for line in range(first, last)
                    ]
        return matched

    return stamping


def _parser() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"alerts": True, "tasklists": True}).enable(["table", "strikethrough"])
    dollarmath_plugin(md, allow_space=False, allow_digits=False, double_inline=True)
    footnote_plugin(md, inline=False, move_to_end=False)
    container_plugin(md, "any", validate=lambda _params, _markup: True)
    inline = _Inline()
    inline.ruler, inline.ruler2, inline.terminator_re = md.inline.ruler, md.inline.ruler2, md.inline.terminator_re
    md.inline = inline
    md.inline.ruler.before("escape", "template", _template)
    md.inline.ruler.after("image", "inline_footnote", _inline_footnote)
    md.inline.ruler2.disable("fragments_join")
    md.core.ruler.enableOnly(["normalize", "block"])  # the content of blocks is parsed one by one, see `pieces`
    for rule in md.block.ruler.__rules__:
        rule.fn = _with_lines(rule.name, rule.fn)
    md.block.ruler.__cache__ = None
    return md


_PARSER = _parser()


def contents(source: str) -> tuple[list[Content], EnvType]:
    """The inline content of each block, in order, where its place is certain; and what else the parser must know."""
    normal = _NEWLINE.sub("\n", source).replace("\0", "\ufffd")
    pairs = [match.start() - count for count, match in enumerate(re.finditer("\r\n", source))]
    env: EnvType = {}
    tokens = _PARSER.parse(normal, env)
    found: list[Content] = []
    column = 0
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            column = 0
        elif before.type in ("th_close", "td_close"):
            column += 1
        if token.type != "inline" or "lines" not in token.meta or len(token.content) > MAX_INLINE_CHARACTERS:
            continue
        positions = _positions(token, normal, column)
        if positions is None or not token.content:
            continue
        if pairs:
            positions = [at + bisect_left(pairs, at) for at in positions]
        found.append(Content(token.content, positions, _form(token, normal, column)))
    return found, env


def block_types(source: str) -> tuple[list[str], list[str]]:
    """The types of the block tokens of `source`, and the inline contents among them."""
    tokens = _PARSER.parse(source, {})
    return [token.type for token in tokens], [token.content for token in tokens if token.type == "inline"]


def pieces(content: str, env: EnvType) -> list[Piece] | None:
    """The pieces that tile `content`; None where the parser's answer does not."""
    found: list[Piece] = []
    end = 0
    for piece in _merged(_PARSER.inline.parse(content, _PARSER, env, [])):
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


def _form(token: Token, source: str, column: int) -> str:
    start = token.meta["lines"][0][0]
    match token.meta["rule"]:
        case "table":
            return "cell" if column or source.startswith("|", start) else "cell-start"
        case "heading":
            return "heading"
        case "lheading":
            return "heading-underlined"
        case _:  # after a `|` the parser would take a rule below for a table's second line
            below = source.find("\n", token.meta["lines"][-1][1]) + 1
            return "paragraph-over-rule" if below and _RULE.match(source, below) else "paragraph"


def _positions(token: Token, source: str, column: int) -> list[int] | None:
    """Where each character of the token's content stands in `source`, and where it ends; None where that is unclear."""
    content, rule, lines = token.content, token.meta["rule"], token.meta["lines"]
    start, end = lines[0]
    if rule == "table":
        return _cell_positions(content, source[start:end], start, column)
    if rule == "heading":
        start += len(source[start:end]) - len(source[start:end].lstrip("#"))
        while start < end and source[start].isspace():
            start += 1
        return list(range(start, start + len(content) + 1)) if source.startswith(content, start) else None
    positions: list[int] = []
    texts = content.split("\n")
    if len(texts) > len(lines):
        return None
    for (start, end), text in zip(lines, texts, strict=False):
        body = text.lstrip(_BLANKS)
        if not positions:
            start += len(source[start:end]) - len(source[start:end].lstrip())
        if not source.startswith(body, start):
            return None
        positions += [start] * (len(text) - len(body))
        positions += range(start, start + len(body))
        positions.append(end)
    positions[-1] = start + len(body)
    return positions


def _cell_positions(content: str, row: str, start: int, column: int) -> list[int] | None:
    """As `_positions`: the row is split here too, since `\\|` loses its backslash in the content."""
    offset = start + len(row) - len(row.lstrip())
    cells: list[list[int]] = [[]]
    escaped = False
    for at, character in enumerate(row.strip(), offset):
        if character == "|" and not escaped:
            cells.append([])
        else:
            if character == "|":
                cells[-1].pop()
            cells[-1].append(at - 1 if character == "|" else at)
        escaped = character == "\\"
    cells = cells[1:] if not cells[0] else cells
    cells = cells[:-1] if cells and not cells[-1] else cells
    if column >= len(cells):
        return None
    cell = cells[column]
    while cell and row[cell[0] - start].isspace():
        cell = cell[1:]
    while cell and row[cell[-1] - start].isspace():
        cell = cell[:-1]
    shown = [row[at - start + (row[at - start : at - start + 2] == "\\|")] for at in cell]
    if not cell or "".join(shown) != content:
        return None
    return [*cell, cell[-1] + (2 if row[cell[-1] - start : cell[-1] - start + 2] == "\\|" else 1)]


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
