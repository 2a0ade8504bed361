"""Whether a rebuilt document still has the structure of its source, as readers other than our parsers see it.

html5lib reads HTML, pulldown-cmark (pyromark) Markdown and expat XML; none shares a line with what cuts the source, but
for how expat is given a fragment. A skeleton is what they find without the text. Plain text has none. It knows nothing
of models or of why a text is as it is.

Declared changes make no difference: attributes that are read, `lang` and `dir` of `<html>`, titles of links, values of
front matter, soft line ends, and `<em>`, `<strong>` and `<del>` for emphasis in Markdown. Within a block a translation
may put inline things in another order; `at_fault` allows that.

Limits: pulldown-cmark has no `:::` containers, `!!!` boxes, `^[…]` and templates, and its definitions are not ours. It
reads them as text, and what boxes and definitions hold as code; so where there are such, indented code may change.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html.entities import html5
from typing import Any
from xml.parsers import expat

import pyromark
from html5lib._tokenizer import HTMLTokenizer
from html5lib.constants import tokenTypes
from html5lib.html5parser import HTMLParser
from html5lib.treebuilders.base import Node, TreeBuilder

from engine.markup import xml
from engine.markup.parse import Markup
from engine.markup.spans import rebuild
from engine.types import Block, Document

MOST_CHARACTERS = 5_000_000  # of a document; html5lib reads 3.4 MB a second, pulldown-cmark with all around it 13
MOST_VERIFICATIONS = 256  # for one document
MOST_CHARACTERS_IN_ALL = 20_000_000  # of all its verifications: some 4 s of Markdown, 15 s of HTML
MOST_STATES_A_TOKEN = 5_000  # html5lib takes quadratic time within a token of very many attributes or dashes
MOST_OPEN_A_CHARACTER = 4  # it looks through them for many a tag; of pages that people write 0.04 to 0.25
OPEN_ALLOWANCE = 200_000  # for short documents: 600 nested tags

Skeleton = tuple[str, ...]  # "(x" opens, ")x" closes, TEXT is text that a reader sees, all else stands alone
TEXT = "…"

_CHARACTERS = frozenset({tokenTypes["Characters"], tokenTypes["SpaceCharacters"]})
_START, _END, _COMMENT = tokenTypes["StartTag"], tokenTypes["EndTag"], tokenTypes["Comment"]
_PARSE_ERROR = tokenTypes["ParseError"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_READ = frozenset("title alt placeholder aria-label aria-description label summary".split())
_READ_OF = {"meta": _READ | {"content"}, "input": _READ | {"value"}}
_ADDED_TO_HTML = frozenset({"lang", "dir"})
_VERBATIM = frozenset("script style textarea xmp iframe noembed noframes pre code kbd samp var".split())
_VOID = frozenset("area base br col embed frame hr img input keygen link meta param source track wbr".split())
_BLANK = "\t\n\f\r \0"  # what makes no difference to a tree of HTML

_ENTITY = re.compile(rf"{xml.UNKNOWN}[^\W\d][\w.:-]*+;")
_CDATA_START, _CDATA_END = "<![CDATA[", "]]>"

DIALECT = (
    pyromark.Options.ENABLE_TABLES
    | pyromark.Options.ENABLE_STRIKETHROUGH
    | pyromark.Options.ENABLE_FOOTNOTES
    | pyromark.Options.ENABLE_TASKLISTS
    | pyromark.Options.ENABLE_MATH
    | pyromark.Options.ENABLE_HEADING_ATTRIBUTES
    | pyromark.Options.ENABLE_GFM
)
_EMPHASIS = {
    "<em>": "(Emphasis", "</em>": ")Emphasis", "<strong>": "(Strong", "</strong>": ")Strong",
    "<del>": "(Strikethrough", "</del>": ")Strikethrough",
}  # fmt: skip
_READ_IN_TAG = re.compile(rf"\s(?:{'|'.join(sorted(_READ))})\s*=", re.IGNORECASE)
_FRONT_MATTER = re.compile(  # pulldown-cmark would find it between any two rules
    r"---[ \t]*\n(?:[ \t]*(?:#[^\n]*)?\n)*[\w\"'.-][^\n:]*:(?s:.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)"
    r"|\+\+\+[ \t]*\n(?s:.*?)\n\+\+\+[ \t]*(?:\n|\Z)"
)
_BOX = re.compile(r"^[ \t]*(?:!!!|\?\?\?|[:~][ \t])", re.MULTILINE)
_KEY = re.compile(r"^[\w.\"'-]+(?=[ \t]*[:=])", re.MULTILINE)


class Unverifiable(Exception):
    """The verifier gave up: too much to read, or a fault of its own. It says nothing of the document."""


def skeleton(markup: Markup, source: str) -> Skeleton:
    """What another reader finds in `source` but the text, in order. Raises `Unverifiable`."""
    if markup == "text":
        return ()
    if len(source) > MOST_CHARACTERS:
        raise Unverifiable(f"{len(source)} characters are more than {MOST_CHARACTERS}.")
    source = _SURROGATE.sub("\ufffd", source.replace("\r\n", "\n")).removeprefix("\ufeff")
    try:
        return tuple(_READERS[markup](source))
    except Unverifiable:
        raise
    except Exception as error:  # whatever a reader of all the world's markup trips over is no fault of the translation
        raise Unverifiable(f"{type(error).__name__}: {error}") from error


def at_fault(
    markup: Markup, document: Document, write: Callable[[Block, str], str], texts: Sequence[str]
) -> list[int] | None:
    """The fewest blocks, by their numbers, that must keep their source for the document to keep its skeleton.

    Found by halving: one verification where there is none, some log2(blocks) more for each. After `MOST_VERIFICATIONS`,
    or as many as read `MOST_CHARACTERS_IN_ALL`, whatever is not known to be right counts as at fault. None where the
    source itself cannot be verified: it is too long or too deeply nested, or the reader failed. `write` is called for
    every block each time, so hand in one that is `spans.remembering`.
    """
    good = [block.text for block in document.blocks]  # texts that were verified together
    changed = [index for index, text in enumerate(texts) if text != good[index]]
    if markup == "text" or not changed:
        return []
    source = rebuild(document, write, good)
    try:
        wanted = skeleton(markup, source)
    except Unverifiable:
        return None
    left = min(MOST_VERIFICATIONS, MOST_CHARACTERS_IN_ALL // (len(source) + 1))
    faults: list[int] = []

    def settle(stretch: list[int], faulty: bool) -> bool:
        """Take the texts of a stretch that are right, and say whether one was not. `faulty`: one is known not to be."""
        nonlocal good, left
        if not faulty:
            if not left:
                faults.extend(stretch)
                return True
            left -= 1
            trial = list(good)
            for index in stretch:
                trial[index] = texts[index]
            if _has(wanted, markup, rebuild(document, write, trial)):
                good = trial
                return False
        if len(stretch) == 1:
            faults.append(stretch[0])
            return True
        middle = len(stretch) // 2
        found = settle(stretch[:middle], False)
        settle(stretch[middle:], not found)
        return True

    settle(changed, False)
    return faults


def _has(wanted: Skeleton, markup: Markup, rebuilt: str) -> bool:
    try:
        found = skeleton(markup, rebuilt)
    except Unverifiable:  # the source was not
        return False
    return found == wanted or unordered(found) == unordered(wanted)


def unordered(items: Skeleton) -> int:
    """The same for two skeletons whose parts lie in each other in the same way, in whatever order; text or none.

    What is not closed holds nothing, as a tag that a parser of ours finds without its partner.
    """
    names, levels = [""], [list[int]()]
    opened: Counter[str] = Counter()  # how many of a name, so that a stray end costs nothing
    for item in items:
        name = item[1:].partition(" ")[0]
        if item.startswith("("):
            names.append(item[1:])
            levels.append([])
            opened[name] += 1
        elif item.startswith(")") and opened[name]:
            while names[-1].partition(" ")[0] != name:
                opened[_leave_open(names, levels)] -= 1
            inside = hash((names.pop(), *sorted(levels.pop())))
            levels[-1].append(inside)
            opened[name] -= 1
        elif item != TEXT:
            levels[-1].append(hash(item))
    while len(names) > 1:
        _leave_open(names, levels)
    return hash(tuple(sorted(levels[0])))


def _leave_open(names: list[str], levels: list[list[int]]) -> str:
    """Put what the innermost element holds beside it; its name."""
    name, inside = names.pop(), levels.pop()
    if len(inside) > len(levels[-1]):  # so that this takes no quadratic time
        inside, levels[-1] = levels[-1], inside
    levels[-1] += [*inside, hash(name)]
    return name.partition(" ")[0]


# ---------------------------------------------------------------------------------------------------------------------
# HTML


def _html(source: str) -> list[str]:
    """The tokens that html5lib finds. Two documents of the same tokens have the same tree, which is not kept."""
    return _Parser().tokens(source)


class _Element(Node):
    """As little of an element as html5lib needs to know how to read on."""

    def __init__(self, name: str, namespace: str | None = None) -> None:
        super().__init__(name)
        self.namespace = namespace
        self.nameTuple = (namespace or "http://www.w3.org/1999/xhtml", name)
        self._filled = False

    def appendChild(self, node: Node) -> None:
        self._filled = True
        node.parent = self

    def insertBefore(self, node: Node, refNode: Node) -> None:
        self.appendChild(node)

    def insertText(self, data: str, insertBefore: Node | None = None) -> None:
        self._filled = True

    def removeChild(self, node: Node) -> None:
        node.parent = None

    def reparentChildren(self, newParent: Node) -> None:
        pass

    def cloneNode(self) -> "_Element":  # type: ignore[override]
        clone = _Element(self.name, self.namespace)
        clone.attributes = self.attributes
        return clone

    def hasContent(self) -> bool:  # type: ignore[override]
        return self._filled


class _Tree(TreeBuilder):
    elementClass = _Element

    def documentClass(self) -> _Element:
        return _Element("document")

    def commentClass(self, _data: str) -> _Element:
        return _Element("comment")

    def doctypeClass(self, _name: str, _public: str, _system: str) -> _Element:
        return _Element("doctype")


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(_Tree, namespaceHTMLElements=False)

    def tokens(self, source: str) -> list[str]:
        self.innerHTMLMode = self.scripting = False
        self.tokenizer: _Tokenizer = _Tokenizer(source, self)
        self.reset()
        self.mainLoop()
        return self.tokenizer.found

    def parseError(self, errorcode: str = "", datavars: object = None) -> None:
        """Looking for the place of each error would take most of the time."""


class _Tokenizer(HTMLTokenizer):
    """html5lib's, which notes what it gives to the parser."""

    def __init__(self, source: str, parser: _Parser) -> None:
        super().__init__(source, parser)
        self.found: list[str] = []
        self._text: list[str] = []
        self._tree = parser.tree
        self._open_allowed = OPEN_ALLOWANCE + MOST_OPEN_A_CHARACTER * len(source)

    def __iter__(self) -> Iterator[Any]:
        self.tokenQueue = deque()
        states = 0
        while self.state():
            self.stream.errors.clear()
            states += 1
            if states > MOST_STATES_A_TOKEN:
                raise Unverifiable("A tag or comment is too long.")
            while self.tokenQueue:
                token = self.tokenQueue.popleft()
                if token["type"] == _PARSE_ERROR:
                    continue
                states = 0
                self._note(token)
                yield token
                self._open_allowed -= len(self._tree.openElements)
                if self._open_allowed < 0:
                    raise Unverifiable("Too many elements are open at once.")
        self._end_text()

    def _note(self, token: Mapping[str, Any]) -> None:
        kind = token["type"]
        if kind in _CHARACTERS:
            self._text.append(token["data"])
            return
        name = token.get("name") or ""
        self._end_text(verbatim=kind == _END and name in _VERBATIM and self._begins_with(name))
        if kind == _START:
            read = _READ_OF.get(name, _READ)
            attributes = "".join(
                f" {key}" if key in read else f" {key}={value!r}"
                for key, value in sorted(token["data"].items())
                if name != "html" or key not in _ADDED_TO_HTML
            )
            self.found.append(f"{'<' if name in _VOID else '('}{name}{attributes}")
        elif kind == _END:
            self.found.append(f"){name}")
        elif kind == _COMMENT:
            self.found.append(f"<!--{token['data']}")
        else:
            self.found.append(f"<!{name} {token['publicId']} {token['systemId']}")

    def _begins_with(self, name: str) -> bool:
        return bool(self.found) and self.found[-1].split(" ", 1)[0] == f"({name}"

    def _end_text(self, verbatim: bool = False) -> None:
        text = "".join(self._text)
        self._text.clear()
        if verbatim and text:
            self.found.append(f"{TEXT}{text}")
        elif text.strip(_BLANK):
            self.found.append(TEXT)


# ---------------------------------------------------------------------------------------------------------------------
# XML


def _xml(source: str) -> list[str]:
    """Elements with all their attributes, comments, instructions, CDATA and entities, as expat finds them."""
    found: list[str] = []
    text: list[str] = []

    def note(item: str) -> None:
        said = "".join(text)
        text.clear()
        if item == _CDATA_END:
            found.append(f"<![CDATA[{said}")
            return
        found.extend(entity for entity in _ENTITY.findall(said) if entity[1:] not in html5)  # those are letters
        if _ENTITY.sub(lambda entity: entity[0] if entity[0][1:] in html5 else "", said).strip(_BLANK):
            found.append(TEXT)
        found.append(item)

    reader = expat.ParserCreate(encoding="utf-8")
    reader.StartElementHandler = lambda name, said: note(f"({name} {said}")
    reader.EndElementHandler = lambda name: note(f"){name}")
    reader.CommentHandler = lambda said: note(f"<!--{said}")
    reader.ProcessingInstructionHandler = lambda name, said: note(f"<?{name} {said}")
    reader.StartCdataSectionHandler = lambda: note(_CDATA_START)
    reader.EndCdataSectionHandler = lambda: note(_CDATA_END)
    reader.CharacterDataHandler = text.append
    reader.DefaultHandler = lambda said: note(f"<{said}")  # declarations, word for word
    start = xml.content_start(source)
    if xml.feed(reader, source, start) >= 0:
        raise Unverifiable("It is not well formed.")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Markdown


def _markdown(source: str) -> Iterator[str]:
    """pulldown-cmark's events, neighbouring text as one, HTML blocks as html5lib's tokens, and keys of front matter."""
    if front := _FRONT_MATTER.match(source):
        yield from _KEY.findall(front[0])
        source = source[front.end() :]
    boxes = bool(_BOX.search(source))
    verbatim: list[str] | None = None  # of code or HTML that is open
    text = False  # whether some was found since the last event of another kind
    for event in pyromark.events(source, options=DIALECT):
        kind, value = _named(event)
        if kind in ("Text", "Html") and verbatim is not None:
            verbatim.append(value)
        elif kind == "Text":
            text = text or not value.isspace()
        elif kind != "SoftBreak":
            if text:
                yield TEXT
            text = False
            name, about = _named(value) if kind in ("Start", "End") else ("", None)
            if kind == "Start":
                if name in _VERBATIM_BLOCKS and not (boxes and about == "Indented"):
                    verbatim = []
                yield f"({name}{_shown(name, about)}"
            elif kind == "End":
                if verbatim is not None:
                    yield from _VERBATIM_BLOCKS[name]("".join(verbatim))
                    verbatim = None
                yield f"){name}"
            elif kind == "InlineHtml":
                yield _inline_html(value)
            else:
                yield f"{kind} {' '.join(value.split()) if isinstance(value, str) else value}"


def _named(event: Any) -> tuple[str, Any]:
    """`{"Code": "x"}` → `("Code", "x")`, and `"Rule"` → `("Rule", None)`."""
    if isinstance(event, str):
        return event, None
    (named,) = event.items()
    return named  # type: ignore[no-any-return]


_VERBATIM_BLOCKS: dict[str, Callable[[str], list[str]]] = {
    "CodeBlock": lambda code: [f"{TEXT}{code}"],
    "HtmlBlock": _html,
}


def _shown(name: str, about: Any) -> str:
    """What else makes a difference of a thing that starts."""
    if name in ("Link", "Image"):
        return f" {about['dest_url']} {bool(about['title'])}"
    return "" if about is None else f" {about}"


def _inline_html(tag: str) -> str:
    if emphasis := _EMPHASIS.get(tag):
        return emphasis
    return f"<{''.join(_html(tag))}" if _READ_IN_TAG.search(tag) else " ".join(tag.split())


_READERS: dict[Markup, Callable[[str], Iterable[str]]] = {"html": _html, "markdown": _markdown, "xml": _xml}
