"""What of a document's markup is written otherwise than in its source, on purpose: found by comparing the two.

These are the declared changes of the writers (`html`, `markdown`, `front_matter`) to a block that is translated; all
else of a document stays, but for its words. Knows no model.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import unescape

from engine.markup import front_matter, html, markdown_writing
from engine.markup.spans import filled
from engine.types import Block, MarkupChange

_SENTENCES = {  # by code: of one, of many
    "lines_joined": (
        "One line break inside a paragraph became a space.",
        "{count:,} line breaks inside paragraphs became spaces.",
    ),
    "emphasis_respelt": (
        "One emphasis written _so_ or ~so~ became *so* or ~~so~~, since it stands next to a letter.",
        "{count:,} emphases written _so_ or ~so~ became *so* or ~~so~~, since they stand next to letters.",
    ),
    "emphasis_as_html": (
        "One emphasis became an HTML tag such as <strong>, since nothing else would be read there.",
        "{count:,} emphases became HTML tags such as <strong>, since nothing else would be read there.",
    ),
    "space_added": (
        "One space was put beside a mark of Markdown, which would not be read without it.",
        "{count:,} spaces were put beside marks of Markdown, which would not be read without them.",
    ),
    "label_added": (
        "One link that was found by its own text now names its label: [text][label].",
        "{count:,} links that were found by their own text now name their labels: [text][label].",
    ),
    "quotes_added": (
        "One value was put in double quotes, which its new text needs.",
        "{count:,} values were put in double quotes, which their new texts need.",
    ),
    "entities_written_out": (
        "One entity, such as &copy;, became the letter it stands for.",
        "{count:,} entities, such as &copy;, became the letters they stand for.",
    ),
}
_LINE_END = re.compile(r"\r\n?|\n")
_ENTITY = re.compile(r"&(?:#[^\s<&#;]{1,32}|[A-Za-z][A-Za-z0-9]{1,40});")
_WRITTEN_AS_SUCH = frozenset("&<>\u00a0\"'\r")


def declared(blocks: Sequence[Block], texts: Sequence[str], written: Sequence[str]) -> tuple[MarkupChange, ...]:
    """Those of a document whose blocks have the `texts` now, and are `written` so."""
    counts: Counter[str] = Counter()
    for block, text, new in zip(blocks, texts, written, strict=True):
        if text != block.text and new != block.source:
            counts.update(_of_block(block, text, new, blocks, written))
    return tuple(
        MarkupChange(code, counts[code], sentences[counts[code] > 1].format(count=counts[code]))
        for code, sentences in _SENTENCES.items()
        if counts[code] > 0
    )


def _of_block(block: Block, text: str, new: str, blocks: Sequence[Block], written: Sequence[str]) -> Mapping[str, int]:
    old = block.source
    counts: Counter[str] = Counter()
    # what stands in its tags is a block of its own, and was counted there
    inner = [part for ends in block.nested.values() for side in ends for part in side if isinstance(part, int)]
    inside = dict.fromkeys(inner)
    counts["lines_joined"] = _fewer(_LINE_END, old, new) - sum(
        _fewer(_LINE_END, blocks[number].source, written[number]) for number in inside
    )
    counts["entities_written_out"] = _written_out(old, new) - sum(
        _written_out(blocks[number].source, written[number]) for number in inside
    )
    in_values = block.form.startswith(front_matter.FORM) or block.form.endswith(html.UNQUOTED)
    counts["quotes_added"] = int(in_values and new.startswith('"') and not old.startswith('"'))
    if not in_values and not block.form.startswith(("text", "html", "xml", "inline", "title")):
        block = filled(block, written)  # as it was written
        for tag in {closing for _, closing in block.tags.values() if closing.startswith("][")}:
            counts["label_added"] += max(0, new.count(tag) - old.count(tag))
        counts.update(markdown_writing.changed_delimiters(block, text, new))
    return +counts


def _fewer(what: re.Pattern[str], old: str, new: str) -> int:
    return max(0, len(what.findall(old)) - len(what.findall(new)))


def _written_out(old: str, new: str) -> int:
    """Entities of `old` whose letters stand in `new`. Those that are gone with their words are not counted."""
    total = 0
    for entity, count in Counter(_ENTITY.findall(old)).items():
        letter = unescape(entity)
        if letter != entity and letter not in _WRITTEN_AS_SUCH:
            total += max(0, min(count - new.count(entity), new.count(letter) - old.count(letter)))
    return total
