"""Paragraphs made of runs ↔ blocks: those of Word, of DrawingML (slides, charts, shapes) and of Excel's rich strings.

Runs side by side that look the same are one. The look of most characters is the block's own; a run of another look is a
pair of marks. What stands at the ends of a paragraph and is no word stays outside.

Limit: a text box in the middle of a paragraph parts it in two blocks.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from engine.documents.runs import Item, has_box, items_of, written
from engine.documents.xml import Node, Part, escaped, text_of
from engine.markup import marks
from engine.types import Block

PARAGRAPHS = frozenset({"w:p", "a:p", "s:si", "s:is", "s:text"})
_SEEN_IN_SPACES = re.compile(r'<(?:\w+:)?(?:u|strike|dstrike|highlight|shd|bdr)[\s/>]|\s(?:u|strike)="')


def paragraph(part: Part, node: Node) -> Iterator[tuple[int, Block]]:
    """The blocks of one of `PARAGRAPHS`, with their places; not those of text boxes in it."""
    for items in _around_boxes(items_of(part, node)):
        core = _core(_joined(items, _commonest(items)))
        if any(map(str.isalpha, "".join(item.text for item in _texts(core)))):
            yield core[0].start, _block(part.source, core)


def write(block: Block, text: str) -> str:
    """The source of a block of `paragraph` or `leaf` once its text is `text`, whose marks are those of the block."""
    if text == block.text:
        return block.source
    before, opening, closing, after = block.form.split("\0")
    parts = [before]
    in_run = [not opening]  # for the block and each pair that is open
    for piece in marks.pieces(text, block.tags):
        if isinstance(piece, str):
            parts += (escaped(piece),) if in_run[-1] else (opening, escaped(piece), closing)
        else:
            start, end = block.tags[piece.number]
            parts.append(end if piece.kind == "close" else start)
            if end and piece.kind == "close":
                in_run.pop()
            elif end:
                in_run.append(end.startswith(closing))
    return "".join([*parts, after])


def leaf(part: Part, node: Node) -> Iterator[tuple[int, Block]]:
    """The block of an element that holds characters alone, if there is a letter in it."""
    text = text_of(part, node)
    if any(map(str.isalpha, text)):
        yield node.inside, Block(text, part.source[node.inside : node.rest], "\0\0\0")


def _around_boxes(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The stretches between text boxes, which have paragraphs of their own."""
    stretch: list[Item] = []
    for item in items:
        if not has_box(item):
            stretch.append(item)
            continue
        yield stretch
        yield from _around_boxes(item.inner)
        stretch = []
    yield stretch


def _joined(items: Sequence[Item], base: str) -> list[Item]:
    """The same with neighbours of one look as one, and with pairs that hold no word as voids."""
    plain: list[Item] = []
    for item in items:
        if item.kind == "text" and not item.text:
            continue
        if item.kind == "pair":
            item = item._replace(inner=tuple(_joined(item.inner, base)))
            if not any(inner.text.strip() for inner in _texts(item.inner)):
                shown = any(inner.shown for inner in item.inner)
                item = item._replace(kind="void", opening=written([item]), closing="", inner=(), shown=shown)
        plain.append(item)
    same = groupby(
        _with_spaces(plain, base), key=lambda item: (item.kind, item.look, item.kind == "pair" and item.start)
    )
    return [_one([*group]) for _, group in same]


def _one(items: Sequence[Item]) -> Item:
    """Neighbours that are alike as one."""
    first, last = items[0], items[-1]
    if first.kind == "pair":
        return first
    if first.kind == "text":
        return first._replace(end=last.end, after=last.after, text="".join(item.text for item in items))
    shown = any(item.shown for item in items)
    return first._replace(end=last.end, after=last.after, opening=written(items), shown=shown)


def _with_spaces(items: Sequence[Item], base: str) -> list[Item]:
    """Items where white space has the look of the words beside it, if nobody can see the difference."""
    spaced: list[Item] = []
    for index, item in enumerate(items):
        if item.kind == "text" and not _worded(item):
            words = [one for one in (*spaced[-1:], *items[index + 1 : index + 2]) if _worded(one)]
            looks = {one.look for one in words}
            if item.look in looks or not looks or (item.look == base and len(looks) == 2):
                pass
            elif _SEEN_IN_SPACES.search(item.look):
                item = item._replace(kind="void", opening=written([item]), closing="", text="", look="", shown=True)
            elif not _SEEN_IN_SPACES.search(words[0].look):
                item = item._replace(look=words[0].look, opening=words[0].opening, closing=words[0].closing)
        spaced.append(item)
    return spaced


def _core(items: Sequence[Item]) -> Sequence[Item]:
    """Without what is no word at both ends, and without a pair around all the rest."""
    while True:
        read = [index for index, item in enumerate(items) if item.kind == "pair" or item.shown or _worded(item)]
        items = items[read[0] : read[-1] + 1] if read else ()
        if len(items) != 1 or items[0].kind != "pair":
            return items
        items = items[0].inner


def _worded(item: Item) -> bool:
    return item.kind == "text" and bool(item.text.strip())


def _texts(items: Sequence[Item]) -> Iterator[Item]:
    for item in items:
        if item.kind == "text":
            yield item
        yield from _texts(item.inner)


def _commonest(items: Sequence[Item]) -> str:
    """The look of most characters, or of most that stand in no link or field."""
    sizes: Counter[str] = Counter()
    for item in [item for item in items if _worded(item)] or _texts(items):
        sizes[item.look] += len(item.text)
    return sizes.most_common(1)[0][0] if sizes else ""


def _block(source: str, items: Sequence[Item]) -> Block:
    texts = [*_texts(items)]
    base = _commonest(items)
    like = next(item for item in texts if item.look == base)
    numbers = marks.free_numbers("".join(item.text for item in texts))
    tags: dict[int, tuple[str, str]] = {}

    def marked(items: Sequence[Item]) -> Iterator[str]:
        for item in items:
            if item.kind == "text" and item.look == base:
                yield item.text
                continue
            number = next(numbers)
            if item.kind == "void":
                tags[number] = (item.opening, "")
                yield f"<s{number}></s{number}>"
                continue
            inner, opening, closing = item.inner, item.opening, item.closing
            only = inner[0] if len(inner) == 1 else item
            if only.kind == "text" and only is not item and only.look != base:  # a link in the look of links: one mark
                inner, opening, closing = (), opening + only.opening, only.closing + closing
            tags[number] = (opening, closing)
            yield f"<s{number}>"
            yield only.text if not inner else "".join(marked(inner))
            yield f"</s{number}>"

    text = "".join(marked(items))
    form = "\0".join((items[0].before, like.opening, like.closing, items[-1].after))
    return Block(text, source[items[0].start : items[-1].end], form, tags)
