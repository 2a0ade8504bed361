"""Scores the segmenter's sentences: lines that hold one each are joined, are they parted again in the same places?

    python -m engine.tools.evaluate segments --test FOLDER [--corpus FOLDER] --json

Six lines are one text, with a space between them where the language has one. Found are the places where a sentence
ends and another begins; the ends of the text are not counted. Now and then a line holds two sentences, so that no
segmenter can reach 1.0. A second figure forgives boundaries within a line where a sentence ends beyond doubt.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from engine.languages import CHINESE
from engine.segmenter import sentences
from engine.tools.asking import share

ABOUT = "boundaries of sentences in joined lines: precision, recall, F1"
LINES_JOINED = 6
LONGEST_END = 10  # characters: a few letters, the mark, quotation marks and brackets
FLORES = "flores200.devtest.en-*.tsv"  # columns doc, en and the other language
_JOINED_BY_NOTHING = frozenset(code.lower() for code in CHINESE | {"ja"})
_CLOSING = "\"'“”’»」』）)"
# !, ? and their like, or a full stop after as many letters as hardly an abbreviation has, the last a small one
_CERTAIN_END = re.compile(
    rf"(?:[!?。！？।॥؟۔།\u104b\u17d4]|[^\s\d.,:;{_CLOSING}]{{3}}[^\s\d.,:;{_CLOSING}A-ZА-Я]\.)[{_CLOSING}]*"
)


@dataclass(slots=True)
class Counts:
    """Boundaries: in the reference, found, found in their place, and found at certain ends within a line."""

    wanted: int = 0
    found: int = 0
    right: int = 0
    forgiven: int = 0

    def scores(self) -> dict[str, float]:
        return {
            "boundaries": self.wanted,
            "precision": share(self.right, self.found),
            "recall": share(self.right, self.wanted),
            "f1": share(2 * self.right, self.found + self.wanted),
            "f1_certain_forgiven": share(2 * self.right, self.found - self.forgiven + self.wanted),
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--test", type=Path, metavar="FOLDER", help=f"with {FLORES}")
    parser.add_argument(
        "--corpus", type=Path, metavar="FOLDER", help="with a CODE.txt for each language, a sentence a line"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of each language of each set, and their means. Raises `FileNotFoundError` where there is no sentence."""
    sets = {}
    if arguments.test:
        sets["flores"] = flores(arguments.test)
    if arguments.corpus:
        sets["corpus"] = {path.stem: _lines(path) for path in sorted(arguments.corpus.glob("[a-z]*.txt"))}
    if not any(sets.values()):
        raise FileNotFoundError(f"No sentences to join: name a folder with {FLORES} (--test) or CODE.txt (--corpus).")
    scores: dict[str, Any] = {}
    with tqdm(total=sum(map(len, sets.values())), mininterval=1) as bar:
        for name, languages in sets.items():
            scores[name] = {}
            for code, lines in languages.items():
                scores[name][code] = score(code, lines).scores()
                bar.update()
            scores[name]["mean"] = _mean(list(scores[name].values()))
    return {"task": "segments", "scores": scores}


def show(result: dict[str, Any]) -> str:
    """The scores as a table to read."""
    scores = result["scores"]
    heads = ["boundaries", "precision", "recall", "f1", "f1_certain_forgiven"]
    lines = [f"{'':16}" + "".join(f"{head:>22}" for head in heads)]
    for name, languages in scores.items():
        for code, of in languages.items():
            cells = [f"{of[head]:>22}" for head in heads]
            lines.append(f"{name + ' ' + code:16}" + "".join(cells))
    return "\n".join(lines)


def flores(folder: Path) -> dict[str, list[str]]:
    """The lines of each language there; English is in all of the files."""
    languages: dict[str, list[str]] = {}
    for path in sorted(folder.glob(FLORES)):
        head, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        for column in (1, 2):
            languages[head[column]] = [row[column].strip() for row in rows]
    return languages


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def score(code: str, lines: Sequence[str]) -> Counts:
    """Counts over all texts that the lines of a language make. The last may have fewer lines than the others."""
    counts = Counts()
    for text, ends in joined(code, lines):
        found = {end for _, end in sentences(text)} - {len(text)}
        wanted = set(ends) - {len(text)}
        counts.wanted += len(wanted)
        counts.found += len(found)
        counts.right += len(found & wanted)
        counts.forgiven += sum(_is_certain(text, end) for end in found - wanted)
    return counts


def _is_certain(text: str, end: int) -> bool:
    """Whether a sentence ends there beyond doubt, whatever the reference says."""
    tail = text[max(0, end - LONGEST_END) : end]
    return any(_CERTAIN_END.fullmatch(tail, start) for start in range(len(tail)))


def joined(code: str, lines: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Texts of so many lines, and where in each of them its lines end, in characters."""
    gap = "" if code.lower() in _JOINED_BY_NOTHING else " "
    for first in range(0, len(lines), LINES_JOINED):
        group = lines[first : first + LINES_JOINED]
        ends, at = [], 0
        for line in group:
            ends.append(at + len(line))
            at += len(line) + len(gap)
        yield gap.join(group), ends


def _mean(of: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(sum(scores[key] for scores in of) / len(of), 4) for key in of[0]} if of else {}
