"""XLIFF 1.2 and 2.x: sources are translated into their targets, all else stays byte for byte.

Expat says whether the file is XML; elements are then found in the text, so that each is a span of it. What has a target
keeps it unless asked for, or unless its state says that it still waits; a unit that a person has approved always does.
A target that is written gets the state "translated", and loses what qualified the state before. `target` names the
language where the file does not: the one edit that is made even if no text changes.

Inline codes are marks: `g pc mrk` as pairs, and `bpt…ept bx…ex sc…ec sm…em` where they are well nested; what is in a
code is native to another format and stays, subflows included. Where the target holds a `mrk` for each segment of
`seg-source` (as Trados and memoQ write it), each is a block; else the unit is one, its segments pairs of marks.
Nothing else is known of a file: notes, matches, alternatives and metadata are never touched.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from engine.documents.file import Options
from engine.errors import BadDocument
from engine.markup import marks, plain
from engine.markup.spans import cut
from engine.types import Block, Document

MOST_NESTED = 256  # libxml2 stops there, and with it most other readers
MOST_CODES = 100_000  # in one unit, which else stays as it is: a mark's number has six digits at the most

_NO_OPTIONS = Options()
_TOKEN = re.compile(
    r"""<!--.*?--> | <\?.*?\?> | <!\[CDATA\[(?P<characters>.*?)\]\]>
      | <(?P<closes>/?)(?P<tag>[^\s/>!?]++)[^>"']*+(?:(?:"[^"]*+"|'[^']*+')[^>"']*+)*+>""",
    re.DOTALL | re.VERBOSE,
)
_ATTRIBUTE = re.compile(r"""\s([^\s=]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_REFERENCE = re.compile(r"&(?:#x([0-9A-Fa-f]+)|#([0-9]+)|(amp|lt|gt|quot|apos));")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_ESCAPED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_TO_ESCAPE = re.compile(r"[&<>]|\r(?!\n)")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2
_NAMESPACE = "urn:oasis:names:tc:xliff:document:"

_PAIRS = {"g", "pc", "mrk"}
_PARTNERS = {"bpt": "ept", "bx": "ex", "sc": "ec", "sm": "em"}
_STATES = {"state", "state-qualifier", "subState"}
_WAITING = {"new", "needs-translation", "needs-adaptation", "needs-l10n", "initial"}  # states of a target to be


@dataclass(slots=True)
class _Element:
    """An element by its places: `<tag …>` from start to inside, its content to rest, `</tag>` to end."""

    name: str  # without the prefix of XLIFF; that of another namespace is no name of ours
    tag: str  # the whole start tag
    start: int
    inside: int
    rest: int
    end: int
    kept: bool  # it or one around it says: not to be translated
    inner: list["_Element"] = field(default_factory=list)

    def __getitem__(self, attribute: str) -> str:
        found = _ATTRIBUTE.findall(self.tag) if attribute in self.tag else []
        return next((double or single for name, double, single in found if name == attribute), "")

    def child(self, name: str) -> "_Element | None":
        return next((element for element in self.inner if element.name == name), None)


class _Piece(NamedTuple):
    """A run of an element's content, or a code in it; an opening code and its closing one have the same key."""

    kind: Literal["run", "open", "close", "opener", "closer", "alone"]  # the first two of elements: they nest
    source: str
    key: tuple[str, str] = ("", "")


def parse_xliff(source: str, options: Options = _NO_OPTIONS) -> Document:
    """A block for each unit (1.2) or segment (2.x) that lacks its translation. Raises `BadDocument`."""
    _check(source)
    root = next(_opened(found, None, None) for found in _TOKEN.finditer(source) if found["tag"])
    version = root["version"]
    if root.name != "xliff" or version[:1] not in ("1", "2"):
        raise BadDocument(
            f"The file is no XLIFF 1 or 2: its root is <{root.name[:40]}>, version {version[:40] or 'unknown'}. "
            "Export it again as XLIFF."
        )
    if options.target:
        source = _with_target(source, version[0], options.target)
    return cut(source, _placed(source, version[0], options.retranslate))


def write_xliff(block: Block, text: str) -> str:
    if text == block.text:
        return block.source
    content = marks.restore(block, text, _escaped)
    source = block.source
    element = next(_elements(source, {"trans-unit", "segment", "mrk"}))
    if block.form == "mrk":
        return _filled(element.tag, content)
    original, target = element.child("source"), element.child("target")
    assert original is not None, "there was one to translate"
    after = element.child("seg-source") or original
    if target is None:
        prefix = element.tag[1:].split(maxsplit=1)[0].rpartition(":")
        tag = f"<{prefix[0]}{prefix[1]}target>"
        indent = source[len(source[: original.start].rstrip()) : original.start]
        target = _Element("target", tag, after.end, after.end, after.end, after.end, False)
    else:
        tag, indent = target.tag, ""
    if block.form == "1":
        tag = _translated(tag)
    source = source[: target.start] + indent + _filled(tag, content) + source[target.end :]
    return _translated(element.tag) + source[element.inside :] if block.form == "2" else source


def _check(source: str) -> None:
    depth = 0

    def doctype(*_: object) -> None:
        raise BadDocument(
            "The XLIFF has a DOCTYPE, by which a file can pull in others; take it out, or export it again."
        )

    def start(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_NESTED:
            raise BadDocument(
                f"The XLIFF is nested more than {MOST_NESTED} deep; no program writes such. Export it again."
            )

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate("utf-8", namespace_separator=" ")  # whatever the file says: it is text by now
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    try:
        parser.Parse(source.encode("utf-8", "surrogatepass"), True)
    except expat.ExpatError as error:
        raise BadDocument(f"The XLIFF is damaged: {error}. Mend it there, or export it again.") from error


# ---------------------------------------------------------------------------------------------------------------------
# elements, as places


def _elements(source: str, names: Collection[str]) -> Iterator[_Element]:
    """The outermost of these names, in order, each with all in it; only they are built. The source is well formed."""
    prefix: str | None = None  # that of XLIFF is the root's
    opened: list[_Element] = []
    outermost = -1  # how many are open around the one that is built
    for found in _TOKEN.finditer(source):
        if found["tag"] is None:
            continue
        if found["closes"]:
            element = opened.pop()
            element.rest, element.end = found.span()
        else:
            element = _opened(found, prefix, opened[-1] if opened else None)
            prefix = found["tag"].rpartition(":")[0] if prefix is None else prefix
            if outermost >= 0:
                opened[-1].inner.append(element)
            elif element.name in names:
                outermost = len(opened)
            if not element.tag.endswith("/>"):
                opened.append(element)
                continue
        if len(opened) == outermost:
            outermost = -1
            yield element


def _opened(found: re.Match[str], prefix: str | None, around: _Element | None) -> _Element:
    own_prefix, _, name = found["tag"].rpartition(":")
    kept = around is not None and around.kept
    element = _Element(name, found.group(), *found.span(), found.end(), found.end(), kept)
    if "translate" in element.tag:
        element.kept = {"no": True, "yes": False}.get(element["translate"], kept)
    space = element[f"xmlns:{own_prefix}" if own_prefix else "xmlns"]
    if own_prefix != (own_prefix if prefix is None else prefix):
        element.name = found["tag"]
    elif not space.startswith(_NAMESPACE) if space else around is not None and not around.name:
        element.name = ""  # of another namespace, which has our prefix here
    return element


def _placed(source: str, version: str, retranslate: bool) -> Iterator[tuple[int, Block]]:
    for unit in _elements(source, {"trans-unit" if version == "1" else "segment"}):
        original, target = unit.child("seg-source") or unit.child("source"), unit.child("target")
        if unit.kept or original is None or unit.child("source") is None:
            continue
        state = (unit if version == "2" else target or unit)["state"]
        waits = state in _WAITING
        if unit["approved"] == "yes" and target and _is_filled(source, target):
            continue
        segments, written = _segments(original), _segments(target)
        if segments and segments.keys() == written.keys():
            for name, mrk in written.items():
                if retranslate or waits or not _is_filled(source, mrk):
                    yield from _block(source, segments[name], mrk, "mrk")
        elif retranslate or waits or target is None or not _is_filled(source, target):
            yield from _block(source, original, unit, version)


def _segments(element: _Element | None) -> dict[str, _Element]:
    """By their names; none where two have the same one, or one lies in another."""
    found: list[_Element] = []
    waiting = [element] if element else []
    while waiting:
        element = waiting.pop()
        if element.name == "mrk" and element["mtype"] == "seg":
            found.append(element)
        else:
            waiting += reversed(element.inner)
    named = {segment["mid"]: segment for segment in found}
    return named if len(named) == len(found) else {}


def _is_filled(source: str, element: _Element) -> bool:
    return bool(source[element.inside : element.rest].strip())


def _block(source: str, original: _Element, place: _Element, form: str) -> Iterator[tuple[int, Block]]:
    """The words of one element as a block that is written into another."""
    text, tags = _marked([*_pieces(source, original)])
    if len(tags) <= MOST_CODES and any(map(str.isalpha, "".join(marks.apart(text, tags)))):
        yield place.start, Block(text, source[place.start : place.end], form, tags)


# ---------------------------------------------------------------------------------------------------------------------
# inline codes ↔ marks


def _pieces(source: str, element: _Element) -> Iterator[_Piece]:
    at = element.inside
    for code in element.inner:
        yield _Piece("run", source[at : code.start])
        at = code.end
        whole = source[code.start : code.end]
        if code.name in _PAIRS and code.rest < code.end and not code.kept and code["mtype"] != "protected":
            yield _Piece("open", code.tag)
            yield from _pieces(source, code)
            yield _Piece("close", source[code.rest : code.end])
        elif code.name in _PARTNERS:
            yield _Piece("opener", whole, (_PARTNERS[code.name], code["rid"] or code["id"]))
        elif code.name in _PARTNERS.values():
            yield _Piece("closer", whole, (code.name, code["startRef"] or code["rid"] or code["id"]))
        else:
            yield _Piece("alone", whole)
    yield _Piece("run", source[at : element.rest])


def _marked(found: Sequence[_Piece]) -> tuple[str, dict[int, tuple[str, str]]]:
    partners = _partners(found)
    runs = {index: _text(piece.source) for index, piece in enumerate(found) if piece.kind == "run"}
    numbers = marks.free_numbers("\n".join(runs.values()))
    parts: list[str] = []
    tags: dict[int, tuple[str, str]] = {}
    closing: dict[int, int] = {}  # place of a closing code → number
    for index, piece in enumerate(found):
        if piece.kind == "run":
            parts += _with_holders(runs[index], numbers, tags)
        elif index in closing:
            parts.append(f"</s{closing[index]}>")
        else:
            number = next(numbers)
            partner = partners.get(index)
            tags[number] = (piece.source, found[partner].source if partner else "")
            parts.append(f"<s{number}>" if partner else f"<s{number}></s{number}>")
            if partner:
                closing[partner] = number
    return "".join(parts), tags


def _partners(found: Sequence[_Piece]) -> dict[int, int]:
    """Place of each opening code → that of its closing one, so that no pair crosses another."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    for index, piece in enumerate(found):
        if piece.kind in ("open", "opener"):
            opened.append(index)
        elif piece.kind == "close":
            while found[opened[-1]].kind == "opener":  # without its end in this element
                opened.pop()
            partners[opened.pop()] = index
        elif piece.kind == "closer" and opened and found[opened[-1]].key == piece.key:
            partners[opened.pop()] = index
    return partners


def _with_holders(run: str, numbers: Iterator[int], tags: dict[int, tuple[str, str]]) -> Iterator[str]:
    """The run with the placeholders of programs as marks too; a run that has letters in those alone is one."""
    if not any(map(str.isalpha, run)):
        yield run
        return
    block = plain.block_of(run)
    if block is None:
        number = next(numbers)
        tags[number] = (_escaped(run), "")
        yield f"<s{number}></s{number}>"
        return
    ours = {number: next(numbers) for number in block.tags}
    tags |= {ours[number]: (_escaped(opening), _escaped(closing)) for number, (opening, closing) in block.tags.items()}
    for piece in marks.pieces(block.text, block.tags):
        yield piece if isinstance(piece, str) else f"<{'/' * (piece.kind == 'close')}s{ours[piece.number]}>"


def _text(source: str) -> str:
    """What a reader reads: references and CDATA sections read, comments left out."""
    parts, done = [], 0
    for found in _TOKEN.finditer(source):
        parts += [_REFERENCE.sub(_character, source[done : found.start()]), found["characters"] or ""]
        done = found.end()
    return "".join([*parts, _REFERENCE.sub(_character, source[done:])])


def _character(reference: re.Match[str]) -> str:
    hexadecimal, decimal, name = reference.groups()
    return _NAMED[name] if name else chr(int(hexadecimal, 16) if hexadecimal else int(decimal))


def _escaped(text: str) -> str:
    return _TO_ESCAPE.sub(lambda found: _ESCAPED[found.group()], _FORBIDDEN.sub("", text))


# ---------------------------------------------------------------------------------------------------------------------
# tags, edited


def _filled(tag: str, content: str) -> str:
    """The element of this start tag, with this content."""
    name = tag[1:].split(maxsplit=1)[0].rstrip("/>")
    return f"{tag[:-2].rstrip()}>{content}</{name}>" if tag.endswith("/>") else f"{tag}{content}</{name}>"


def _translated(tag: str) -> str:
    tag = _ATTRIBUTE.sub(lambda found: "" if found[1] in _STATES else found.group(), tag)
    return _with_attribute(tag, "state", "translated")


def _with_attribute(tag: str, name: str, value: str) -> str:
    end = -2 if tag.endswith("/>") else -1
    return f"{tag[:end].rstrip()} {name}={quoteattr(value)}{tag[end:]}"


def _with_target(source: str, version: str, target: str) -> str:
    """The source with the language named where it is not: for each file in 1.2, for all in 2.x."""
    name, attribute = ("file", "target-language") if version == "1" else ("xliff", "trgLang")
    parts, done = [], 0
    for found in _TOKEN.finditer(source):
        if found["tag"] and not found["closes"] and found["tag"].rpartition(":")[2] == name:
            if not any(other == attribute for other, _, _ in _ATTRIBUTE.findall(found.group())):
                parts += [source[done : found.start()], _with_attribute(found.group(), attribute, target)]
                done = found.end()
            if version == "2":
                break
    return "".join([*parts, source[done:]])
