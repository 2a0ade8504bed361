"""HTML → what is to be translated in it, and back. Edits spans of the source, and never writes a tag anew.

A block is a run of text and inline elements between block-level tags, a title, or an attribute that is read. It knows
nothing of languages, and of rendering only which elements are inline by the standard.

Limit: an attribute of a tag inside a run (`a <img alt="cat"> sat`) is a part of the run's mark, and stays as it is.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from html import unescape
from html.entities import html5
from itertools import accumulate
from typing import Literal

from engine.markup import marks
from engine.markup.lexer import Attribute, Token, lex
from engine.markup.spans import cut
from engine.types import Block, Document

TEXT, DOUBLE, SINGLE, UNQUOTED = "html text", 'html "', "html '", "html unquoted"  # forms of blocks
_FORMS = {'"': DOUBLE, "'": SINGLE, "": UNQUOTED}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VOID = _words("area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr")
_CODE = _words("code kbd samp var svg math")  # what a reader sees, but nobody translates
_HIDDEN = _words("script style template noscript iframe noembed noframes")
_SKIPPED = _CODE | _HIDDEN | _words("pre textarea xmp plaintext listing")
_INLINE = (
    _words(
        """a abbr acronym applet area audio b bdi bdo big blink br canvas cite command data del dfn em embed font i img
        input ins label link map mark meta meter nobr object output param picture progress q rb rp rt rtc ruby s slot
        small source span strike strong sub sup time track tt u video wbr"""
    )
    | _CODE
    | _HIDDEN
)
_ROW_GROUPS = _words("tbody tfoot thead")
_ENDED_BY: dict[str, AbstractSet[str]] = {  # elements whose end tag may be left out
    "p": _words(
        """address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer form h1
        h2 h3 h4 h5 h6 header hgroup hr main menu nav ol p pre search section table ul"""
    ),
    "li": {"li"},
    "dt": {"dt", "dd"},
    "dd": {"dt", "dd"},
    "option": {"option", "optgroup"},
    "optgroup": {"optgroup"},
    "tr": {"tr"} | _ROW_GROUPS,
    "td": {"td", "th", "tr"} | _ROW_GROUPS,
    "th": {"td", "th", "tr"} | _ROW_GROUPS,
    **dict.fromkeys(_ROW_GROUPS, _ROW_GROUPS),
}
_HOLDS_SUCH = _words("ul ol menu dir dl table select button object")  # such elements in these do not end outer ones

_READ_ATTRIBUTES = _words("title alt placeholder aria-label aria-description label summary")
_READ_META = _words("description og:title og:description og:site_name twitter:title twitter:description")
_READ_INPUTS = _words("submit button reset")

_SPACE = re.compile(r"[\t\n\f\r ]+")
_ENTITY = re.compile(r"&(?:#[^\t\n\f <&#;]{1,32};?|(?P<name>[A-Za-z][A-Za-z0-9]*+)(?P<end>[;=]?))")
_LOOSE_END = re.compile(r"(?:</?|&[#\w]*)\Z")  # with other text after it, it could mean something else
_UNQUOTABLE = re.compile(r"[\s\"'=<>`]|\A\Z")
_NO_BREAK_SPACE = "&nbsp;"
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;", "\0": ""}
_ESCAPES_OF_FORM = {
    form: str.maketrans(_ESCAPES | quote)
    for form, quote in ((TEXT, {}), (DOUBLE, {'"': "&quot;"}), (SINGLE, {"'": "&#39;"}), (UNQUOTED, {'"': "&quot;"}))
}


@dataclass(frozen=True, slots=True)
class _Item:
    """A part of a run. An open or close that has no partner there stands alone, like a void."""

    kind: Literal["text", "open", "close", "void"]
    start: int
    end: int
    tag: str = ""
    worded: bool = False  # whether it has text to translate or to keep among the words
    shown: bool = False  # whether a reader sees it as a word of the sentence


def parse(source: str, *, ignore_tags: AbstractSet[str] = frozenset()) -> Document:
    """The blocks in `source`; elements of `ignore_tags` are left as they are."""
    tokens = list(lex(source))
    runs: list[list[_Item]] = [[]]
    found: list[tuple[int, Block]] = []  # with their places
    opened: Counter[str] = Counter()
    at = 0
    while at < len(tokens):
        token, after = tokens[at], at + 1
        kept = token.kind == "start" and (token.tag in ignore_tags or _says_no(source, token))
        if token.kind == "start":
            if not kept:
                found += _attribute_blocks(source, token)
            if token.tag not in _VOID and (kept or token.tag in _SKIPPED):
                after = _element_end(tokens, at, opened)
            elif token.tag not in _VOID:
                opened[token.tag] += 1
        elif token.kind == "end" and opened[token.tag]:
            opened[token.tag] -= 1
        elif token.kind == "rcdata" and token.tag == "title":
            found += _run_blocks(source, [_text(source, token.start, token.end)])
        if _is_inline(token):
            runs[-1].append(_item(source, token, tokens[after - 1].end, kept))
        elif runs[-1]:
            runs.append([])
        at = after
    for run in runs:
        found += _run_blocks(source, run)
    return cut(source, sorted(found, key=lambda place: place[0]))  # an attribute inside a run is left out


def write(block: Block, text: str) -> str:
    """The source of a `block` of this parser once its text is `text`, whose marks are those of the block."""
    if text == block.text:
        return block.source
    written = marks.restore(
        block, text, partial(_escaped, form=block.form, name_spaces=_NO_BREAK_SPACE in block.source)
    )
    return f'"{written}"' if block.form == UNQUOTED and _UNQUOTABLE.search(written) else written


def _escaped(text: str, form: str, name_spaces: bool) -> str:
    escaped = text.translate(_ESCAPES_OF_FORM[form])
    return escaped.replace("\u00a0", _NO_BREAK_SPACE) if name_spaces else escaped


def _says_no(source: str, token: Token) -> bool:
    for attribute in token.attributes:
        value = source[attribute.start : attribute.end].lower()
        if (attribute.name == "translate" and value == "no") or (
            attribute.name == "class" and "notranslate" in value.split()
        ):
            return True
    return False


def _element_end(tokens: Sequence[Token], at: int, opened: Mapping[str, int]) -> int:
    """The index after the element that starts at `at`, where `opened` counts the elements around it."""
    element = tokens[at].tag
    foreign = element in ("svg", "math")
    if foreign and tokens[at].self_closing:
        return at + 1
    inside = [element]
    number = Counter(inside)
    holders = 0
    for index in range(at + 1, len(tokens)):
        token = tokens[index]
        tag = token.tag
        if token.kind == "start" and tag not in _VOID:
            if not holders and tag in _ENDED_BY.get(element, ()):
                return index
            if not (foreign and token.self_closing):
                inside.append(tag)
                number[tag] += 1
                holders += tag in _HOLDS_SUCH
        elif token.kind == "end" and number[tag]:
            while True:
                last = inside.pop()
                number[last] -= 1
                holders -= last in _HOLDS_SUCH
                if last == tag:
                    break
            if not inside:
                return index + 1
        elif token.kind == "end" and opened.get(tag):
            return index
    return len(tokens)


def _is_inline(token: Token) -> bool:
    if token.kind in ("start", "end"):
        return token.tag in _INLINE or "-" in token.tag
    return token.kind in ("text", "comment", "cdata") or token.source == "</>"


def _item(source: str, token: Token, end: int, kept: bool) -> _Item:
    if token.kind == "text":
        return _text(source, token.start, token.end)
    if token.kind == "end":
        return _Item("close", token.start, end, token.tag)
    if token.kind == "start" and not (kept or token.tag in _VOID | _SKIPPED):
        return _Item("open", token.start, end, token.tag)
    shown = token.kind == "start" and (kept or token.tag in _CODE)
    return _Item("void", token.start, end, shown=shown)


def _text(source: str, start: int, end: int) -> _Item:
    worded = _inner(source, start, end) != (end, end)
    return _Item("text", start, end, worded=worded, shown=worded)


def _inner(source: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without white space around it."""
    while start < end:
        if source[start].isspace():
            start += 1
        elif source.startswith(_NO_BREAK_SPACE, start, end):
            start += len(_NO_BREAK_SPACE)
        else:
            break
    while start < end:
        if source[end - 1].isspace():
            end -= 1
        elif source.endswith(_NO_BREAK_SPACE, start, end):
            end -= len(_NO_BREAK_SPACE)
        else:
            break
    return start, end


def _run_blocks(source: str, run: Sequence[_Item]) -> Iterator[tuple[int, Block]]:
    """The block of a run, with its place, if there is a letter in it."""
    if not any(item.worded for item in run):
        return
    items = _merged(run)
    pairs = _pairs(items)
    first, last = 0, len(items) - 1
    while first <= last:
        if not items[first].shown and first not in pairs:
            first += 1
        elif not items[last].shown and last not in pairs:
            last -= 1
        elif pairs.get(first) == last:
            first, last = first + 1, last - 1
        else:
            break
    inner = items[first : last + 1]
    for index in {0, len(inner) - 1} if inner else ():
        if inner[index].kind == "text":
            start, end = inner[index].start, inner[index].end
            inner_start, inner_end = _inner(source, start, end)
            start = inner_start if index == 0 else start
            end = inner_end if index == len(inner) - 1 else end
            inner[index] = _Item("text", start, end)
    texts = {index: _decoded(source[item.start : item.end]) for index, item in enumerate(inner) if item.kind == "text"}
    if any(map(str.isalpha, "".join(texts.values()))):
        yield inner[0].start, _block(source, inner, texts)


def _pairs(items: Sequence[_Item]) -> dict[int, int]:
    """Which item is whose partner, both ways."""
    pairs = {}
    opened: list[int] = []
    number: Counter[str] = Counter()
    for index, item in enumerate(items):
        if item.kind == "open":
            opened.append(index)
            number[item.tag] += 1
        elif item.kind == "close" and number[item.tag]:
            while True:
                partner = opened.pop()
                number[items[partner].tag] -= 1
                if items[partner].tag == item.tag:
                    break
            pairs[partner], pairs[index] = index, partner
    return pairs


def _merged(items: Sequence[_Item]) -> list[_Item]:
    """The items with one void for each pair that has no text in it."""
    pairs = _pairs(items)
    worded = [0, *accumulate(item.worded for item in items)]
    shown = [0, *accumulate(item.shown for item in items)]
    merged = []
    at = 0
    while at < len(items):
        end = pairs.get(at, at)
        if at < end and worded[at] == worded[end]:
            merged.append(_Item("void", items[at].start, items[end].end, shown=shown[at] < shown[end]))
            at = end
        else:
            merged.append(items[at])
        at += 1
    return merged


def _block(source: str, items: Sequence[_Item], texts: Mapping[int, str]) -> Block:
    pairs = _pairs(items)
    whole = source[items[0].start : items[-1].end]
    name_spaces = _NO_BREAK_SPACE in whole
    numbers = marks.free_numbers("".join(texts.values()))
    number_of: dict[int, int] = {}
    pieces = []
    tags: dict[int, tuple[str, str]] = {}
    spelling: dict[str, str] = {}
    for index, item in enumerate(items):
        written = source[item.start : item.end]
        if item.kind == "text":
            text = texts[index]
            pieces.append(text)
            if not _LOOSE_END.search(written) and _escaped(text, TEXT, name_spaces) != written:
                spelling.setdefault(text, written)
        elif index in number_of:
            pieces.append(f"</s{number_of[index]}>")
        else:
            number = next(numbers)
            partner = pairs.get(index)
            closing = ""
            if partner is not None:
                number_of[partner] = number
                closing = source[items[partner].start : items[partner].end]
            pieces.append(f"<s{number}>" if closing else f"<s{number}></s{number}>")
            tags[number] = (written, closing)
    return Block("".join(pieces), whole, TEXT, tags, spelling)


def _attribute_blocks(source: str, token: Token) -> Iterator[tuple[int, Block]]:
    attributes: dict[str, Attribute] = {}
    for attribute in token.attributes:
        attributes.setdefault(attribute.name, attribute)
    values = {
        name: _decoded_attribute(source[attribute.start : attribute.end]) for name, attribute in attributes.items()
    }
    read = set(_READ_ATTRIBUTES)
    if token.tag == "meta" and any(values.get(key, "").strip().lower() in _READ_META for key in ("name", "property")):
        read.add("content")
    if token.tag == "input" and values.get("type", "").strip().lower() in _READ_INPUTS:
        read.add("value")
    for name in values.keys() & read:
        attribute = attributes[name]
        if any(map(str.isalpha, values[name])):
            written = source[attribute.start : attribute.end]
            yield attribute.start, Block(values[name], written, _FORMS[attribute.quote])


def _decoded(written: str) -> str:
    """What a reader reads; a line break and the blanks around it are one space."""
    return unescape(_SPACE.sub(_one_space, written)).replace("\0", "")


def _one_space(space: re.Match[str]) -> str:
    return " " if "\n" in space[0] or "\r" in space[0] else space[0]


def _decoded_attribute(written: str) -> str:
    text = _SPACE.sub(_one_space, written).replace("\0", "")
    return _ENTITY.sub(_attribute_entity, text) if "&" in text else text


def _attribute_entity(entity: re.Match[str]) -> str:
    """In an attribute `&copy2` and `&copy=` are not ©: they are taken for parts of an address."""
    if entity["name"] is None:
        return unescape(entity[0])
    end = entity["end"]
    character = html5.get(entity["name"] + ";" * (end == ";"))
    return entity[0] if character is None or end == "=" else character
