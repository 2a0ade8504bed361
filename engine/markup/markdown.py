"""Markdown → Document, and a translated block → Markdown. The source is cut, never written anew. Knows no model.

Blocks are what paragraphs, headings, cells, terms and titles of boxes hold; in HTML blocks, what the HTML parser finds;
titles of links, images and definitions; texts of images; what a reader sees of front matter. What cannot be cut with
certainty stays in the skeleton, as do code, math, comments, labels, addresses, and titles that are on several lines.

Declared changes to a block that is translated: its lines are joined; next to a letter `_x_` becomes `*x*`, and `~x~`
becomes `~~x~~`; a space comes between a delimiter and a letter where the text inside is punctuation, and after a bare
URL; `[x]` and `[x][]` become `[译文][x]`; where nothing else keeps the structure, `**x**` becomes `<strong>x</strong>`.
In titles and attributes, what Markdown could misread becomes an entity. `html` and `front_matter` declare theirs.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from markdown_it.utils import EnvType

from engine.markup import front_matter, html, markdown_writing
from engine.markup.markdown_reading import ATTRIBUTE, found_in, title_block
from engine.markup.markdown_spans import Content, contents
from engine.markup.spans import Found, TagPlace, cut
from engine.markup.templates import IN_MARKDOWN
from engine.types import Block, Document

_BOM = "\ufeff"
_ENTITY = re.compile(r"&(?=#?\w{1,40};)")
_AS_ENTITIES = {ord(character): f"&#{ord(character)};" for character in "`$|{"}
_TITLE_ENTITIES = {
    form: {**_AS_ENTITIES, **{ord(character): f"&#{ord(character)};" for character in "<\\" + quotes}}
    for form, quotes in (("title double", '"'), ("title single", "'"), ("title round", "()"))
}


def parse(source: str) -> Document:
    """Takes time in proportion to the source."""
    matter = front_matter.front_matter(source, len(_BOM) if source.startswith(_BOM) else 0)
    body = source[matter.end :]
    inner, env = contents(body)
    found = [_moved(one, matter.end) for content in inner for one in _found(content, env, body)]
    return cut(source, [*matter.found, *found])


def write(block: Block, text: str) -> str:
    """The source of a `block` of this parser once its text is `text`; the old one where that cannot be written."""
    if text == block.text or not text.strip():
        return block.source
    form = block.form
    if form.startswith(front_matter.FORM):
        return front_matter.write(block, text)
    if form in _TITLE_ENTITIES:
        return _ENTITY.sub("&amp;", " ".join(text.split())).translate(_TITLE_ENTITIES[form])
    if form.startswith(ATTRIBUTE):
        block = replace(block, form=form.removeprefix(ATTRIBUTE))
        return html.write(block, " ".join(text.split())).translate(_AS_ENTITIES)
    if form.startswith("html"):
        return html.write(block, markdown_writing.LINE_BREAK.sub(" ", text))  # an empty line would end an HTML block
    return markdown_writing.write(block, text)


def escape(block: Block) -> Callable[[str], str]:
    """How the runs of the block are written while the rest is still to come; `write` has the last word."""
    return html.escape(block) if block.form.startswith("html") else str


def _found(content: Content, env: EnvType, source: str) -> Iterator[Found]:
    if content.form == "html":
        for found in html.find(content.text, kept=IN_MARKDOWN):
            if content.text[: found.start].strip() and (placed := _placed(found, content, source)):
                yield placed  # what begins with the tag that makes it an HTML block must keep that in its place
    elif content.form in _TITLE_ENTITIES:
        block = title_block(source[content.positions[0] : content.positions[-1]], content.form)
        if block:
            yield Found(content.positions[0], block)
    else:
        yield from found_in(content, env, source)


def _placed(found: Found, content: Content, source: str) -> Found | None:
    """What was found in the content, in the source: there its lines may have marks of lists and quotes before them."""
    block, positions = found.block, content.positions
    start, end = positions[found.start], positions[found.start + len(block.source) - 1] + 1
    places = [TagPlace(number, side, positions[low], positions[high - 1] + 1) for number, side, low, high in found.tags]
    if source[start:end] == block.source:
        return Found(start, block, places)
    tags = {number: (_on_one_line(opening), _on_one_line(closing)) for number, (opening, closing) in block.tags.items()}
    if "\0" in source[start:end] or any("\n" in side for sides in tags.values() for side in sides):
        return None
    places = [place for place in places if source[place.start : place.end] == block.tags[place.number][place.side]]
    return Found(start, replace(block, source=source[start:end], tags=tags, spelling={}), places)


def _on_one_line(tag: str) -> str:
    """A tag's lines joined; not those of an element, where they may mean something."""
    return tag if "<" in tag[1:] or tag.startswith("<!") else " ".join(map(str.strip, tag.split("\n")))


def _moved(found: Found, by: int) -> Found:
    tags = (
        [TagPlace(number, side, start + by, end + by) for number, side, start, end in found.tags] if by else found.tags
    )
    return Found(found.start + by, found.block, tags)
