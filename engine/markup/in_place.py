"""Terms put into the source in place of its own words, each between marks: what a model is asked to carry over, it
carries over. Knows no prompt and no model.

`The server runs.` becomes `The <s1>Dienstrechner</s1> runs.`; of what comes back between the marks, the term as the
model inflected it stays, and anything else gives way to the term. Of 177 terms the small model obeyed 171 in the terms
template, and the other six so (160 sentences, four languages both ways, 2026-11-21).
"""

import re
from collections.abc import Mapping, Sequence

from engine import glossary
from engine.languages import ADDS_ENDINGS, UNSPACED_LETTERS
from engine.markup import marks
from engine.types import Term

_ENDING = re.compile(rf"(?:(?![{UNSPACED_LETTERS}])[^\W\d_])+")  # of the source's own word: the s of servers
_PAIR = ("<t>", "</t>")  # any tag, as a pair of marks has one


def put(text: str, tags: marks.Tags, terms: Sequence[Term], source: str) -> tuple[str, dict[int, str]]:
    """`text`, of language `source`, with the targets of its terms; and those by the numbers of their marks.

    A term that fills a pair of `tags` has the marks of that: a model would drop one of two.
    """
    known, numbers, targets = glossary.index(tuple(terms)), marks.free_numbers(text), dict[int, str]()
    pieces, parts = marks.pieces(text, tags), list[marks.Piece]()
    for at, piece in enumerate(pieces):
        if not isinstance(piece, str):
            parts.append(piece)
            continue
        done = 0
        for found in glossary.find(known, piece, source):
            target, end = found.term.target, found.end
            if source not in ADDS_ENDINGS and (ending := _ENDING.match(piece, end)):
                end = ending.end()
            parts.append(piece[done : found.start])
            done = end
            if (found.start, end) == (0, len(piece)) and (number_of_pair := _pair(pieces[at - 1 : at + 2])):
                targets[number_of_pair] = target
                parts.append(target)
            else:
                number = next(numbers)
                targets[number] = target
                parts += [marks.Mark(number, "open"), target, marks.Mark(number, "close")]
        parts.append(piece[done:])
    return marks.spell(parts, with_pairs(tags, targets)), targets


def _pair(around: Sequence[marks.Piece]) -> int | None:
    """The number of the pair that the first and the last of three pieces open and close."""
    if len(around) < 3 or isinstance(first := around[0], str) or isinstance(last := around[2], str):
        return None
    return first.number if first.number == last.number else None


def with_pairs(tags: marks.Tags, targets: Mapping[int, str]) -> marks.Tags:
    """The tags of the text that `put` gave."""
    return {**dict.fromkeys(targets, _PAIR), **tags}


def that_came_back(text: str, tags: marks.Tags, targets: Mapping[int, str], answer: str) -> tuple[str, dict[int, str]]:
    """`text` and `targets`, as `put` gave them, without the terms whose pair of marks is not whole in the answer."""
    said = [piece for piece in marks.read(answer, text, with_pairs(tags, targets)) if not isinstance(piece, str)]
    whole = {mark.number for mark in said if mark.kind == "open"} & {
        mark.number for mark in said if mark.kind == "close"
    }
    for number in targets.keys() - whole - tags.keys():
        text = text.replace(f"<s{number}>", "").replace(f"</s{number}>", "")
    return text, {number: target for number, target in targets.items() if number in whole}


def settled(text: str, tags: marks.Tags, targets: Mapping[int, str], lang: str) -> str:
    """A translation into `lang` of that text, whose marks are right, with the terms and without their marks but those
    of `tags`."""
    for number, target in targets.items():
        before, _, rest = text.partition(f"<s{number}>")
        said, _, after = rest.partition(f"</s{number}>")
        if said != target and not _is_form(said, target, lang):
            said = target
        text = before + (f"<s{number}>{said}</s{number}>" if number in tags else said) + after
    return text


def _is_form(said: str, target: str, lang: str) -> bool:
    """Whether `said` holds the target, inflected or not."""
    (result,) = glossary.check([Term("x", target)], "x", said, "", lang)
    return result.applied > 0
