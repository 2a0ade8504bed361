"""Blocks → segments: as the segmenter cuts, with marks counted and never cut in two. Knows no format and no prompt.

A pair of marks stays in one segment. One that is too long for that, or has a line break in it, is opened: its marks
stand in the gaps, where no model sees them, and what is inside is cut as if it stood alone. So does a break of the
line: no model can put it elsewhere. What is a name in a program and nothing else is no segment.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from engine.markup import marks
from engine.segmenter import LONG_TOKEN_CHARACTERS, segment
from engine.types import Block, CountTokens, Segment

_BREAK = re.compile(  # of Markdown, HTML, Office: that and nothing else
    r"[ \t]*\\?(?:\r\n?|\n)[> \t]*"
    r"|<br(?=[\s/>])[^<>]*>(?:</br>)?"
    r"|(?:<\w+:r\b[^<>]*>)?(?:<(?P<look>\w+:rPr)\b.*?</(?P=look)>)?"
    r"<\w+:br\b[^<>]*>(?:<\w+:rPr\b[^<>]*/>|<(?P<inner>\w+:rPr)\b.*?</(?P=inner)>)?(?:</\w+:(?:br|r)>)*",
    re.IGNORECASE | re.DOTALL,
)
_NAME = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|::|->)[A-Za-z_$][\w$]*)*(?:\(\))?")
_LIKE_CODE = re.compile(r"_|::|->|\(\)|\$|[a-z]{2}[A-Z][a-z]{2}|[a-z_]\.[a-z]{2}")
_OPENS, _CLOSES, _ENDS_LINE = "“", "”", "\n"  # as what the rules of sentences see a mark


@dataclass(slots=True)
class _Pair:
    start: int
    inner: int
    inner_end: int = 0
    end: int = 0
    has_break: bool = False
    pairs: list["_Pair"] = field(default_factory=list)


def segments_of(blocks: Sequence[Block], count_tokens: CountTokens, max_tokens: int) -> tuple[list[Segment], list[str]]:
    """The segments of all blocks, and for each block the tail after its last: gaps, segments and tail are its text."""
    segments: list[Segment] = []
    tails = []
    for number, block in enumerate(blocks):
        found, tail = _cut(block, count_tokens, max_tokens)
        kept = ""  # names, which stay
        for part in found:
            if _is_name(part.text):
                kept += part.gap + part.text
                continue
            gap, kept = kept + part.gap, ""
            tags = {number: block.tags[number] for number in marks.numbers(part.text, block.tags)}
            segments.append(replace(part, index=len(segments), block=number, gap=gap, tags=tags))
        tails.append(kept + tail)
    return segments, tails


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text) and _LIKE_CODE.search(text))


def _cut(block: Block, count_tokens: CountTokens, max_tokens: int) -> tuple[list[Segment], str]:
    text = block.text
    if not block.tags:
        return segment(text, count_tokens, max_tokens)
    shown = list(text)
    whole = [*_kept_whole(_pairs(block, shown), text, shown, count_tokens, max_tokens)]
    return segment(text, count_tokens, max_tokens, shown="".join(shown), whole=whole)


def _pairs(block: Block, shown: list[str]) -> list[_Pair]:
    """The outermost pairs and single marks of the block, which in `shown` become quotation marks."""
    around = [_Pair(0, 0)]
    at = 0
    for piece in marks.pieces(block.text, block.tags):
        if isinstance(piece, str):
            at += len(piece)
            continue
        opens, alone = piece.kind == "open", marks.stands_alone(block.tags, piece.number)
        size = len(f"<s{piece.number}>" if opens else f"</s{piece.number}>")
        is_break = alone and _BREAK.fullmatch(block.tags[piece.number][0])
        shown[at : at + size] = (_ENDS_LINE if is_break else _OPENS if opens and not alone else _CLOSES) * size
        if opens:
            around.append(_Pair(at, at + size))
        else:
            pair = around.pop()
            pair.inner_end, pair.end = at, at + size
            pair.has_break = pair.has_break or bool(is_break)
            around[-1].has_break = around[-1].has_break or pair.has_break
            if not is_break:
                around[-1].pairs.append(pair)
        at += size
    return around[0].pairs


def _kept_whole(
    pairs: Sequence[_Pair], text: str, shown: list[str], count_tokens: CountTokens, max_tokens: int
) -> Iterator[tuple[int, int]]:
    waiting = list(reversed(pairs))
    while waiting:
        pair = waiting.pop()
        inside = text[pair.start : pair.end]
        if (
            not pair.has_break
            and len(inside) <= max_tokens * LONG_TOKEN_CHARACTERS
            and len(inside.splitlines()) == 1
            and count_tokens(inside) <= max_tokens
        ):
            yield pair.start, pair.end
            continue
        for start, end in ((pair.start, pair.inner), (pair.inner_end, pair.end)):
            shown[start:end] = _ENDS_LINE * (end - start)
        waiting += reversed(pair.pairs)
