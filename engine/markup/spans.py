"""What every parser does with the spans it found: cut the source at them, put it together again. Knows no format."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from engine.markup import marks
from engine.types import Block, Document, Skeleton


def cut(source: str, found: Iterable[tuple[int, Block]]) -> Document:
    """The document with a block at each place, in order; a block that begins inside the one before is left out."""
    skeleton: list[str | int] = []
    blocks: list[Block] = []
    done = 0
    for start, block in found:
        if start < done:
            continue
        if done < start:
            skeleton.append(source[done:start])
        skeleton.append(len(blocks))
        blocks.append(block)
        done = start + len(block.source)
    if done < len(source):
        skeleton.append(source[done:])
    return Document(tuple(skeleton), tuple(blocks))


def rebuild(document: Document, write: Callable[[Block, str], str], texts: Sequence[str]) -> str:
    """The source with the text of each block exchanged for that of `texts`, as the parser's `write` writes it."""
    written: list[str] = []
    for block, text in zip(document.blocks, texts, strict=True):
        written.append(write(filled(block, written), text))
    return _joined(document.skeleton, written)


def filled(block: Block, written: Sequence[str]) -> Block:
    """The block with what was written for the blocks before it, where those stand in its tags."""
    tags, source, at = dict(block.tags), block.source, 0
    for piece in marks.pieces(block.text, block.tags) if block.nested else ():
        if isinstance(piece, str):
            continue
        ends = (0, 1) if piece.kind == "alone" else (0,) if piece.kind == "open" else (1,)
        for end in ends:
            old = new = block.tags[piece.number][end]
            if piece.number in block.nested:
                new = _joined(block.nested[piece.number][end], written)
                opening, closing = tags[piece.number]
                tags[piece.number] = (opening, new) if end else (new, closing)
            at = source.index(old, at)
            source = source[:at] + new + source[at + len(old) :]
            at += len(new)
    return block if source == block.source else replace(block, source=source, tags=tags)


def _joined(skeleton: Skeleton, written: Sequence[str]) -> str:
    return "".join(part if isinstance(part, str) else written[part] for part in skeleton)


def without_tail(address: str, tail: str) -> str:
    """A URL without what belongs to the sentence around it: characters of `tail`, and `)` that nothing in it opens."""
    end, strays = len(address), address.count(")") - address.count("(")
    while end and (address[end - 1] in tail or (address[end - 1] == ")" and strays > 0)):
        end -= 1
        strays -= address[end] == ")"
    return address[:end]
