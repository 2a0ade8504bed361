"""E-books: the pages, the table of contents, title and description; read and written as spans of the zip's parts.

Pages go through the HTML parser, in the encoding that they are in, and stay XHTML. Declared change: where the target is
named, a book with new texts says so in `dc:language` and in the `lang` and `xml:lang` of its pages.

Limits: texts in scripts, SVG and MathML stay; an element of code or script that ends itself (`<script src="x"/>`) parts
the text around it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

from engine.documents import paragraphs, xml
from engine.documents.encoding import decode
from engine.documents.file import File, Options
from engine.documents.package import Package, unpack
from engine.errors import BadDocument
from engine.languages import LANGUAGES
from engine.markup import html
from engine.markup.page_language import in_language
from engine.markup.spans import cut, rebuild
from engine.types import Block, Document

_MIMETYPE = b"application/epub+zip"
_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES, _CONTENTS = ("application/xhtml+xml", "text/html"), "application/x-dtbncx+xml"
_SCRAMBLED_FONTS = {"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"}  # not the text
_READ = frozenset({"dc:title", "dc:description", "ncx:text"})

_DECLARES = re.compile(r"<!DOCTYPE[^>\[]{0,1000}\[", re.IGNORECASE)
_ALONE = re.compile(  # in HTML these begin what has no end; in XHTML they are empty
    r"<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)|(?P<alone><(?:script|style|title|textarea|xmp|iframe|noembed|noframes|noscript"
    r"|plaintext|template|pre|listing|code|kbd|samp|var)(?=[\s/])(?:[^<>\"']|\"[^\"]*\"|'[^']*')*+(?<=/)>)",
    re.IGNORECASE | re.DOTALL,
)
_DC_LANGUAGE = re.compile(r"(<(?:\w+:)?language(?:\s[^<>]*)?>)[^<]*(?=</)")


@dataclass(frozen=True, slots=True)
class _Read:
    part: xml.Part
    documents: Sequence[Document]  # which tile the part

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(chain.from_iterable(document.blocks for document in self.documents))


def read_epub(data: bytes, options: Options) -> File:
    """The texts of a book, in the order of its pages. Raises `BadDocument`."""
    package = unpack(data, ".epub")
    if _CONTAINER not in package.members or package.read("mimetype").strip() != _MIMETYPE:
        raise BadDocument("This is a zip named .epub and no e-book; send it under its own name.")
    _refuse_locked(package)
    read = [*_parts(package)]
    blocks = chain.from_iterable(one.blocks for one in read)
    return File(tuple(blocks), partial(_saved, package, read, options.target))


def _saved(package: Package, read: Sequence[_Read], target: str, texts: Sequence[str]) -> bytes:
    changed: dict[str, bytes] = {}
    following = iter(texts)
    for one in read:
        new = [[*islice(following, len(document.blocks))] for document in one.documents]
        if [*chain.from_iterable(new)] != [block.text for block in one.blocks]:
            source = "".join(map(rebuild, one.documents, repeat(_write), new))
            changed[one.part.name] = one.part.encoded(_in_language(source, target) if target else source)
    return package.written(changed) if changed else package.data


def _write(block: Block, text: str) -> str:
    if text == block.text:
        return block.source
    return paragraphs.write(block, text) if "\0" in block.form else html.write(block, xml.allowed(text))


def _in_language(source: str, target: str) -> str:
    return in_language(_DC_LANGUAGE.sub(rf"\g<1>{target}", source), target, LANGUAGES[target].direction)


def _refuse_locked(package: Package) -> None:
    if _ENCRYPTION not in package.members:
        return
    part = xml.read(package.read(_ENCRYPTION), _ENCRYPTION)
    for node in xml.elements(part, {"enc:EncryptionMethod"}):
        if xml.attributes(part, node).get("Algorithm") not in _SCRAMBLED_FONTS:
            raise BadDocument("The book is locked by its seller (DRM), so it cannot be read; send one without a lock.")


# ---------------------------------------------------------------------------------------------------------------------
# parts


def _parts(package: Package) -> Iterator[_Read]:
    part = xml.read(package.read(_CONTAINER), _CONTAINER)
    roots = [xml.attributes(part, node).get("full-path", "") for node in xml.elements(part, {"container:rootfile"})]
    if not roots:
        raise BadDocument("The book does not say where its list of pages is, so it is damaged. Save it anew.")
    book = xml.read(package.read(roots[0]), roots[0], may_name_dtd=True)
    yield _Read(book, [cut(book.source, _texts(book))])
    for name, kind in _listed(package, book):
        if kind in _PAGES:
            yield _page(package.read(name), name)
        else:
            contents = xml.read(package.read(name), name, may_name_dtd=True)
            yield _Read(contents, [cut(contents.source, _texts(contents))])


def _listed(package: Package, book: xml.Part) -> Iterator[tuple[str, str]]:
    """(member, media type) of pages and tables of contents: first those that are read in order, then the others."""
    folder = dirname(book.name)
    listed: dict[str, tuple[str, str]] = {}
    in_order: list[str] = []
    for node in xml.elements(book, {"opf:item", "opf:itemref"}):
        said = xml.attributes(book, node)
        if node.name == "opf:itemref":
            in_order.append(said.get("idref", ""))
        elif said.get("media-type") in (*_PAGES, _CONTENTS) and not urlsplit(said.get("href", "")).scheme:
            path = unquote(urlsplit(said.get("href", "")).path)
            listed[said.get("id", "")] = (normpath(join(folder, path)), said["media-type"])
    wanted = [listed[one] for one in in_order if one in listed]
    others = [one for one in listed.values() if one[0] in package.members]
    yield from dict.fromkeys([*wanted, *others])


def _texts(part: xml.Part) -> Iterator[tuple[int, Block]]:
    for node in xml.elements(part, _READ):
        yield from paragraphs.leaf(part, node)


def _page(data: bytes, name: str) -> _Read:
    decoded = decode(data)
    source = decoded.text
    if _DECLARES.search(source):
        raise BadDocument(f"{name} declares entities, by which a file can pull in others; take them out.")
    documents: list[Document] = []
    done = 0
    for found in _ALONE.finditer(source):
        if found["alone"]:
            documents += html.parse(source[done : found.start()]), Document((found[0],), ())
            done = found.end()
    return _Read(xml.Part(name, source, decoded), [*documents, html.parse(source[done:])])
