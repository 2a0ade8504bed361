"""Splits pairs into those to train on and those to test with, which have no text in common.

    python -m engine.tools.split FILE --out FOLDER --test 0.333

Reads what `engine.tools.pairs` reads and writes `train.XX-YY.tsv` and `test.XX-YY.tsv`. Neighbours stay on one side: a
document, or of a long one blocks, since a sentence tells much of the next. A pair that is there twice is written once;
one to train on that has either of its texts among those of the test is left out. Texts are the same where letters and
digits are, whatever their case, width, spaces and punctuation.
"""

import argparse
import json
import random
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from engine.errors import ConfigError, YiwenError
from engine.tools.asked import amount
from engine.tools.pairs import Pair, read

LEAST_BLOCKS = 8  # of a test, so that it is not of one matter alone
MOST_PAIRS = 200  # of a block


@dataclass(frozen=True, slots=True)
class Split:
    train: list[Pair]
    test: list[Pair]
    duplicates: int
    left_out: int  # pairs to train on that had a text of the test


def split(pairs: Iterable[Pair], share: float, seed: int) -> Split:
    """`share` of the pairs goes to the test, or a little less. Raises `ConfigError`."""
    whole, seen, duplicates = list[Pair](), set[tuple[str, ...]](), 0
    for pair in pairs:
        if (key := (pair.first_lang, bare(pair.first), pair.lang, bare(pair.second))) in seen:
            duplicates += 1
        else:
            seen.add(key)
            whole.append(pair)
    wanted = round(len(whole) * share)
    blocks = _blocks(whole, min(MOST_PAIRS, max(1, wanted // LEAST_BLOCKS)))
    order = list(range(len(blocks)))
    random.Random(seed).shuffle(order)
    chosen, held = set[int](), 0
    for number in order:
        if held + len(blocks[number]) <= wanted:
            chosen.add(number)
            held += len(blocks[number])
    test = [pair for number in sorted(chosen) for pair in blocks[number]]
    texts = {bare(side) for pair in test for side in (pair.first, pair.second)}
    rest = [pair for number, block in enumerate(blocks) if number not in chosen for pair in block]
    train = [pair for pair in rest if bare(pair.first) not in texts and bare(pair.second) not in texts]
    if not train or not test:
        raise ConfigError(
            f"{len(whole):,} different pairs give {len(train):,} to train on and {len(test):,} to test with; give more "
            "pairs, or another share for the test."
        )
    return Split(train, test, duplicates, len(rest) - len(train))


def bare(text: str) -> str:
    """Letters and digits alone, of one case and width; a text that has none as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if unicodedata.category(char)[0] in "LMN") or text


def _blocks(pairs: Sequence[Pair], most: int) -> list[list[Pair]]:
    """Neighbours of one document and its languages, of no more than `most` pairs and about equal length."""
    blocks = []
    for _, group in groupby(pairs, lambda pair: (pair.origin, pair.first_lang, pair.lang)):
        document = list(group)
        parts = -(-len(document) // most)
        ends = [len(document) * part // parts for part in range(parts + 1)]
        blocks += [document[start:end] for start, end in pairwise(ends)]
    return blocks


def write(folder: Path, name: str, pairs: Iterable[Pair]) -> list[str]:
    """A file for each two languages, with a heading; the names written."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[tuple[str, str], list[str]] = {}
    for pair in pairs:
        columns = (" ".join(text.split()) for text in (pair.origin, pair.first, pair.second))
        lines.setdefault((pair.first_lang, pair.lang), []).append("\t".join(columns) + "\n")
    names = []
    for (first_lang, lang), of_both in sorted(lines.items()):
        names.append(f"{name}.{first_lang}-{lang}.tsv".lower())
        heading = f"doc\t{first_lang}\t{lang}\n"
        (folder / names[-1]).write_text(heading + "".join(of_both), encoding="utf-8", newline="\n")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description="Split pairs into a training and a test file without common texts.")
    parser.add_argument("file", metavar="FILE", type=Path, help="TSV, JSON Lines or TMX; or a folder of such")
    parser.add_argument("--out", type=Path, required=True, help="folder for train.XX-YY.tsv and test.XX-YY.tsv")
    parser.add_argument("--test", type=amount, required=True, help="share of the pairs that are to test with, below 1")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.test >= 1:
        parser.error("argument --test: give a share below 1, as 0.2.")
    try:
        pairs = tqdm(read(arguments.file), unit=" pairs", mininterval=1, file=sys.stderr)
        made = split(pairs, arguments.test, arguments.seed)
        files = [*write(arguments.out, "train", made.train), *write(arguments.out, "test", made.test)]
    except (YiwenError, OSError) as error:
        raise SystemExit(str(error)) from error
    counts = {"train": len(made.train), "test": len(made.test)}
    counts |= {"duplicates": made.duplicates, "left_out": made.left_out}
    print(json.dumps({"out": str(arguments.out), "files": files, **counts}))


if __name__ == "__main__":
    main()
