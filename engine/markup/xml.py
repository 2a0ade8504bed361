"""XML → what is to be translated in it, and back. Edits spans of the source, and never writes a tag anew.

Expat says whether it is well formed. A fragment may have several roots or none, `&` may stand alone, and an entity need
not be declared; none is expanded, and nothing is fetched. Attributes, comments, CDATA, instructions and DOCTYPE stay,
as do elements that say so (`translate="no"`) or name another language than the outermost.

A block is what an element holds, or a run of text and inline elements in it. Which are inline the outline says: those
that stand beside text, and all inside them; of an element without text of its own every child with text is a block,
unless its name is one that stands beside text elsewhere and no line end parts it from its sisters. Two children or more
on lines of their own are blocks anywhere, as items of a list in a paragraph. What holds a block is never inline.

Declared changes to a block that is translated: a line break and the blanks around it are one space, but under
`xml:space="preserve"`; references other than `&amp; &lt; &gt;` and those to a no-break space become characters.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html.entities import html5
from typing import NamedTuple
from xml.parsers import expat

from engine.errors import BrokenMarkup
from engine.markup import marks
from engine.markup.inline import MOST_ITEMS, Item, Letters, block_of, lines_joined, texts
from engine.markup.page_language import primary
from engine.markup.spans import Found, cut
from engine.markup.templates import IN_XML
from engine.types import NO_RULES, Block, Document, TagRules

TEXT, PRESERVED = "xml text", "xml preserved"  # forms of blocks
AROUND = "yiwen-fragment"  # the element that expat finds around what may have no root, or several
UNKNOWN = "\ue000"  # stands for the `&` of what XML does not know by itself, so that expat does not look it up

_HEAD = re.compile(  # with all that may stand before and in a DOCTYPE
    r"(?P<before>[\ufeff \t\r\n]*)(?P<declaration><\?xml\s(?s:.*?)\?>)?+"
    r"(?:(?:\s++|<!--(?s:.*?)(?:-->|\Z)|<\?(?s:.*?)(?:\?>|\Z))*+"
    r"(?P<doctype><!DOCTYPE(?:[^\[\]\"'<>]++|\"[^\"]*+\"|'[^']*+')*+"
    r"(?:\[(?:[^\]\"'<]++|\"[^\"]*+\"|'[^']*+'|<!--(?s:.*?)(?:-->|\Z)|<\?(?s:.*?)(?:\?>|\Z)|<)*+\]\s*+)?+>))?+"
)
_TOKEN = re.compile(
    r"""<(?:!--.*?(?:-->|\Z)|!\[CDATA\[.*?(?:\]\]>|\Z)|\?.*?(?:\?>|\Z)
        |(?P<closes>/?)(?P<name>[^\s/>]++)(?P<rest>[^>"']*+(?:(?:"[^"]*+"|'[^']*+')[^>"']*+)*+)>)""",
    re.DOTALL | re.VERBOSE,
)
_ATTRIBUTE = re.compile(r"""\s([^\s=]++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)')""")
_MATTERS = re.compile(r"translat|xml:")
_NAME = r"[^\W\d][\w.:-]*+"
_UNKNOWN = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]++|#x[0-9A-Fa-f]++);)")
_BARE = re.compile(rf"&(?!(?:{_NAME}|#[0-9]++|#x[0-9A-Fa-f]++);)")  # with other text after it, it could mean something
_REFERENCE = re.compile(rf"&(?:#(?P<decimal>[0-9]++)|#x(?P<hex>[0-9A-Fa-f]++)|(?P<name>{_NAME}));")
_DECLARED = re.compile(rf"""<!ENTITY\s+({_NAME})\s+(?!["']&#x?[0-9A-Fa-f]++;["'])""")  # as more than one character
_NO_BREAK_SPACE = re.compile("&(?:nbsp|#160|#[xX]0*[aA]0);")
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
    # what XML cannot hold at all
    | {chr(code): "" for code in (*range(0x20), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF) if chr(code) not in "\t\n\r"}
)


@dataclass(slots=True)
class _Element:
    """`around` is None of what stands for the whole text."""

    name: str
    around: "_Element | None" = None
    preserves: bool = False  # its white space
    has_text: bool = False  # of its own
    has_words: bool = False  # anywhere inside
    inner: int = 0  # children that have
    line_ended: bool = False  # after the last child
    parts_lines: bool = False  # its children, from each other
    holds_block: bool = False  # or must be one
    is_block: bool = False


class _Event(NamedTuple):
    """`element` is what is opened or closed, or what the text stands in. A "word" is kept, but seen by a reader."""

    kind: str
    start: int
    end: int
    element: _Element


def parse(source: str, rules: TagRules = NO_RULES) -> Document:
    """Raises `BrokenMarkup`, which says where. Takes time in proportion to the source."""
    start = content_start(source)
    _check(source, start)
    events, elements = _events(source, start, rules)
    _outline(elements, rules)
    declared = {*_DECLARED.findall(source, 0, start)}
    return cut(source, _blocks(source, events, rules.splitting, declared))


def write(block: Block, text: str) -> str:
    """The source of a `block` of this parser once its text is `text`, whose marks are those of the block."""
    return block.source if text == block.text else marks.restore(block, text, escape(block))


def escape(block: Block) -> Callable[[str], str]:
    """How the runs of the block are written, whatever stands around them."""
    return _escape(block.source, block.form)


def content_start(source: str) -> int:
    """Where what stands after white space, declaration and DOCTYPE begins."""
    head = _HEAD.match(source)
    assert head is not None, "it matches nothing, too"
    return head.end() if head["doctype"] else head.end("declaration" if head["declaration"] else "before")


def feed(reader: expat.XMLParserType, source: str, start: int) -> int:
    """Have expat read a text, be it a fragment, whose content begins at `start`; `reader` asks for UTF-8.

    Gives the place of the first error, or -1. Expat sees an element `AROUND` around the content, and `UNKNOWN` in it.
    """
    before = len(source) - len(source.lstrip("\ufeff \t\r\n"))
    head = source[before:start].encode(errors="replace")
    content = _UNKNOWN.sub(UNKNOWN, source[start:]).encode(errors="replace")
    try:
        reader.Parse(head)
        reader.Parse(f"<{AROUND}>".encode())
        reader.Parse(content)
        reader.Parse(f"</{AROUND}>".encode(), True)
    except expat.ExpatError:
        at = reader.ErrorByteIndex
        if at <= len(head):
            return before + len(head[:at].decode(errors="ignore"))
        return start + len(content[: at - len(head) - len(AROUND) - 2].decode(errors="ignore"))
    return -1


def is_well_formed(source: str) -> bool:
    return _error(source, content_start(source)) < 0


def _error(source: str, start: int) -> int:
    """As `feed` gives it."""
    return feed(expat.ParserCreate(encoding="utf-8"), source, start)


def _check(source: str, start: int) -> None:
    at = _error(source, start)
    if at < 0:
        return
    at -= next((len(lead) for lead in ("</", "<!", "<") if source.endswith(lead, 0, at)), 0)  # expat stops after them
    opened: list[re.Match[str]] = []
    for token in _TOKEN.finditer(source, start, at):
        if token["closes"] and opened:
            opened.pop()
        elif token["name"] and not token["rest"].endswith("/"):
            opened.append(token)
    closing = _TOKEN.match(source, at)
    if opened and (at >= len(source) or (closing and closing["closes"])):
        raise BrokenMarkup(
            f"<{_shown(opened[-1])}> {_place(source, opened[-1].start())} is not closed; close every tag."
        )
    if closing and closing["closes"]:
        raise BrokenMarkup(
            f"</{_shown(closing)}> {_place(source, at)} closes a tag that is not open; take it out, or open it before."
        )
    raise BrokenMarkup(
        f"The XML is not well formed {_place(source, at)}; write < as &lt; in text, and the values of attributes in "
        "quotes."
    )


def _shown(tag: re.Match[str]) -> str:
    return tag["name"][:40]


def _place(source: str, at: int) -> str:
    line, column = source.count("\n", 0, at) + 1, at - source.rfind("\n", 0, at)
    return f"at line {line:,}, column {column:,}"


def _events(source: str, start: int, rules: TagRules) -> tuple[list[_Event], list[_Element]]:
    """What stands in the content, in order, and its elements but for those that stay as they are."""
    events: list[_Event] = []
    around = whole = _Element("", is_block=True)
    elements = [whole]
    language = ""  # of the first element that is in no other and names one
    done = start
    tokens = _TOKEN.finditer(source, start)
    for token in tokens:
        first, end = token.span()
        if done < first:
            events.append(_text(source, done, first, around))
        done = end
        name, rest = token["name"], token["rest"]
        if name is None:
            events.append(_Event("word" if source.startswith("<![", first) else "void", first, end, whole))
            continue
        if token["closes"]:
            assert around.around is not None, "expat has seen that no tag is closed that was not open"
            events.append(_Event("close", first, end, around))
            inside, around = around, around.around
            around.has_words |= inside.has_words
            around.inner += inside.has_words
            continue
        around.parts_lines |= around.line_ended
        around.line_ended = False
        said = _attributes(rest) if _MATTERS.search(rest) else {}
        spoken = primary(said.get("xml:lang", ""))
        language = language or (spoken if around is whole else "")
        opaque = name in rules.ignore or (bool(said) and _says_no(said)) or bool(spoken and spoken != language)
        element = _Element(name, around, _preserves(said, around))
        if opaque or rest.endswith("/"):
            if not rest.endswith("/"):
                done = end = _element_end(end, tokens)
            events.append(_Event("word" if opaque else "void", first, end, element))
            continue
        elements.append(element)
        events.append(_Event("open", first, end, element))
        around = element
    if done < len(source):
        events.append(_text(source, done, len(source), around))
    return events, elements


def _text(source: str, start: int, end: int, around: _Element) -> _Event:
    if not source[start:end].isspace():
        around.has_text = around.has_words = True
    elif "\n" in source[start:end]:
        around.line_ended = around.inner > 0
    return _Event("text", start, end, around)


def _attributes(rest: str) -> dict[str, str]:
    return {name: double or single for name, double, single in _ATTRIBUTE.findall(rest)}


def _says_no(said: dict[str, str]) -> bool:
    """As ITS, DITA, DocBook and XHTML say it, and as Android does."""
    return (
        any(said.get(name) == "no" for name in ("translate", "its:translate"))
        or said.get("translatable") == "false"
        or "notranslate" in said.get("class", "").split()
    )


def _preserves(said: dict[str, str], around: _Element) -> bool:
    return said["xml:space"] == "preserve" if "xml:space" in said else around.preserves


def _element_end(end: int, following: Iterator[re.Match[str]]) -> int:
    """Where the element ends whose start tag does at `end`."""
    depth = 1
    for token in following:
        if token["name"] and not token["rest"].endswith("/"):
            depth += -1 if token["closes"] else 1
        end = token.end()
        if not depth:
            break
    return end


def _outline(elements: Sequence[_Element], rules: TagRules) -> None:
    """Says of each whether it is a block, its own or one that holds others; the elements are in reading order."""
    for element in reversed(elements):
        listed = element.inner > 1 and element.parts_lines and not element.has_text
        if element.name in rules.splitting or (listed and rules.outline and element.name not in rules.non_splitting):
            element.holds_block = True
        if element.holds_block and element.around:
            element.around.holds_block = True
    beside_text = {each.name for each in elements if each.around and each.around.has_text and not each.holds_block}
    for element in elements:
        around = element.around
        if around is None:
            continue
        element.is_block = element.holds_block or (
            rules.outline
            and around.is_block
            and element.has_words
            and element.name not in rules.non_splitting
            and not around.has_text
            and (around.parts_lines or element.name not in beside_text)
        )


def _blocks(
    source: str, events: Sequence[_Event], splitting: Collection[str], declared: Collection[str]
) -> Iterator[Found]:
    run: list[Item] = []
    letters: Letters | None = None
    for kind, start, end, element in events:
        if kind == "text":
            letters = letters or _LETTERS[element.preserves]
            run += texts(source, start, end, _kept(source, start, end, declared))
        elif element.is_block if kind in ("open", "close") else element.name in splitting and element.around:
            yield from block_of(source, run, letters or _LETTERS[False])
            run, letters = [], None
        elif kind == "open":
            run.append(Item("open", start, end, element.name))
        elif kind == "close":
            run.append(Item("close", start, end, element.name))
        else:
            run.append(Item("void", start, end, shown=kind == "word"))
        if len(run) > MOST_ITEMS:
            yield from block_of(source, run, letters or _LETTERS[False])
            run, letters = [], None
    yield from block_of(source, run, letters or _LETTERS[False])


def _kept(source: str, start: int, end: int, declared: Collection[str]) -> Iterator[tuple[int, int]]:
    """What a template engine or a program replaces, and entities of which nobody knows here what they stand for."""
    for found in IN_XML.finditer(source, start, end):
        if found[0].startswith("&") and found[0][1:] in html5 and found[0][1:-1] not in declared:
            continue
        yield found.span()


def _read(written: str) -> str:
    """What a reader reads."""
    return _preserved(lines_joined(written))


def _preserved(written: str) -> str:
    written = written.replace("\r\n", "\n") if "\r" in written else written
    return _REFERENCE.sub(_character, written) if "&" in written else written


def _character(reference: re.Match[str]) -> str:
    if name := reference["name"]:
        return html5.get(f"{name};", reference[0])
    return chr(int(reference["decimal"] or reference["hex"], 10 if reference["decimal"] else 16))


def _escape(written: str, form: str) -> Callable[[str], str]:
    space = _NO_BREAK_SPACE.search(written)
    line_end = "\r\n" if form == PRESERVED and "\r\n" in written else "\n"
    return partial(_escaped, space=space[0] if space else "", line_end=line_end)


def _escaped(text: str, space: str, line_end: str) -> str:
    escaped = text.translate(_ESCAPES)
    if space:
        escaped = escaped.replace("\u00a0", space)
    return escaped if line_end == "\n" else escaped.replace("\n", line_end)


_LETTERS = {
    preserves: Letters(form, read, partial(_escape, form=form), _BARE)
    for preserves, form, read in ((False, TEXT, _read), (True, PRESERVED, _preserved))
}
