"""Scores what no model has a part in: do documents come back, is their structure kept, what does damage to marks do?

    python -m engine.tools.evaluate markup [--corpus FOLDER] --json

Every document is parsed and rebuilt with its own texts, then with three made-up translations, then with answers that a
careless model could have given. Structure is what `markup.verify` sees. Accents and CJK must keep its order and where
there is text in it; hostile text may come where none was; what was damaged may have another order.
"""

import argparse
import json
import random
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from engine.markup import marks, verify
from engine.markup.parse import PARSERS, Markup
from engine.markup.spans import rebuild, remembering
from engine.types import Block, Document

ABOUT = "documents that come back, structure kept, marks mended; no model"
FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures" / "markup"
LONGEST_INSTALLED = 3_000_000  # bytes of a file in site-packages; what is longer is a program in a page
SEED = 5
HOSTILE = "*_`[x](y)<b>&lt;|~~$#"

_EXAMPLE = re.compile(r"^`{32} example[^\n]*\n(.*?)^\.\n", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"[A-Za-zÀ-ɏ']+")
_MARK = re.compile(r"</?s\d+>")
_XLIFF = re.compile(r"<(?P<closes>/?)(?P<name>g|x|bx|ex)\b(?:[^>]*?id=\"(?P<id>\d+)\")?[^>]*?(?P<alone>/?)>")
_XLIFF_NUMBERS = {"g": 0, "x": 1000, "bx": 2000, "ex": 3000}  # each kind counts its own ids
_ACCENTS = str.maketrans("aceinosuyACEINOSUY", "áćéíńóśúýÁĆÉÍŃÓŚÚÝ")
_WIDE = ((". ", "。"), (", ", "，"), (": ", "："), ("(", "（"), (")", "）"), ('"', "”"))


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents of one kind, or sentences with marks and what a human made of them."""

    name: str
    markup: Markup
    documents: Sequence[str] = ()
    answers: Sequence["Answer"] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is a block's, `answer` a good translation of it."""

    text: str
    tags: Mapping[int, tuple[str, str]]
    answer: str


# ---------------------------------------------------------------------------------------------------------------------
# corpora


def own_corpora() -> Iterator[Corpus]:
    """Those in the repository."""
    yield Corpus("fixtures: html5lib", "html", html5lib_documents(FIXTURES / "html"))
    examples = json.loads((FIXTURES / "markdown" / "examples.json").read_text(encoding="utf-8"))
    for name, documents in examples.items():
        yield Corpus(f"fixtures: {name}", "markdown", documents)
    yield Corpus("fixtures: XML", "xml", _pages(FIXTURES / "xml", ""))
    lines = [line.split("\t") for line in (FIXTURES / "eurlex" / "pairs.tsv").read_text("utf-8").splitlines()]
    yield _eurlex("fixtures: EUR-Lex de", [(line[0], line[1]) for line in lines])
    yield _eurlex("fixtures: EUR-Lex fr", [(line[0], line[2]) for line in lines])


def shared_corpora(folder: Path) -> Iterator[Corpus]:
    """Those of `folder`, which is laid out as the projects they come from; of what is missing there is nothing."""
    yield Corpus("CommonMark", "markdown", _examples(folder / "commonmark-spec" / "spec.txt"))
    yield Corpus("GFM", "markdown", _examples(folder / "cmark-gfm" / "spec.txt"))
    extensions = ("cmark/regression.txt", "cmark-gfm/regression.txt", "cmark-gfm/extensions.txt")
    yield Corpus("cmark", "markdown", [*_pages(folder / "cmark" / "bench"), *_each(_examples, folder, extensions)])
    for name in ("markdown-it-py", "mdit-py-plugins"):
        yield Corpus(name, "markdown", [case for path in _files(folder / name, ".md") for case in _cases(path)])
    yield Corpus("Kubernetes", "markdown", _pages(folder / "k8s-docs"))
    yield Corpus("Vue", "markdown", _pages(folder / "vue-docs"))
    yield Corpus("html5lib", "html", html5lib_documents(folder / "html5lib-tests" / "tree-construction"))
    for lang in ("de", "fr"):
        for name in ("test-eurlex", "dev-eurlex"):
            files = [folder / "mt-markup-tags" / f"{name}.{code}" for code in ("en", lang)]
            if all(path.exists() for path in files):
                lines = zip(*(path.read_text(encoding="utf-8").splitlines() for path in files), strict=True)
                yield _eurlex(f"EUR-Lex {name.partition('-')[0]} {lang}", lines)


def installed_corpora() -> Iterator[Corpus]:
    """What the packages around us brought along, as found."""
    folder = Path(sysconfig.get_path("purelib"))
    yield Corpus("packages' Markdown", "markdown", _pages(folder))
    yield Corpus("packages' HTML", "html", _pages(folder, ".html"))


def html5lib_documents(folder: Path) -> list[str]:
    """The whole documents, not fragments, of html5lib's tests of the tree."""
    return [
        case[len("#data\n") :].split("\n#errors")[0]
        for path in _files(folder, ".dat")
        for case in re.split(r"(?:^|\n\n)(?=#data\n)", path.read_bytes().decode())
        if case.startswith("#data\n") and "\n#document-fragment\n" not in case
    ]


def _files(folder: Path, ending: str) -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{ending}") if path.stat().st_size <= LONGEST_INSTALLED)


def _pages(folder: Path, ending: str = ".md") -> list[str]:
    return [path.read_bytes().decode(errors="replace") for path in _files(folder, ending)]


def _each(read: Callable[[Path], list[str]], folder: Path, names: Iterable[str]) -> list[str]:
    return [case for name in names for case in read(folder / name)]


def _examples(path: Path) -> list[str]:
    """The Markdown of a specification's examples."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [example.replace("→", "\t") for example in _EXAMPLE.findall(text)]


def _cases(path: Path) -> list[str]:
    """The Markdown of markdown-it's fixtures: after a title, and its HTML, each between lines that are a point."""
    parts = re.split(r"^\.\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return parts[1::3]


def _eurlex(name: str, lines: Iterable[Sequence[str]]) -> Corpus:
    answers = []
    for english, other in lines:
        text, tags = marked(english)
        if tags:
            answers.append(Answer(text, tags, marked(other)[0]))
    return Corpus(name, "text", answers=answers)


def marked(line: str) -> tuple[str, dict[int, tuple[str, str]]]:
    """A line with XLIFF's inline codes as a block's text and tags."""
    tags: dict[int, tuple[str, str]] = {}
    open_numbers: list[int] = []
    parts, done = [], 0
    for code in _XLIFF.finditer(line):
        parts.append(line[done : code.start()])
        done = code.end()
        if code["closes"]:
            parts.append(f"</s{open_numbers.pop()}>")
            continue
        number = int(code["id"]) + _XLIFF_NUMBERS[code["name"]]
        if code["alone"]:
            tags[number] = (code[0], "")
            parts.append(f"<s{number}></s{number}>")
        else:
            tags[number] = (code[0], "</g>")
            open_numbers.append(number)
            parts.append(f"<s{number}>")
    return "".join([*parts, line[done:]]), tags


# ---------------------------------------------------------------------------------------------------------------------
# made-up translations


def _by_run(change: Callable[[str], str]) -> Callable[[str, marks.Tags], str]:
    """A translation that changes what stands between the marks."""

    def translate(text: str, tags: marks.Tags) -> str:
        cut = marks.pieces(text, tags)
        return marks.spell([change(piece) if isinstance(piece, str) else piece for piece in cut], tags)

    return translate


def accented(run: str) -> str:
    return run.translate(_ACCENTS)


def tight(run: str) -> str:
    """Chinese takes no spaces, and its punctuation is wide."""
    if not re.search("[A-Za-z]", run):
        return run
    run = _WORD.sub("译文", run.strip())
    for narrow, wide in _WIDE:
        run = run.replace(narrow, wide)
    return re.sub("(?<=译文) (?=译文)", "", re.sub(r"\.$", "。", re.sub(",$", "，", run)))


def _hostile(text: str, tags: marks.Tags) -> str:
    return "1. # " + _by_run(lambda run: _WORD.sub(lambda word: word[0] + HOSTILE, run))(text, tags)


PSEUDO: dict[str, Callable[[str, marks.Tags], str]] = {
    "accents": _by_run(accented),
    "cjk": _by_run(tight),
    "hostile": _hostile,
}


def _without_text(items: verify.Skeleton) -> verify.Skeleton:
    return tuple(item for item in items if item != verify.TEXT)


LOOK: dict[str, Callable[[verify.Skeleton], Hashable]] = {  # what of a skeleton must be the same after each
    "accents": lambda items: items,
    "cjk": lambda items: items,
    "hostile": _without_text,
    "damaged": verify.unordered,
}


# ---------------------------------------------------------------------------------------------------------------------
# damage


def damaged(text: str, kind: str, dice: random.Random) -> str:
    """`text`, which has two marks or more, as a careless model would give it."""
    found = list(_MARK.finditer(text))
    one, other = sorted(dice.sample(found, 2), key=lambda mark: mark.start())
    without = text[: one.start()] + text[one.end() :]
    match kind:
        case "width":
            return _MARK.sub(lambda mark: mark[0].replace("<", "＜").replace(">", "＞"), text)
        case "case":
            return _MARK.sub(lambda mark: mark[0].replace("<", "< ").replace("s", "S"), text)
        case "strip":
            return _MARK.sub("", text)
        case "truncate":
            return text[: dice.randrange(len(text) // 2, len(text))]
        case "invent":
            place = dice.choice([0, len(text), found[0].start()])
            return f"{text[:place]}<s777777>{text[place:]}"
        case "drop":
            return without
        case "double":
            return text[: one.end()] + one[0] + text[one.end() :]
        case "swap":
            return text[: one.start()] + other[0] + text[one.end() : other.start()] + one[0] + text[other.end() :]
        case "move":
            place = without.rfind(" ") + 1
            return without[:place] + one[0] + without[place:]
        case "echo":
            return f"Translate: {text}"
        case "fence":
            return f"```\n{text}\n```"
        case _:
            raise ValueError(kind)


DAMAGE = "width case double invent drop swap move strip truncate echo fence".split()
PEN_SLIPS = frozenset({"width", "case", "double", "invent"})  # which are mended whatever they hit


def guarded(block: Answer, answer: str) -> tuple[str, bool, bool]:
    """What is made of a damaged answer, whether it was mended, and whether any of its words was lost.

    What cannot be mended is translated run by run: here, with accents.
    """
    mended = marks.mend(block.text, block.tags, answer)
    if mended is None:
        runs = [accented(run) for run in marks.apart(block.text, block.tags)]
        whole = marks.together(block.text, block.tags, runs)
        return whole, False, marks.bare(whole, block.tags) != accented(marks.bare(block.text, block.tags))
    said = "".join(piece for piece in marks.read(answer, block.text, block.tags) if isinstance(piece, str))
    return mended, True, marks.bare(mended, block.tags) != said


def nesting(text: str, tags: marks.Tags) -> dict[int, int] | None:
    """Each mark's number → that of the one around it, 0 for none; None where marks are not well nested."""
    parents: dict[int, int] = {}
    around = [0]
    for piece in marks.pieces(text, tags):
        if isinstance(piece, str):
            continue
        if piece.kind == "close":
            if around.pop() != piece.number:
                return None
        elif piece.number in parents:
            return None
        else:
            parents[piece.number] = around[-1]
            around.append(piece.number)
    return parents if around == [0] else None


# ---------------------------------------------------------------------------------------------------------------------
# scores


@dataclass(slots=True)
class Speed:
    """Seconds for so many bytes: parsing and rebuilding as it was, and rebuilding with accents in each block."""

    bytes: int = 0
    parsing: float = 0.0
    writing: float = 0.0

    def rates(self) -> dict[str, float]:
        megabytes = self.bytes / 1e6
        return {
            "megabytes": round(megabytes, 3),
            "identity_mb_a_second": round(megabytes / self.parsing, 2),
            "translated_mb_a_second": round(megabytes / (self.parsing + self.writing), 2),
        }


def score(corpus: Corpus, progress: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Counts over a corpus. `progress` is called after each document or sentence."""
    counts: Counter[str] = Counter()
    speed = Speed()
    dice = random.Random(SEED)
    for document in corpus.documents:
        _score_document(corpus.markup, document, counts, dice, speed)
        progress()
    for answer in corpus.answers:
        counts["cases"] += 1
        counts["accepted"] += marks.mend(answer.text, answer.tags, answer.answer) == answer.answer
        _score_damage(answer, counts, dice)
        progress()
    return dict(counts) | (speed.rates() if corpus.documents else {})


def _score_document(markup: Markup, source: str, counts: Counter[str], dice: random.Random, speed: Speed) -> None:
    parser = PARSERS[markup]
    began = time.perf_counter()
    document = parser.parse(source)
    own = [block.text for block in document.blocks]
    same = rebuild(document, parser.write, own) == source
    parsed = time.perf_counter()
    texts = {name: [change(block.text, block.tags) for block in document.blocks] for name, change in PSEUDO.items()}
    began_to_write = time.perf_counter()
    rebuild(document, parser.write, texts["accents"])
    speed.bytes += len(source.encode(errors="replace"))
    speed.parsing += parsed - began
    speed.writing += time.perf_counter() - began_to_write
    counts["cases"] += 1
    counts["identical"] += same
    counts["blocks"] += len(own)
    for name, translated in texts.items():
        _score_skeleton(markup, source, document, translated, name, counts)
    texts["damaged"] = [_damaged_text(block, counts, dice) for block in document.blocks]
    _score_skeleton(markup, source, document, texts["damaged"], "damaged", counts)


def _score_skeleton(
    markup: Markup, source: str, document: Document, texts: Sequence[str], name: str, counts: Counter[str]
) -> None:
    write, look = PARSERS[markup].write, LOOK[name]
    try:
        wanted = look(verify.skeleton(markup, source))
        kept = look(verify.skeleton(markup, rebuild(document, write, texts))) == wanted
    except verify.Unverifiable:
        counts[f"{name} unverifiable"] += 1
        return
    counts[f"{name} kept"] += kept
    if not kept:
        faults = verify.at_fault(markup, document, remembering(write), texts) or []
        mixed = [document.blocks[index].text if index in faults else text for index, text in enumerate(texts)]
        kept = look(verify.skeleton(markup, rebuild(document, write, mixed))) == wanted
        counts[f"{name} stepped down"] += len(faults)
    counts[f"{name} kept at last"] += kept


def _damaged_text(block: Block, counts: Counter[str], dice: random.Random) -> str:
    """One of what the guard made of the damage to an answer."""
    answer = Answer(block.text, block.tags, PSEUDO["accents"](block.text, block.tags))
    return _score_damage(answer, counts, dice) if len(block.tags) else answer.answer


def _score_damage(block: Answer, counts: Counter[str], dice: random.Random) -> str:
    """Adds every kind of damage to `counts`, and returns what was made of one."""
    wanted = nesting(block.text, block.tags)
    made = []
    for kind in DAMAGE:
        text, mended, lost = guarded(block, damaged(block.answer, kind, dice))
        counts["answers"] += 1
        counts["mended"] += mended
        counts["slips not mended"] += kind in PEN_SLIPS and not mended
        counts["valid"] += nesting(text, block.tags) == wanted
        counts["text lost"] += lost
        made.append(text)
    return dice.choice(made)


# ---------------------------------------------------------------------------------------------------------------------
# the run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, help="folder of specifications, tests and pages (default: our fixtures)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of our own corpora and, where there is a folder of others, of those and of what packages brought."""
    corpora = list(own_corpora())
    if arguments.corpus is not None:
        corpora += [*shared_corpora(arguments.corpus), *installed_corpora()]
    corpora = [corpus for corpus in corpora if corpus.documents or corpus.answers]
    scores = {}
    with tqdm(total=sum(len(corpus.documents) + len(corpus.answers) for corpus in corpora), mininterval=1) as bar:
        for corpus in corpora:
            bar.set_description(corpus.name)
            scores[corpus.name] = score(corpus, bar.update)
    return {"task": "markup", "scores": scores}


def show(result: Mapping[str, Any]) -> str:
    """The scores as a table to read.

    Of each translation: skeletons kept → kept once the blocks at fault, so many, have their source again.
    """
    scores = result["scores"]
    heads = [*LOOK, "mended", "valid", "lost", "MB/s: identity", "translated"]
    lines = [f"{'':22}{'cases':>6}{'same':>6}" + "".join(f"{head:>18}" for head in heads)]
    for corpus, counts in scores.items():
        of = Counter(counts)
        cells = [
            f"{of[f'{name} kept']} → {of[f'{name} kept at last']} ({of[f'{name} stepped down']})"
            if of["megabytes"]
            else "–"
            for name in LOOK
        ]
        cells += [f"{of['mended']}/{of['answers']}", f"{of['valid']}", f"{of['text lost']}"]
        cells += [f"{of[f'{speed}_mb_a_second'] or '–'}" for speed in ("identity", "translated")]
        same = of["identical"] or of["accepted"]
        lines.append(f"{corpus:22}{of['cases']:>6}{same:>6}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
