"""What every parser does with the spans it found: cut the source at them, put it together again. Knows no format."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from engine.types import Block, Document, Skeleton

WALL = ""  # the name of what tags of other names do not reach across
_WHOLE = 0  # no mark's number: in `nested`, the source of the whole block


class TagPlace(NamedTuple):
    """Where a tag of a block stands, word for word, in the document: the opening (0) or closing (1) of a mark."""

    number: int
    side: Literal[0, 1]
    start: int
    end: int


class Found(NamedTuple):
    """A block, and where it stands. Blocks that stand in one of its `tags` will be nested in it."""

    start: int
    block: Block
    tags: Sequence[TagPlace] = ()


class _Cut(NamedTuple):
    start: int
    end: int
    number: int  # of the block


def cut(source: str, found: Iterable[Found | tuple[int, Block]]) -> Document:
    """The document with these blocks. Of two that overlap the first stays, and the other too if it is in its tag."""
    blocks: list[Block] = []
    cuts: list[_Cut] = []
    in_order = sorted((Found(*one) for one in found), key=lambda one: one.start)
    at = 0
    while at < len(in_order):
        start, block, tags = in_order[at]
        end = start + len(block.source)
        first = at = at + 1
        while at < len(in_order) and in_order[at].start < end:
            at += 1
        if nested := _nested(source, (start, end), tags, in_order[first:at], blocks):
            block = replace(block, nested=nested)
        cuts.append(_Cut(start, end, len(blocks)))
        blocks.append(block)
    return Document(_skeleton(source, 0, len(source), cuts), tuple(blocks))


def _nested(
    source: str, span: tuple[int, int], tags: Sequence[TagPlace], inside: Sequence[Found], blocks: list[Block]
) -> dict[int, tuple[Skeleton, Skeleton]]:
    """`Block.nested` of the block at `span`: the blocks of `inside` that stand in its tags, which join `blocks`."""
    nested: dict[int, tuple[Skeleton, Skeleton]] = {}
    all_cuts: list[_Cut] = []
    at = 0
    for number, side, start, end in tags if inside else ():
        cuts: list[_Cut] = []
        while at < len(inside) and inside[at].start < end:
            low, block, _ = inside[at]
            at += 1
            if start <= low and low + len(block.source) <= end and (not cuts or cuts[-1].end <= low):
                cuts.append(_Cut(low, low + len(block.source), len(blocks)))
                blocks.append(block)
        if cuts:
            ends = list(nested.get(number, ((), ())))
            ends[side] = _skeleton(source, start, end, cuts)
            nested[number] = (ends[0], ends[1])
            all_cuts += cuts
    if nested:
        nested[_WHOLE] = (_skeleton(source, *span, all_cuts), ())
    return nested


def _skeleton(source: str, start: int, end: int, cuts: Iterable[_Cut]) -> Skeleton:
    """The source from `start` to `end`, with numbers where it is cut."""
    skeleton: list[str | int] = []
    for low, high, number in cuts:
        if start < low:
            skeleton.append(source[start:low])
        skeleton.append(number)
        start = high
    if start < end:
        skeleton.append(source[start:end])
    return tuple(skeleton)


def rebuild(document: Document, write: Callable[[Block, str], str], texts: Sequence[str]) -> str:
    """The source with the text of each block exchanged for that of `texts`, as the parser's `write` writes it."""
    written: list[str] = []
    for block, text in zip(document.blocks, texts, strict=True):
        written.append(write(filled(block, written), text))
    return _joined(document.skeleton, written)


def remembering(write: Callable[[Block, str], str]) -> Callable[[Block, str], str]:
    """`write`, which for Markdown is dear, called once for each block and text."""
    written: dict[tuple[str, str, str], str] = {}

    def remembered(block: Block, text: str) -> str:
        key = (block.source, block.form, text)
        if key not in written:
            written[key] = write(block, text)
        return written[key]

    return remembered


def refused(document: Document, write: Callable[[Block, str], str], texts: Sequence[str]) -> list[int]:
    """The blocks whose texts the parser would not write, so that their source stays."""
    written: list[str] = []
    kept = []
    for number, (block, text) in enumerate(zip(document.blocks, texts, strict=True)):
        block = filled(block, written)
        written.append(write(block, text))
        if is_refused(block, text, written[-1]):
            kept.append(number)
    return kept


def is_refused(block: Block, text: str, written: str) -> bool:
    return text != block.text and written == block.source


def filled(block: Block, written: Sequence[str]) -> Block:
    """The block with what was written for the blocks before it, where those stand in its tags."""
    if not block.nested:
        return block
    tags = dict(block.tags)
    for number, ends in block.nested.items():
        if number != _WHOLE:
            new = [_joined(ends[side], written) if ends[side] else tags[number][side] for side in (0, 1)]
            tags[number] = (new[0], new[1])
    return replace(block, source=_joined(block.nested[_WHOLE][0], written), tags=tags, nested={})


def _joined(skeleton: Skeleton, written: Sequence[str]) -> str:
    return "".join(part if isinstance(part, str) else written[part] for part in skeleton)


def partners(tags: Iterable[tuple[int, bool, str]]) -> Mapping[int, int]:
    """Of places, whether each opens, and names: place ↔ place of those that are a pair, both ways.

    A tag ends the last of its name that is open, and all that was opened after it stands alone.
    """
    found: dict[int, int] = {}
    levels: list[tuple[list[tuple[int, str]], dict[str, int]]] = [([], {})]
    for place, opens, name in tags:
        opened, number = levels[-1]
        if opens:
            opened.append((place, name))
            number[name] = number.get(name, 0) + 1
            if name == WALL:
                levels.append(([], {}))
            continue
        if name == WALL and len(levels) > 1:
            levels.pop()
            opened, number = levels[-1]
        while number.get(name):
            partner, last = opened.pop()
            number[last] -= 1
            if last == name:
                found[partner], found[place] = place, partner
                break
    return found


def without_tail(address: str, tail: str) -> str:
    """A URL without what belongs to the sentence around it: characters of `tail`, and `)` that nothing in it opens."""
    end, strays = len(address), address.count(")") - address.count("(")
    while end and (address[end - 1] in tail or (address[end - 1] == ")" and strays > 0)):
        end -= 1
        strays -= address[end] == ")"
    return address[:end]
