"""XML as places in its source, read safely: no entity, no DTD, no network. It knows vocabularies by name alone.

Expat says whether a part is well formed; tags are then found in the text, so that an element is a span of it. Only the
elements asked for are built, one after the other: a part of 100 MB costs no tree of 100 MB. What is never written back
is a stream of lxml's elements.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from html import unescape
from typing import Protocol
from xml.parsers import expat

from lxml import etree

from engine.documents.encoding import Decoded, decode
from engine.errors import BadDocument

MOST_NESTED = 256  # libxml2 stops there, and with it most other readers
MOST_ELEMENTS = 1_000_000  # in one element that is asked for: some 300 MB of nodes

LANG = "{http://www.w3.org/XML/1998/namespace}lang"  # xml:lang, as lxml calls it
DAMAGED = (etree.LxmlError, LookupError)  # what `streamed` raises; the latter: an encoding that is none

_OFFICE = "http://schemas.openxmlformats.org/"
_STRICT = "http://purl.oclc.org/ooxml/"  # ISO/IEC 29500 Strict
NAMESPACES = {
    f"{_OFFICE}wordprocessingml/2006/main": "w",
    f"{_STRICT}wordprocessingml/main": "w",
    f"{_OFFICE}drawingml/2006/main": "a",
    f"{_STRICT}drawingml/main": "a",
    f"{_OFFICE}drawingml/2006/chart": "c",
    f"{_STRICT}drawingml/chart": "c",
    f"{_OFFICE}presentationml/2006/main": "p",
    f"{_STRICT}presentationml/main": "p",
    f"{_OFFICE}spreadsheetml/2006/main": "s",
    f"{_STRICT}spreadsheetml/main": "s",
    f"{_OFFICE}officeDocument/2006/math": "m",
    f"{_STRICT}officeDocument/math": "m",
    f"{_OFFICE}package/2006/content-types": "types",
    f"{_OFFICE}package/2006/relationships": "rels",
    "http://schemas.microsoft.com/office/spreadsheetml/2018/threadedcomments": "threads",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://www.idpf.org/2007/opf": "opf",
    "http://www.daisy.org/z3986/2005/ncx/": "ncx",
    "urn:oasis:names:tc:opendocument:xmlns:container": "container",
    "http://www.w3.org/2001/04/xmlenc#": "enc",
}

_TAG = re.compile(
    r"""<(?:!--.*?-->|!\[CDATA\[.*?\]\]>|\?.*?\?>|![^>]*>
        |(?P<closes>/?)(?P<tag>[^\s/>]++)(?P<rest>[^>"']*+(?:(?:"[^"]*+"|'[^']*+')[^>"']*+)*+)>)""",
    re.DOTALL | re.VERBOSE,
)
_DECLARATION = re.compile(r"""\sxmlns(?::([^\s=]+))?\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_ATTRIBUTE = re.compile(r"""\s(?:[^\s=:]+:)?([^\s=:]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_UNTAGGED = re.compile(r"<!--.*?-->|<\?.*?\?>|<!\[CDATA\[(?P<characters>.*?)\]\]>", re.DOTALL)
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(slots=True)
class Node:
    """An element, by its places: `<tag>` from start to inside, its content to rest, `</tag>` to end."""

    name: str  # with our prefix: "w:p"; ":p" where the namespace is none of ours
    tag: str  # as it is written: "w:p", "p"
    start: int
    inside: int
    rest: int = 0
    end: int = 0
    inner: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a package, as text."""

    name: str
    source: str
    decoded: Decoded

    def encoded(self, source: str) -> bytes:
        """The part with another source, in its own encoding."""
        return self.decoded.bom + source.encode(self.decoded.encoding, "xmlcharrefreplace")


def read(data: bytes, name: str, *, may_name_dtd: bool = False) -> Part:
    """A part that is well formed. Raises `BadDocument`. A DTD is never fetched, and may declare nothing on the spot."""

    def doctype(_root: str, _system: str | None, _public: str | None, declares: bool) -> None:
        if declares or not may_name_dtd:
            raise BadDocument(
                f"{name} has a DOCTYPE, by which a file can pull in others; take it out, or save the file anew."
            )

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter: an encoding that is none
        raise BadDocument(
            f"{name} is damaged: {error}. Open the file where it was made, save it anew and send that."
        ) from error
    decoded = decode(data)
    if data.isascii():
        decoded = Decoded(decoded.text, "ascii" if decoded.encoding.startswith("cp") else decoded.encoding)
    elif not decoded.encoding.startswith("utf-"):
        raise BadDocument(f"{name} is in {decoded.encoding}; its format asks for UTF-8. Save the file anew.")
    return Part(name, decoded.text, decoded)


def elements(part: Part, names: Collection[str]) -> Iterator[Node]:
    """The outermost elements of these names, in order, each with all in it. Raises `BadDocument` for bounds."""
    prefixes: dict[str, str] = {}
    known: dict[str, str] = {}  # tags as written → our names, in the scope
    scopes: list[tuple[int, dict[str, str], dict[str, str]]] = []  # (depth, what was before)
    opened: list[Node] = []
    depth = count = 0
    for found in _TAG.finditer(part.source):
        closes, tag, rest = found.groups()
        if tag is None:
            continue
        if closes:
            depth -= 1
            if scopes and scopes[-1][0] == depth:
                _, prefixes, known = scopes.pop()
            if opened:
                node = opened.pop()
                node.rest, node.end = found.span()
                if not opened:
                    yield node
            continue
        alone = rest.endswith("/")
        before = prefixes, known
        if "xmlns" in rest and (declared := _declared(rest)):
            prefixes, known = prefixes | declared, {}
            if not alone:
                scopes.append((depth, *before))
        name = known.get(tag)
        if name is None:
            prefix, _, local = tag.rpartition(":")
            name = known[tag] = f"{prefixes.get(prefix, '')}:{local}"
        if opened or name in names:
            count = count + 1 if opened else 1
            node = Node(name, tag, found.start(), found.end(), found.end(), found.end())
            if opened:
                opened[-1].inner.append(node)
            if not alone:
                opened.append(node)
            elif not opened:
                yield node
        if alone:
            prefixes, known = before
        else:
            depth += 1
        if depth > MOST_NESTED or count > MOST_ELEMENTS:
            what = f"{depth:,} deep" if depth > MOST_NESTED else f"around {count:,} elements"
            raise BadDocument(f"{part.name} is nested {what}; no program writes such. Save the file anew.")


def walk(node: Node) -> Iterator[Node]:
    """The element and all in it, in order."""
    following = [node]
    while following:
        node = following.pop()
        yield node
        following += reversed(node.inner)


def attributes(part: Part, node: Node) -> dict[str, str]:
    """By their names without a prefix."""
    tag = part.source[node.start : node.inside]
    return {name: unescape(double or single) for name, double, single in _ATTRIBUTE.findall(tag)}


def text_of(part: Part, node: Node) -> str:
    """What a reader reads in an element that holds no other."""
    written = part.source[node.inside : node.rest]
    if "<" in written:
        written = _UNTAGGED.sub(lambda found: (found["characters"] or "").translate(_ESCAPES), written)
    if "\r" in written:
        written = written.replace("\r\n", "\n").replace("\r", "\n")
    return unescape(written) if "&" in written else written


def streamed(file: Readable, names: Collection[str]) -> Iterator[etree._Element]:
    """The root, of which only attributes are there yet, and each element within, which is gone after its turn; both
    where their names are among these, in any namespace. Raises `DAMAGED`. A DTD may be named, and is never fetched."""
    following = etree.iterparse(
        file,
        events=("start", "end"),
        tag=[f"{{*}}{name}" for name in names],
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    for event, element in following:
        if event == "start" and element.getparent() is None:
            yield element
        elif event == "end" and element.getparent() is not None:
            yield element
            element.clear()
            while (before := element.getprevious()) is not None:
                element.getparent().remove(before)


def local_name(element: etree._Element) -> str:
    """Without its namespace. What stands for an entity is no element to us, and has none."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def escaped(text: str) -> str:
    return allowed(text).translate(_ESCAPES)


def allowed(text: str) -> str:
    """The text without the characters that XML cannot hold."""
    return _FORBIDDEN.sub("", text)


def _declared(rest: str) -> dict[str, str]:
    found = _DECLARATION.findall(rest)
    return {prefix: NAMESPACES.get(unescape(double or single), "") for prefix, double, single in found}
