"""Cut HTML into tokens that tile it: their sources joined are the text again, byte for byte. Knows no tree.

It reads as the WHATWG tokenizer does, errors included. What that leaves to the tree is guessed from the tags alone:
whether svg or math is open. Every input takes time in proportion to its length.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal[
    "text",
    "start",
    "end",
    "comment",  # and what is read as one: <?php?>, <!x>, </ x>
    "doctype",
    "raw",  # of script, style, …: no entities, no tags
    "rcdata",  # of title and textarea: entities, no tags
    "cdata",  # in svg and math
    "junk",  # dropped by every reader: </>, a tag that the end of the text cuts off
]

RAW = frozenset({"script", "style", "xmp", "iframe", "noembed", "noframes", "plaintext"})
RCDATA = frozenset({"title", "textarea"})
_UNTAGGED = RAW | RCDATA

_SPACE = r"\t\n\f\r "
_MARKUP = re.compile(rf"<(?:(?P<close>/?)(?P<name>[A-Za-z][^{_SPACE}/>]*+)|[!?]|/(?=[\s\S]))")
_GAP = re.compile(rf"[{_SPACE}/]*+")
_ATTRIBUTE = re.compile(
    rf"(?P<name>[^{_SPACE}/>][^{_SPACE}/>=]*+)"
    rf"(?P<equals>[{_SPACE}]*+=[{_SPACE}]*+"
    rf"(?:\"(?P<double>[^\"]*+)\"?|'(?P<single>[^']*+)'?|(?P<bare>(?:[^{_SPACE}>\"'][^{_SPACE}>]*+)?)))?"
)
_COMMENT_END = re.compile(r"--!?>")
_SCRIPT = re.compile(rf"<!--|-->|(?P<close></)script(?=[{_SPACE}/>])|<script(?=[{_SPACE}/>])", re.IGNORECASE | re.ASCII)
_ASCII_LOWER = str.maketrans({chr(letter): chr(letter + 32) for letter in range(ord("A"), ord("Z") + 1)})

_FOREIGN = frozenset({"svg", "math"})
_HTML_INSIDE = {  # elements of svg and math whose content is HTML
    "svg": frozenset({"foreignobject", "desc", "title"}),
    "math": frozenset({"mi", "mo", "mn", "ms", "mtext", "annotation-xml"}),
}
_ENDS_FOREIGN = frozenset(
    """b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing menu meta
    nobr ol p pre ruby s small span strong strike sub sup table tt u ul var""".split()
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """`start` and `end` are those of the value without quotes; both are where the name ends if there is no value."""

    name: str
    name_start: int
    name_end: int
    start: int
    end: int
    quote: str  # the empty string where there is none


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    start: int
    end: int
    source: str
    tag: str = ""  # in lower case; for the text of a raw or rcdata element, the element's
    attributes: tuple[Attribute, ...] = ()
    self_closing: bool = False


def lex(source: str) -> Iterator[Token]:
    size = len(source)
    done = at = 0  # before `done` all is in a token, up to `at` is text
    foreign = _Foreign()
    while match := _MARKUP.search(source, at):
        start = match.start()
        if done < start:
            yield Token("text", done, start, source[done:start])
        token = _tag(source, match) if match["name"] else _declaration(source, start, foreign.inside)
        yield token
        done = at = token.end
        if token.kind == "end":
            foreign.end(token.tag)
        elif token.kind == "start" and foreign.start(token) and token.tag in _UNTAGGED:
            done = at = _content_end(source, at, token.tag)
            if token.end < at:
                kind: Kind = "raw" if token.tag in RAW else "rcdata"
                yield Token(kind, token.end, at, source[token.end : at], token.tag)
    if done < size:
        yield Token("text", done, size, source[done:])


def _tag(source: str, match: re.Match[str]) -> Token:
    start, size = match.start(), len(source)
    attributes: list[Attribute] = []
    gap = _GAP.match(source, match.end())
    while gap and gap.end() < size:
        at = gap.end()
        if source[at] == ">":
            return Token(
                "end" if match["close"] else "start",
                start,
                at + 1,
                source[start : at + 1],
                match["name"].translate(_ASCII_LOWER),
                tuple(attributes),
                gap[0].endswith("/"),
            )
        if attribute := _ATTRIBUTE.match(source, at):  # always
            attributes.append(_attribute(source, attribute))
            gap = _GAP.match(source, attribute.end())
    return Token("junk", start, size, source[start:])


def _attribute(source: str, match: re.Match[str]) -> Attribute:
    name_start, name_end = match.span("name")
    name = match["name"].translate(_ASCII_LOWER)
    for group, quote in (("double", '"'), ("single", "'"), ("bare", "")):
        if match[group] is not None:
            return Attribute(name, name_start, name_end, *match.span(group), quote)
    return Attribute(name, name_start, name_end, name_end, name_end, "")


def _declaration(source: str, start: int, foreign: bool) -> Token:
    """The token at a `<` with `!`, `?` or `/` behind it that is no tag."""
    kind: Kind = "comment"
    if source.startswith("<!--", start):
        if source.startswith((">", "->"), start + 4):
            end = source.index(">", start) + 1
        else:
            match = _COMMENT_END.search(source, start + 4)
            end = match.end() if match else len(source)
    elif foreign and source.startswith("<![CDATA[", start):
        kind = "cdata"
        end = source.find("]]>", start) + 3
        end = end if end > 2 else len(source)
    else:
        if source[start : start + 9].lower() == "<!doctype":
            kind = "doctype"
        elif source.startswith("</>", start):
            kind = "junk"
        end = source.find(">", start) + 1 or len(source)
    return Token(kind, start, end, source[start:end])


def _content_end(source: str, start: int, tag: str) -> int:
    """Where the text of a raw or rcdata element ends that begins at `start`."""
    if tag == "plaintext":
        return len(source)
    if tag == "script":
        return _script_end(source, start)
    match = _end_tag(tag).search(source, start)
    return match.start() if match else len(source)


@lru_cache
def _end_tag(tag: str) -> re.Pattern[str]:
    return re.compile(rf"</{tag}(?=[{_SPACE}/>])", re.IGNORECASE | re.ASCII)


def _script_end(source: str, start: int) -> int:
    """Inside `<!-- <script>` a first `</script>` does not end it, but a second one or one after `-->` does."""
    commented = nested = False
    while match := _SCRIPT.search(source, start):
        start = match.end()
        if match[0] == "<!--":
            commented = True
            start -= 2  # its dashes may be those of -->
        elif match[0] == "-->":
            commented = nested = False
        elif not match["close"]:
            nested = commented
        elif nested:
            nested = False
        else:
            return match.start()
    return len(source)


class _Foreign:
    """Whether svg or math is open, where `<title>` and `<style>` are tags like others and CDATA is known."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._count: Counter[str] = Counter()  # of each in `_open`, so that none is looked for in vain

    @property
    def inside(self) -> bool:
        return bool(self._open) and self._open[-1] in _FOREIGN

    def start(self, token: Token) -> bool:
        """Open it if it matters here; whether it is an element of HTML."""
        tag = token.tag
        if self.inside and (tag in _ENDS_FOREIGN or (tag == "font" and _sets_font(token))):
            while self.inside:
                self._pop()
        html = not self.inside
        if not token.self_closing and (tag in _FOREIGN or (self.inside and tag in _HTML_INSIDE[self._open[-1]])):
            self._open.append(tag)
            self._count[tag] += 1
        return html

    def end(self, tag: str) -> None:
        if self._count[tag]:
            while self._pop() != tag:
                pass
        elif tag in _ENDS_FOREIGN:
            while self.inside:
                self._pop()

    def _pop(self) -> str:
        tag = self._open.pop()
        self._count[tag] -= 1
        return tag


def _sets_font(token: Token) -> bool:
    return any(attribute.name in ("color", "face", "size") for attribute in token.attributes)
