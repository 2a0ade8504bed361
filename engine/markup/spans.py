"""What every parser does with the spans it found: cut the source at them, put it together again. Knows no format."""

from collections.abc import Callable, Iterable, Sequence

from engine.types import Block, Document


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
    written = [write(block, text) for block, text in zip(document.blocks, texts, strict=True)]
    return "".join(part if isinstance(part, str) else written[part] for part in document.skeleton)


def without_tail(address: str, tail: str) -> str:
    """A URL without what belongs to the sentence around it: characters of `tail`, and `)` that nothing in it opens."""
    end, strays = len(address), address.count(")") - address.count("(")
    while end and (address[end - 1] in tail or (address[end - 1] == ")" and strays > 0)):
        end -= 1
        strays -= address[end] == ")"
    return address[:end]
