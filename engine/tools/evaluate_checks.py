"""Scores `checks`: how often is a human translation doubted, how often a damaged one? No model has a part in it.

    python -m engine.tools.evaluate checks --test FOLDER --json

FOLDER holds NAME.en-XX.tsv, each with a header (doc, en, XX) and a line for each pair; both directions are looked at.
Damage is what careless models do: they stop early, loop, answer in a third language, or give the source back. Dice have
fixed seeds.
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from engine.checks import Fault, english_letters, faults
from engine.languages import CHINESE, LANGUAGES, resolve

ABOUT = "are human translations taken, and damaged ones doubted? (no model)"
SETS = "flores200.devtest,tatoeba"
SEED = 11
CUT = (0.3, 0.7)  # of the words, or of the letters in scripts without spaces, are left
LOOP_WORDS = (1, 8)
LOOP_TIMES = (5, 12)
LETTERS_PER_WORD = 2  # where words are not parted: those of Chinese have two on average
THIRD_LANGUAGE_DRAWS = 50  # of which the one nearest in length is taken, so that length does not give it away


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and its human translation. `line` is its number in the set, which starts with 0."""

    text: str
    reference: str
    source: str
    target: str
    line: int
    last: str  # what comes last in the reference: all of it, or with `--join` its last line


Lines = tuple[str, ...]  # of one text
Sets = Mapping[str, Sequence[tuple[Lines, Lines]]]  # language → (English, its own)
Damage = Callable[[Pair, Sets, random.Random], str | None]  # None where there is nothing to damage


# ---------------------------------------------------------------------------------------------------------------------
# texts


def read(folder: Path, name: str, join: int = 1) -> dict[str, list[tuple[Lines, Lines]]]:
    """The pairs of all languages of a set, `join` lines each."""
    languages = {}
    for path in sorted(folder.glob(f"{name}.en-*.tsv")):
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        groups = [rows[first : first + join] for first in range(0, len(rows) - join + 1, join)]
        pairs = [(tuple(row[1].strip() for row in group), tuple(row[2].strip() for row in group)) for group in groups]
        languages[resolve(path.stem.rpartition(".en-")[2], LANGUAGES)] = pairs
    return languages


def directions(languages: Sets) -> Iterator[tuple[str, str]]:
    for lang in languages:
        yield "en", lang
        yield lang, "en"


def pairs_of(languages: Sets, source: str, target: str) -> Iterator[Pair]:
    for line, (english, other) in enumerate(languages[target if source == "en" else source]):
        text, reference = (english, other) if source == "en" else (other, english)
        yield Pair(_text(text, source), _text(reference, target), source, target, line, reference[-1])


def _text(lines: Lines, lang: str) -> str:
    return (" " if LANGUAGES[lang].spaced else "").join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# damage


def truncated(pair: Pair, languages: Sets, dice: random.Random) -> str | None:
    words, space = _words(pair.reference, pair.target)
    if len(words) < 2:
        return None
    return space.join(words[: min(len(words) - 1, max(1, round(dice.uniform(*CUT) * len(words))))])


def unfinished(pair: Pair, languages: Sets, dice: random.Random) -> str | None:
    """Without its last line, so that it ends as a text should."""
    return pair.reference.removesuffix(pair.last).strip() or None


def looped(pair: Pair, languages: Sets, dice: random.Random) -> str | None:
    words, space = _words(pair.reference, pair.target)
    begin = dice.randrange(len(words) // 3, max(len(words) // 3 + 1, 2 * len(words) // 3))
    stretch = words[begin : begin + dice.randint(*LOOP_WORDS)]
    return space.join(words[:begin] + stretch * dice.randint(*LOOP_TIMES))


def third_language(pair: Pair, languages: Sets, dice: random.Random) -> str | None:
    """The same line in a third language where lines are parallel, else one about as long."""
    others = [lang for lang in languages if lang not in (pair.source, pair.target)]
    lang = dice.choice([lang for lang in others if not {lang, pair.target} <= CHINESE])
    texts = [_text(lines, lang) for _, lines in languages[lang]]
    if _parallel(languages):
        return texts[pair.line]
    size = english_letters(pair.reference, pair.target)
    return min(dice.choices(texts, k=THIRD_LANGUAGE_DRAWS), key=lambda text: abs(english_letters(text, lang) - size))


def echoed(pair: Pair, languages: Sets, dice: random.Random) -> str | None:
    return pair.text


DAMAGE: dict[str, Damage] = {
    "truncated": truncated,
    "unfinished": unfinished,
    "looped": looped,
    "other language": third_language,
    "echoed": echoed,
}


def _words(text: str, lang: str) -> tuple[list[str], str]:
    """Words, and what stands between them."""
    if LANGUAGES[lang].spaced:
        return text.split(), " "
    return re.findall(f"(?s).{{1,{LETTERS_PER_WORD}}}", text), ""


def _parallel(languages: Sets) -> bool:
    """Whether the files of a set have the same English lines."""
    first, *rest = languages.values()
    return all(len(pairs) == len(first) and pairs[-1][0] == first[-1][0] for pairs in rest)


# ---------------------------------------------------------------------------------------------------------------------
# scores


def score(pairs: Sequence[Pair], languages: Sets) -> dict[str, int]:
    """Counts: references, those doubted, by which check; of each kind of damage how many there are and were doubted."""
    counts: Counter[str] = Counter()
    dice = random.Random(SEED)
    for pair in pairs:
        found = _faults(pair, pair.reference)
        counts["references"] += 1
        counts["doubted"] += bool(found)
        counts.update(fault.code for fault in found)
        for kind, damage in DAMAGE.items():
            answer = damage(pair, languages, dice)
            if answer is not None:
                counts[f"{kind}: answers"] += 1
                counts[f"{kind}: doubted"] += bool(_faults(pair, answer))
    return dict(counts)


def _faults(pair: Pair, answer: str) -> tuple[Fault, ...]:
    return faults(pair.text, answer, pair.source, pair.target)


# ---------------------------------------------------------------------------------------------------------------------
# the task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--test", type=Path, required=True, help="a folder of NAME.en-XX.tsv")
    parser.add_argument("--sets", default=SETS, help=f"names, with commas (default: {SETS})")
    parser.add_argument(
        "--join", type=int, default=1, help="lines a text (default: 1); with more, a last one is left out"
    )
    parser.add_argument("--limit", type=int, default=None, help="this many texts of each file alone")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for name in arguments.sets.split(","):
        languages = read(arguments.test, name, arguments.join)
        total: Counter[str] = Counter()
        scores[name] = {}
        for source, target in tqdm(list(directions(languages)), desc=name):
            pairs = list(pairs_of(languages, source, target))[: arguments.limit]
            counts = score(pairs, languages)
            scores[name][f"{source}-{target}"] = shares(counts)
            total.update(counts)
        scores[name]["all"] = shares(total)
    return {"task": "checks", "seed": SEED, "join": arguments.join, "scores": scores}


def shares(counts: Mapping[str, int]) -> dict[str, Any]:
    """Counts as shares: false alarms of all and by check, and recall of all damage and by kind."""
    references = counts["references"]
    alarms = [code for code in counts if code not in ("references", "doubted") and ": " not in code]
    answers, doubted = (sum(counts.get(f"{kind}: {what}", 0) for kind in DAMAGE) for what in ("answers", "doubted"))
    return {
        "references": references,
        "false_alarms": counts["doubted"] / references,
        "false_alarms_by_check": {code: counts[code] / references for code in sorted(alarms)},
        "damaged": answers,
        "recall": doubted / answers,
        "recall_by_kind": {
            kind: counts.get(f"{kind}: doubted", 0) / counts[f"{kind}: answers"]
            for kind in DAMAGE
            if counts.get(f"{kind}: answers")
        },
    }


def show(result: Mapping[str, Any]) -> str:
    scores = result["scores"]
    kinds = list(DAMAGE)
    heads = ["references", "false alarms", *kinds, "all damage"]
    lines = [f"{'':30}" + "".join(f"{head:>16}" for head in heads)]
    for name, by_direction in scores.items():
        for direction, of in by_direction.items():
            recalls = [of["recall_by_kind"].get(kind) for kind in kinds]
            cells = [f"{of['references']:,}", f"{of['false_alarms']:.2%}"]
            cells += ["–" if recall is None else f"{recall:.1%}" for recall in [*recalls, of["recall"]]]
            lines.append(f"{f'{name} {direction}':30}" + "".join(f"{cell:>16}" for cell in cells))
        by_check = by_direction["all"]["false_alarms_by_check"]
        lines.append("  false alarms: " + ", ".join(f"{code} {share:.2%}" for code, share in by_check.items()))
    return "\n".join(lines)
