"""Other translations of one segment: how freely each is sampled, which may be shown, and how it stands in the document.

Knows no backend; the translator asks for them in turn, a slot each.
"""

import re
from dataclasses import replace

from engine.job import Job
from engine.languages import LANGUAGES
from engine.markup import kept, marks
from engine.markup.parse import Markup, Parser
from engine.markup.spans import is_refused
from engine.markup.verify import at_fault
from engine.types import Block, Document, Sampling, Skeleton, Translated

# Of free answers some are the same, and some are no good. With the embedded model 47 of 56 Tatoeba sentences (en ↔ zh
# de) had two or three others so, of chrF 41 against their references; the first translations have 48. Of seven settings
# all came within 0.7 of that; the wilder ones made up more words.
TRIES_PER_ALTERNATIVE = 4  # answers that are asked for at the most
COOLEST, HOTTEST = 0.6, 1.0  # temperatures, from the first try to the last
TOP_P, TOP_K = 0.9, 3
SEED_STEP = 101  # prime, and no step of the remedies

# What is amiss with an answer that is none: it is not shown. The rest is amiss with the answer that stands there too.
_NO_TRANSLATION = frozenset(
    "empty truncated looping incomplete too_long wrong_language echo notes numbers translated_apart tags_moved".split()
)


def freer(asked: Sampling, number: int, tries: int) -> Sampling:
    """For the try of this number, from 0: each is freer than the one before, and none stricter than was asked for."""
    temperature = COOLEST + (HOTTEST - COOLEST) * number / max(1, tries - 1)
    return replace(
        asked,
        temperature=max(asked.temperature or 0.0, temperature),
        top_p=max(asked.top_p or 0.0, TOP_P),
        top_k=max(asked.top_k, TOP_K) if asked.top_k else TOP_K if asked.top_k is None else 0,  # 0: no limit
        seed=None if asked.seed is None else (asked.seed + SEED_STEP * (number + 1)) % 2**63,
    )


def is_fit(done: Translated) -> bool:
    return not any(warning.code in _NO_TRANSLATION for warning in done.warnings)


def as_it_stands(
    job: Job, document: Document, markup: Markup, parser: Parser, target: str, done: Translated, before: str
) -> str | None:
    """The segment's translation as it stands in the document, tags and all; None where the document would lose its
    structure by it. What is read in its tags, such as an alternative text, is as in the translation of `before`."""
    number = done.segment.block
    block = _with_tags_of(before, job.blocks[number])
    said = [done.text if part.index == done.segment.index else kept.spelt_out(part, part.text) for part in job.segments]
    texts = [block.text for block in job.blocks]
    texts[number] = job.texts(said, LANGUAGES[target])[number]
    written = parser.write(block, texts[number])
    if is_refused(block, texts[number], written) or at_fault(markup, document, parser.write, texts):
        return None
    if texts[number] == done.text:  # it is all of the block, and `write` has the last word
        return written
    text = marks.restore(block, done.text, parser.escape(block))
    return text if text in written else None


def _with_tags_of(before: str, block: Block) -> Block:
    """The block with those of its tags that hold other blocks as they stand in a translation of it, if they do."""
    tags = dict(block.tags)
    for number, skeletons in block.nested.items():
        if number in tags:  # not the whole
            tags[number] = (
                _as_in(before, skeletons[0]) or tags[number][0],
                _as_in(before, skeletons[1]) or tags[number][1],
            )
    return replace(block, tags=tags)


def _as_in(before: str, skeleton: Skeleton) -> str:
    if not skeleton:
        return ""
    found = re.search("".join(re.escape(part) if isinstance(part, str) else "(?s:.*?)" for part in skeleton), before)
    return found[0] if found else ""
