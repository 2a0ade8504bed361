"""Word, PowerPoint and Excel files: which of their parts are read, in which order, and what of them stays.

A file is a package of XML parts, each an edit of its source. Read are paragraphs wherever they stand (tables, notes,
comments, text boxes, headers, charts, SmartArt), the cells, headers and footers of sheets, and title, subject and
description of the file. A part without a text that changed is copied, compressed bytes and all.

Limits: names of sheets, tables, columns and pivot fields stay, and with them every cell that reads the same, since
formulas and tables find each other by them; lists of choices, texts that formulas compute, alternative texts of
pictures and embedded workbooks stay too. A digital signature is void once the text has changed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from posixpath import join, normpath
from typing import Literal

from engine.documents import paragraphs, sheets, xml
from engine.documents.file import File, Options
from engine.documents.package import Package, unpack
from engine.errors import BadDocument
from engine.markup import marks
from engine.markup.spans import cut, rebuild
from engine.types import Block, Document

Kind = Literal["docx", "pptx", "xlsx"]

_KINDS = {"wordprocessingml": "docx", "ms-word": "docx", "presentationml": "pptx", "ms-powerpoint": "pptx"} | {
    "spreadsheetml": "xlsx",
    "ms-excel": "xlsx",
}
_READ = (  # the last word of the content type of each part that is read, in reading order
    "main slide slideLayout slideMaster sharedStrings worksheet chartsheet drawing chart chartex chartshapes "
    "diagramData diagramDrawing notesSlide header footer footnotes endnotes comments threadedcomments core-properties"
).split()
_LEAVES = frozenset({"dc:title", "dc:subject", "dc:description", "p:text", "threads:text"})
_CACHES = frozenset({"c:strCache", "c:multiLvlStrCache"})  # what a chart shows of its workbook
_NAMES_CELLS = {"table": "s:tableColumn", "pivotCacheDefinition": "s:cacheField"}  # elements with a cell's text as name
_NUMBERS = re.compile(r"(\d+)")
_RELATION = re.compile(r"""\s[^\s=:"']+:id\s*=\s*["']([^"']*)""")
_PLACEHOLDER = "p:ph"  # a shape whose text is a prompt that no reader sees


@dataclass(frozen=True, slots=True)
class _Read:
    part: xml.Part
    document: Document


def read_office(kind: Kind, data: bytes, options: Options) -> File:
    """The texts of a file of this kind. Raises `BadDocument`. There is nothing to choose in one, so far."""
    package = unpack(data, f".{kind}")
    types = _content_types(package, kind)
    names = _named_cells(package, types) if kind == "xlsx" else frozenset[str]()
    read = []
    for part in _parts(package, types):
        found = (one for one in _found(part, types[part.name], kind) if not _is_name(one[1], names))
        read.append(_Read(part, cut(part.source, found)))
    return File(tuple(chain.from_iterable(one.document.blocks for one in read)), partial(_saved, package, read))


def _saved(package: Package, read: Sequence[_Read], texts: Sequence[str]) -> bytes:
    changed: dict[str, bytes] = {}
    following = iter(texts)
    for one in read:
        new = [*islice(following, len(one.document.blocks))]
        if new != [block.text for block in one.document.blocks]:
            changed[one.part.name] = one.part.encoded(rebuild(one.document, sheets.write, new))
    return package.written(changed) if changed else package.data


# ---------------------------------------------------------------------------------------------------------------------
# parts


def _content_types(package: Package, kind: Kind) -> dict[str, str]:
    """Member → the last word of its content type. Raises `BadDocument` for what is no file of this kind."""
    if "[Content_Types].xml" not in package.members:
        what = "an e-book or OpenDocument file" if "mimetype" in package.members else "a zip"
        raise BadDocument(f"This is {what} named .{kind}, no file of Office; send it under its own name.")
    part = xml.read(package.read("[Content_Types].xml"), "[Content_Types].xml")
    defaults: dict[str, str] = {}
    overrides: dict[str, str] = {}
    for node in xml.elements(part, {"types:Default", "types:Override"}):
        said = xml.attributes(part, node)
        if node.name == "types:Default":
            defaults[said.get("Extension", "").lower()] = said.get("ContentType", "")
        else:
            overrides[said.get("PartName", "").lstrip("/")] = said.get("ContentType", "")
    types = {name: overrides.get(name) or defaults.get(name.rpartition(".")[2].lower(), "") for name in package.members}
    mains = {name: said for name, said in (types | overrides).items() if re.search(r"\.main(?:\+xml)?$", said)}
    found = next((_KINDS[word] for said in mains.values() for word in re.split(r"[./]", said) if word in _KINDS), None)
    if found is None:
        raise BadDocument(
            f"This {kind} has no main part, so it is damaged. Open it in Office, save it anew and send that."
        )
    if found != kind:
        raise BadDocument(f"This is a .{found} named .{kind}; send it under its own name.")
    if "binary" in next(iter(mains.values())):
        raise BadDocument(f"This is a binary workbook (.xlsb); save it as .{kind} in Excel.")
    for name in mains:
        package.read(name)  # says so where it is missing
    return {name: re.split(r"[./]", said.removesuffix("+xml"))[-1] for name, said in types.items()}


def _parts(package: Package, types: Mapping[str, str]) -> Iterator[xml.Part]:
    order = {name: place for place, name in enumerate(_slides(package, types))}

    def place(name: str) -> tuple[int, int, list[str | int]]:
        words = _NUMBERS.split(name)
        return (
            _READ.index(types[name]),
            order.get(name, len(order)),
            [int(one) if one.isdecimal() else one for one in words],
        )

    for name in sorted((name for name in package.members if types[name] in _READ), key=place):
        data = package.read(name)
        if types[name] not in ("worksheet", "chartsheet") or sheets.may_hold_text(data):
            yield xml.read(data, name)


def _slides(package: Package, types: Mapping[str, str]) -> Iterator[str]:
    """The names of a presentation's slides, in the order in which they are shown."""
    main = next((name for name in package.members if types[name] == "main"), "")
    folder, _, file = main.rpartition("/")
    relations = join(folder, "_rels", f"{file}.rels")
    if "slide" not in types.values() or relations not in package.members:
        return
    part = xml.read(package.read(relations), relations)
    said = [xml.attributes(part, node) for node in xml.elements(part, {"rels:Relationship"})]
    targets = {one.get("Id"): one.get("Target", "") for one in said}
    part = xml.read(package.read(main), main)
    for node in xml.elements(part, {"p:sldId"}):
        said_id = _RELATION.search(part.source, node.start, node.inside)
        if said_id and (target := targets.get(said_id[1])):
            yield normpath(join("/", folder, target)).lstrip("/")


# ---------------------------------------------------------------------------------------------------------------------
# texts


def _found(part: xml.Part, content: str, kind: Kind) -> Iterator[tuple[int, Block]]:
    if content in ("slideLayout", "slideMaster"):
        for shape in xml.elements(part, {"p:sp"}):
            inside = [*xml.walk(shape)]
            if not any(node.name == _PLACEHOLDER for node in inside):
                yield from _in(part, inside)
        return
    caches = _CACHES if kind != "xlsx" else frozenset[str]()  # Excel fills them from the cells
    for node in xml.elements(part, paragraphs.PARAGRAPHS | _LEAVES | caches | sheets.HEADERS):
        if node.name in sheets.HEADERS:
            yield from sheets.header(part, node)
        else:
            yield from _in(part, xml.walk(node))


def _in(part: xml.Part, nodes: Iterator[xml.Node] | Sequence[xml.Node]) -> Iterator[tuple[int, Block]]:
    for node in nodes:
        if node.name in paragraphs.PARAGRAPHS:
            yield from paragraphs.paragraph(part, node)
        elif node.name in _LEAVES or node.name == "c:v":
            yield from paragraphs.leaf(part, node)


def _named_cells(package: Package, types: Mapping[str, str]) -> frozenset[str]:
    """What columns of tables and pivot fields are called: their header cells must read the same."""
    names = set()
    for name in package.members:
        if element := _NAMES_CELLS.get(types[name]):
            part = xml.read(package.read(name), name)
            names |= {xml.attributes(part, node).get("name", "") for node in xml.elements(part, {element})}
    return frozenset(name.replace("_x000a_", "\n").casefold() for name in names)


def _is_name(block: Block, names: frozenset[str]) -> bool:
    return bool(names) and marks.bare(block.text, block.tags).casefold() in names
