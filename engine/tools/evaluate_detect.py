"""Scores what no model has a part in: is the language of a text told, how fast, and is doubt where it should be?

    python -m engine.tools.evaluate detect [--corpus FOLDER] --json

Each line is a sentence; its head is what a user may have typed so far. All 38 languages are offered, of which
Simplified Chinese, Traditional Chinese and Cantonese are three.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from engine.detect import detect, is_certain
from engine.languages import CHINESE, LANGUAGES
from engine.tools.asking import share

ABOUT = "is the language of sentences and of their first words told, and doubted where it is not?"
FIXTURE = Path(__file__).parents[2] / "tests" / "fixtures" / "detect.tsv"
HEAD_WORDS = 3
HEAD_CHARACTERS = 8  # where words are not parted by spaces


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, help="folder of CODE.txt, a sentence a line (else our own fixture)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of whole sentences and of their heads, each as `score` gives them."""
    sentences = list(_fixture() if arguments.corpus is None else _corpus(arguments.corpus))
    detect("The model is loaded before the clock starts.", LANGUAGES)
    heads = [(lang, head(text, lang)) for lang, text in sentences]
    return {"task": "detect", "scores": {"sentences": score(sentences), "heads": score(heads)}}


def head(text: str, lang: str) -> str:
    """The first words of `text`, which is in `lang`."""
    return " ".join(text.split()[:HEAD_WORDS]) if LANGUAGES[lang].spaced else text[:HEAD_CHARACTERS]


def score(texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Counts over (language, text): shares are of 1, `misses` says how often a language was taken for which."""
    began = time.process_time()
    guesses = [detect(text, LANGUAGES) for _, text in tqdm(texts, mininterval=1)]
    seconds = time.process_time() - began
    right, doubted = Counter[bool](), Counter[bool]()
    misses = defaultdict[str, Counter[str]](Counter)
    for (lang, _), guess in zip(texts, guesses, strict=True):
        found = guess[0].lang if guess else ""
        right[found == lang] += 1
        doubted[found == lang] += not is_certain(guess)
        if found != lang:
            misses[lang][found or "no letters"] += 1
    among_chinese = sum(misses[lang][other] for lang in CHINESE for other in CHINESE)
    return {
        "texts": len(texts),
        "right": share(right[True], len(texts)),
        "right_with_chinese_as_one": share(right[True] + among_chinese, len(texts)),
        "texts_a_second": round(len(texts) / max(seconds, 1e-9)),  # of CPU time
        "wrong_doubted": share(doubted[False], right[False]),
        "right_doubted": share(doubted[True], right[True]),
        "misses": {lang: dict(taken_for.most_common()) for lang, taken_for in sorted(misses.items()) if taken_for},
    }


def show(result: Mapping[str, Any]) -> str:
    """The scores as a table to read, then what was taken for what."""
    scores = result["scores"]
    lines = [
        f"{'':10}{'texts':>7}{'right':>9}{'Chinese as one':>16}{'texts/s':>9}{'doubted: wrong':>16}{'right':>8}",
    ]
    for name, of in scores.items():
        lines.append(
            f"{name:10}{of['texts']:>7,}{of['right']:>9.2%}{of['right_with_chinese_as_one']:>16.2%}"
            f"{of['texts_a_second']:>9,}{of['wrong_doubted']:>16.1%}{of['right_doubted']:>8.1%}"
        )
    for name, of in scores.items():
        misses = (f"{lang} → {other} {count}" for lang, row in of["misses"].items() for other, count in row.items())
        lines.append(f"{name}: {', '.join(misses) or 'no misses'}")
    return "\n".join(lines)


def _fixture() -> Iterator[tuple[str, str]]:
    for line in FIXTURE.read_text(encoding="utf-8").splitlines():
        lang, _, text = line.partition("\t")
        yield lang, text


def _corpus(folder: Path) -> Iterator[tuple[str, str]]:
    """Files not named for one of our languages are left out. Raises `OSError` where there is no such folder."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".txt" and path.stem in LANGUAGES:
            yield from ((path.stem, line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
