"""A document of any kind once it is read: what is to be translated in it, and how it is written with other texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.types import Block


@dataclass(frozen=True, slots=True)
class File:
    """`save(texts)` gives the file's bytes with a text for each of `blocks`, whose marks are those of the block.

    It raises nothing for such texts. Texts that are those of the blocks give the bytes that were read, but for the
    language that a file names, where `Options.target` asks for another.
    """

    blocks: tuple[Block, ...]
    save: Callable[[Sequence[str]], bytes]
    faults: Callable[[Sequence[str]], list[int]] = lambda _texts: []  # blocks that must keep their source
    broken: Callable[[Sequence[str], int], bool] = lambda _texts, _block: False  # by this one, the others being right


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose of a document's reading, whatever its kind; a kind that has no such thing ignores it."""

    source: str = ""  # the language of its text, which says how its bytes may be read; "" where that is not known
    target: str = ""  # the language translated into, for files that name it (XLIFF, HTML); "" leaves that as it is
    exclude: tuple[str, ...] = ()  # JSON: keys ("id") or paths ("pages.*.slug") that stay
    retranslate: bool = False  # PO, XLIFF: also what is translated already
