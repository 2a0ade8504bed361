"""Plain text → Document: a block a line, with what must not be translated inside it as marks. Knows no other format.

Kept are URLs, e-mail addresses, file paths, `code`, emoji shortcodes, tags such as `<b0>`, and the placeholders of
programs: %s %1$s %(name)s %name% {0} {name} {{x}} {% x %} ${x} $x %{x} [[x]] {n, plural, one {# day} other {# days}}
and [X1X], as Weblate writes its own.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from engine.languages import CJK_LETTERS
from engine.markup import marks
from engine.markup.spans import Found, cut, partners, without_tail
from engine.segmenter import sentences
from engine.types import Block, Document, Split

LONGEST_LINE = 100_000  # characters of one block; no longer line was written by hand
_IN_LINE = rf"[^\n\v\f\r\x1c-\x1e\x85\u2028\u2029]{{1,{LONGEST_LINE}}}"
_LINE = re.compile(rf"{_IN_LINE}(?=\s|\Z)|{_IN_LINE}")
_LINE_END = re.compile(r"\r\n?|[\n\v\f\x1c-\x1e\x85\u2028\u2029]")
_SPACE = re.compile(r"\s+")
_CJK = re.compile(f"[{CJK_LETTERS}]")
_CORE = re.compile(r"[^\s\0-\x1f\ufeff\u200b](?:.*[^\s\0-\x1f\u200b])?")
_NOT_OF_URL = rf"\s<>\"`{CJK_LETTERS}，。；：！？、（）《》「」『』【】“”‘’"
_TRAILING = ".,;:!?…'\""  # of an address, but of the sentence in truth
_FILES = "py|js|ts|json|md|txt|html?|css|xml|ya?ml|toml|ini|cfg|conf|sh|c|h|cpp|java|go|rs|rb|php|png|jpe?g|gif|svg|pdf"
_ICU = r"(?:[^{}]++|\{(?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+\})*+"  # braces in braces, three deep
_MAY_BE_KEPT = re.compile(r"[@/\\<{%$`\[]|:(?=\S)|www\.")  # without one of these there is nothing to keep
_KEPT = re.compile(
    rf"""
      (?P<address> (?:https?|ftp)://[^{_NOT_OF_URL}]+ | (?<![\w.@/-])www\.[\w-]+\.[\w./?&=%\#+~-]+ )
    | (?P<email>   (?<![\w.+-])[\w.+-]{{1,64}}@[A-Za-z0-9-]{{1,63}}(?:\.[A-Za-z0-9-]{{1,63}}){{1,8}} )
    | (?P<code>    `[^`]{{1,500}}` )
    | (?P<path>    (?<![\w/.<~-])(?:(?:~|\.{{1,2}})?/(?:[\w.@+-]+/)+[\w.@+-]* | (?:~|\.{{1,2}})/[\w.@+-]+)
                 | (?<![\w/.<~-])(?:[\w@+-]{{1,60}}/){{1,20}}[\w@+-]{{1,60}}\.(?:{_FILES})(?!\w)
                 | (?:(?<!\w)[A-Za-z]:[\\/]|(?<![\w\\])\\\\[\w.-]+\\)[^\s:*?"<>|]+ )
    | (?P<tag>     <(?P<closes>/?)(?P<name>[A-Za-z][\w.-]{{0,30}})
                   (?:\s[\w:-]{{1,40}}=(?:"[^"]{{0,500}}"|'[^']{{0,500}}')){{0,20}}\s?(?P<alone>/?)> )
    | (?P<holder>  \{{\{{[^{{}}]{{1,200}}\}}\}} | \{{%[^{{}}]{{1,200}}%\}}
                 | \{{\s?\w{{1,60}}\s?,\s?(?:plural|select|selectordinal|number|date|time)(?:\s?,{_ICU})?\}}
                 | [$%\#]?\{{[\w.:\[\]()$-]{{0,100}}\}} | \[\[\w{{1,100}}\]\] | \[X\d{{1,9}}X\]
                 | (?<![\d%])%(?:\d+\$|\(\w{{1,60}}\))?[-+\#0]*(?:\d+|\*)?(?:\.\d+)?
                   (?:hh|h|ll|l|L|z|j|t)?[sdiuoxXfFeEgGcp@YmHMSBbAaj](?![A-Za-z])
                 | (?<![\w%])%[A-Za-z_]\w{{1,60}}%(?!\w) | (?<![\w$])\$[a-z_]\w{{0,60}}
                 | (?<!\w):(?=[\d_+-]*[a-z])[a-z0-9_+-]{{2,32}}:(?!\w) )
    """,
    re.VERBOSE,
)


def parse(source: str, split: Split = "sentences") -> Document:
    """A block a line, as lines are what people write sentences in. With another `split` the lines of a paragraph, which
    an empty line ends, are joined: all of them, or with "no_newlines" up to one that ends with a sentence."""
    return cut(source, _placed(source, _lines(source) if split == "sentences" else _paragraphs(source, split)))


def _placed(source: str, spans: Iterator[tuple[int, int]]) -> Iterator[Found]:
    for start, end in spans:
        if block := block_of(source[start:end]):
            yield Found(start, _on_one_line(block))


def _lines(source: str) -> Iterator[tuple[int, int]]:
    """Where what a reader reads of each line begins and ends."""
    for line in _LINE.finditer(source):
        if core := _CORE.search(line.group()):
            yield line.start() + core.start(), line.start() + core.end()


def _paragraphs(source: str, split: Split) -> Iterator[tuple[int, int]]:
    """Of each paragraph, or of the parts of it that end with a line and a sentence."""
    lines = [*_lines(source)]
    first = 0
    for last, (_, end) in enumerate(lines):
        start = lines[first][0]
        following = lines[last + 1] if last + 1 < len(lines) else None
        if (
            following
            and following[1] - start <= LONGEST_LINE
            and len(_LINE_END.findall(source, end, following[0])) == 1
        ):
            continue
        first = last + 1
        if split == "no_newlines":
            shown = _LINE_END.sub(lambda found: " " * len(found[0]), source[start:end])
            done = start
            for (_, before), (after, _) in pairwise(sentences(shown)):
                if _LINE_END.search(source, start + before, start + after):
                    yield done, start + before
                    done = start + after
            start = done
        yield start, end


def _on_one_line(block: Block) -> Block:
    """The block with a space for each end of a line in its text, or none between Chinese letters."""
    if not _LINE_END.search(block.text):
        return block
    runs = marks.pieces(block.text, block.tags)
    joined = [_SPACE.sub(_soft_end, run) if isinstance(run, str) else run for run in runs]
    return replace(block, text=marks.spell(joined, block.tags))


def _soft_end(space: re.Match[str]) -> str:
    if not _LINE_END.search(space[0]):
        return space[0]
    start, end = space.span()
    return "" if start and _CJK.match(space.string, start - 1) and _CJK.match(space.string, end) else " "


def write(block: Block, text: str) -> str:
    return block.source if text == block.text else marks.restore(block, text, str)


def block_of(source: str, form: str = "text") -> Block | None:
    """Text of one line or many as one block; None where nothing in it is for a translator."""
    kept = [(found, _end(found)) for found in _KEPT.finditer(source)] if _MAY_BE_KEPT.search(source) else []
    pairs = partners(
        (index, not found["closes"], found["name"])
        for index, (found, _) in enumerate(kept)
        if found["name"] and not found["alone"]
    )
    free = marks.free_numbers(source)
    parts, tags, numbers, done = list[str](), dict[int, tuple[str, str]](), dict[int, int](), 0
    for index, (found, end) in enumerate(kept):
        parts.append(source[done : found.start()])
        done = end
        if (opener := numbers.get(index)) is not None:
            parts.append(f"</s{opener}>")
            continue
        number = next(free)
        closer = pairs.get(index)
        if closer is None:
            tags[number] = (source[found.start() : end], "")
            parts.append(f"<s{number}></s{number}>")
        else:
            tags[number] = (found.group(), kept[closer][0].group())
            numbers[closer] = number
            parts.append(f"<s{number}>")
    text = "".join([*parts, source[done:]])
    words = any(character.isalpha() for run in marks.apart(text, tags) for character in run)
    return Block(text, source, form, tags) if words else None


def _end(found: re.Match[str]) -> int:
    if found["address"] is None and found["path"] is None:
        return found.end()
    return found.start() + len(without_tail(found.group(), _TRAILING))
