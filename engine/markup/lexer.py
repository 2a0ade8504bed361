"""Cut HTML into tokens that tile it: their sources joined are the text again, byte for byte. Knows no tree.

It reads as the WHATWG tokenizer does, errors included. What that leaves to the tree is guessed from the tags alone:
whether svg or math is open. Every input takes time in proportion to its length.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

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
_NAME = rf"[^{_SPACE}/>][^{_SPACE}/>=]*+"
_EQUALS = rf"[{_SPACE}]*+=[{_SPACE}]*+"
_BARE = rf"[^{_SPACE}>\"'][^{_SPACE}>]*+"
_MARKUP = re.compile(  # a tag without a gap is cut off by the end of the text
    rf"<(?:(?P<close>/?)(?P<name>[A-Za-z][^{_SPACE}/>]*+)"
    rf"(?:(?:[{_SPACE}/]*+{_NAME}(?:{_EQUALS}(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|{_BARE})?+)?+)*+"
    rf"(?P<gap>[{_SPACE}/]*+)>)?+"
    rf"|[!?]|/(?=[\s\S]))"
)
_ATTRIBUTE = re.compile(
    rf"[{_SPACE}/]*+(?P<name>{_NAME})(?:{_EQUALS}(?:\"(?P<double>[^\"]*+)\"|'(?P<single>[^']*+)'|(?P<bare>{_BARE}|)))?+"
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


class Attribute(NamedTuple):
    """`start` and `end` are those of the value without quotes; both are where the name ends if there is no value."""

    name: str
    start: int
    end: int
    quote: str  # the empty string where there is none


class Token(NamedTuple):
    kind: Kind
    start: int
    end: int
    tag: str = ""  # in lower case; for the text of a raw or rcdata element, the element's
    self_closing: bool = False


def lex(source: str) -> Iterator[Token]:
    size = len(source)
    done = 0  # before it all is in a token
    foreign = _Foreign(source)
    while match := _MARKUP.search(source, done):
        start, end = match.span()
        if done < start:
            yield Token("text", done, start)
        close, name, gap = match.groups()
        if name is None:
            token = _declaration(source, start, foreign.inside)
        elif gap is None:
            token = Token("junk", start, size)
        else:
            token = Token("end" if close else "start", start, end, _lower(name), gap.endswith("/"))
        yield token
        done = token.end
        if token.kind == "end":
            foreign.end(token.tag)
        elif token.kind == "start" and foreign.start(token) and token.tag in _UNTAGGED:
            done = _content_end(source, done, token.tag)
            if token.end < done:
                yield Token("raw" if token.tag in RAW else "rcdata", token.end, done, token.tag)
    if done < size:
        yield Token("text", done, size)


def attributes(source: str, token: Token) -> Iterator[Attribute]:
    """Those of a start tag, in order, doubles too."""
    at = token.start + 1 + len(token.tag)
    while match := _ATTRIBUTE.match(source, at, token.end - 1):
        at = match.end()
        name = _lower(match["name"])
        for group, quote in (("double", '"'), ("single", "'"), ("bare", "")):
            if match[group] is not None:
                yield Attribute(name, *match.span(group), quote)
                break
        else:
            yield Attribute(name, at, at, "")


def _lower(name: str) -> str:
    return name.lower() if name.isascii() else name.translate(_ASCII_LOWER)


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
    return Token(kind, start, end)


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

    def __init__(self, source: str) -> None:
        self._source = source
        self._open: list[str] = []
        self._count: Counter[str] = Counter()  # of each in `_open`, so that none is looked for in vain

    @property
    def inside(self) -> bool:
        return bool(self._open) and self._open[-1] in _FOREIGN

    def start(self, token: Token) -> bool:
        """Open it if it matters here; whether it is an element of HTML."""
        tag = token.tag
        if not self._open and tag not in _FOREIGN:
            return True
        if self.inside and (tag in _ENDS_FOREIGN or (tag == "font" and self._sets_font(token))):
            while self.inside:
                self._pop()
        html = not self.inside
        if not token.self_closing and (tag in _FOREIGN or (self.inside and tag in _HTML_INSIDE[self._open[-1]])):
            self._open.append(tag)
            self._count[tag] += 1
        return html

    def end(self, tag: str) -> None:
        if not self._open:
            return
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

    def _sets_font(self, token: Token) -> bool:
        return any(one.name in ("color", "face", "size") for one in attributes(self._source, token))
