"""Scores a model on held-out text through the real backend: chrF2, chrF++ and BLEU of every direction, greedy.

    python -m engine.tools.evaluate quality --model FOLDER --test TEST
    python -m engine.tools.evaluate quality --model INT4 --against ORIGINAL --test news.en-zh.tsv --out answers.jsonl

TEST is a folder of SET.en-XX.tsv; or TSV, JSON Lines, TMX (compressed or not), a folder of such, or FLORES-style plain
files (`engine.tools.pairs`). A line of a test is one prompt: lines are sentences, scores compare with those of other
systems, and what the segmenter does is not mixed with what the model knows. `--through-translator` scores the whole
door instead. Beside the scores: the share of answers that `checks` doubts, of tags kept in lines that hold some, of the
terms of `--glossary` that were used, and COMET where it is installed.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from engine import checks
from engine.errors import ConfigError
from engine.tools import asking, evaluate_comet, evaluate_compare, evaluate_questions, evaluate_terms, scoring
from engine.tools.asked import count
from engine.tools.asking import share
from engine.tools.evaluate_answers import Kept, Said, said_before, said_by
from engine.tools.evaluate_questions import Answer, Direction, Glossaries, Question, Sets
from engine.types import Family

ABOUT = "chrF2, chrF++ and BLEU of every direction; of two models, which is better"
ANY_FAMILY: Family = "hy-mt1.5"  # of questions that nobody is asked any more
NAMES = {"chrf2": "chrF2", "chrf++": "chrF++", "bleu": "BLEU"}

Groups = Mapping[tuple[str, str], Sequence[int]]  # set and direction → the places of their questions


def quality_scores(
    questions: Sequence[Question], answers: Sequence[Answer], comet: Sequence[float] = ()
) -> dict[str, Any]:
    """The scores of every set and direction, and sacreBLEU's signatures. `comet` has one for each answer, if any."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    signatures: dict[str, str] = {}
    for (name, direction), places in _groups(questions).items():
        group = [(questions[place], answers[place]) for place in places]
        target = group[0][0].target
        said, wanted = [answer.text for _, answer in group], [[question.reference for question, _ in group]]
        row: dict[str, Any] = {}
        tokenizer = scoring.tokenizer_of(target)
        for metric_name, metric in scoring.metrics(tokenizer).items():
            row[metric_name] = round(metric.corpus_score(said, wanted).score, 2)
            signatures[f"bleu {tokenizer}" if metric_name == "bleu" else metric_name] = str(metric.get_signature())
        row["cut_off"] = share(sum(answer.finish == "length" for _, answer in group), len(group))
        row["checks"] = _doubted(group)
        if tagged := [(question, answer) for question, answer in group if question.markup]:
            row["tags"] = _tags(tagged)
        if any(question.terms for question, _ in group):
            row["terms"] = _terms(group)
        if comet:
            row["comet"] = round(sum(comet[place] for place in places) / len(places), 4)
        scores.setdefault(name, {})[direction] = {**row, "lines": len(group)}
    return {"scores": scores, "signatures": signatures}


def _groups(questions: Sequence[Question]) -> Groups:
    groups: dict[tuple[str, str], list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault((question.set, question.direction), []).append(place)
    return groups


def _doubted(group: Sequence[tuple[Question, Answer]]) -> dict[str, float]:
    """The share of answers with a fault, all in all and by its code; an empty one has a fault of its own."""
    counts = Counter[str]()
    for question, answer in group:
        found = checks.faults(question.read, answer.text, question.source, question.target)
        codes = {fault.code for fault in found} if answer.text else {"empty"}
        counts.update(codes)
        counts["any"] += bool(codes)
    return {"any": share(counts.pop("any"), len(group)), **{code: share(n, len(group)) for code, n in counts.items()}}


def _tags(group: Sequence[tuple[Question, Answer]]) -> dict[str, float]:
    kept = [
        evaluate_questions.tags_kept(evaluate_questions.tags(question.markup), evaluate_questions.tags(answer.markup))
        for question, answer in group
    ]
    right, nested = (sum(each) for each in zip(*kept, strict=True))
    return {"right": share(right, len(kept)), "right and well nested": share(nested, len(kept)), "lines": len(kept)}


def _terms(group: Sequence[tuple[Question, Answer]]) -> dict[str, float]:
    counts = Counter[str]()
    for question, answer in group:
        counts.update(
            evaluate_terms.counted(question.terms, question.read, answer.text, question.source, question.target)
        )
    return {
        "success": share(counts["applied"], counts["occurrences"]),
        "used": share(counts["used"], counts["terms"]),
        "terms": counts["terms"],
        "occurrences": counts["occurrences"],
    }


# ---------------------------------------------------------------------------------------------------------------------
# two models


def differences(ours: Said, theirs: Said) -> dict[str, Any]:
    """Of every set and direction and of all lines: is the one better than the other, and is that sure?"""
    lines = list(zip(ours.questions, ours.answers, theirs.answers, strict=True))
    by_set: dict[str, dict[str, Any]] = {}
    signatures: dict[str, str] = {}
    groups = _groups(ours.questions)
    for (name, direction), places in tqdm(groups.items(), desc="comparing", mininterval=1):
        found, signed = evaluate_compare.compared([lines[place] for place in places])
        by_set.setdefault(name, {})[direction] = found
        signatures |= signed
    whole: dict[str, Any] = {"differences": by_set}
    if len(groups) > 1:
        whole["all"], signed = evaluate_compare.compared(lines)
        signatures |= signed
    return {**whole, "signatures": signatures}


def _other(arguments: argparse.Namespace) -> argparse.Namespace:
    """What the second model is asked with: as the first, but for what `--against…` says."""
    other = argparse.Namespace(**vars(arguments))
    other.model = arguments.against or arguments.model
    other.precision = arguments.against_precision or arguments.precision
    other.backend = arguments.against_backend or arguments.backend
    return other


def _same(one: argparse.Namespace, other: argparse.Namespace) -> bool:
    paths = [Path(each.model).expanduser() for each in (one, other)]
    same_model = one.model == other.model or (paths[0].is_dir() and paths[0].resolve() == paths[1].resolve())
    return same_model and (one.precision, one.backend) == (other.precision, other.backend)


# ---------------------------------------------------------------------------------------------------------------------
# the run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asking.add_arguments(parser)
    parser.add_argument(
        "--test", type=Path, required=True, help="folder of SET.en-XX.tsv, or a file or folder of pairs"
    )
    parser.add_argument("--limit", type=count, help="lines of each set and pair of languages (default: all)")
    parser.add_argument("--sets", default="", help="of such a folder (default: those of ours that are there)")
    parser.add_argument("--directions", type=evaluate_questions.directions, default=(), help="such as en-zh,zh-en")
    parser.add_argument("--glossary", type=Path, help="CSV, TSV, XLSX, JSON, TBX or TMX: its terms are asked for")
    parser.add_argument("--through-translator", action="store_true", help="segments and checks too, as users meet it")
    parser.add_argument("--resume", action="store_true", help="go on with the answers that --out holds already")
    parser.add_argument(
        "--answers", metavar="FILE", type=Path, help="score what --out holds, of one model or two, and ask none"
    )
    parser.add_argument("--against", metavar="MODEL", help="a second model, asked the same; which one is better?")
    parser.add_argument("--against-precision", metavar="PRECISION", type=asking.as_app("--precision"))
    parser.add_argument("--against-backend", metavar="BACKEND", type=asking.as_app("--backend"))
    parser.add_argument("--against-answers", metavar="FILE", type=Path, help="what --out of an earlier run holds")
    parser.add_argument(
        "--comet",
        metavar="MODEL",
        nargs="?",
        const=evaluate_comet.MODEL,
        help=f"score by COMET too, if unbabel-comet is installed (default: {evaluate_comet.MODEL})",
    )
    parser.add_argument(
        "--comet-batch", type=count, default=evaluate_comet.BATCH, help="lines that COMET reads at once"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `YiwenError` for what is wrong with the arguments, the tests, the glossary or the model."""
    second = _checked(arguments)
    langs = arguments.langs.split(",") if arguments.langs else []
    names = arguments.sets.split(",") if arguments.sets else []
    named = langs or list(dict.fromkeys(lang for each in arguments.directions for lang in each if lang != "en"))
    sets = evaluate_questions.sets_of(arguments.test, names, named, arguments.limit)
    asked = evaluate_questions.chosen(sets, arguments.directions, langs)
    glossaries = evaluate_questions.glossaries_of(arguments.glossary, asked) if arguments.glossary else {}
    comet_file = evaluate_comet.fetch(arguments.comet) if arguments.comet else ""
    with Kept(arguments.out, arguments.resume) as kept:
        if arguments.answers:
            questions = evaluate_questions.questions_of(ANY_FAMILY, sets, asked, glossaries)
            ours, *others = said_before(
                arguments.answers, questions, most=1 if second or arguments.against_answers else 2
            )
        else:
            ours, others = _asked(arguments, sets, asked, glossaries, kept), []
        if arguments.against_answers:
            others = said_before(arguments.against_answers, ours.questions)
        elif second:
            asked = list(dict.fromkeys((question.source, question.target) for question in ours.questions))
            others = [_asked(second, sets, asked, glossaries, kept, everything=True)]
    comet = evaluate_comet.load(comet_file) if comet_file else None
    result = {"task": "quality", **ours.summary(), **_scores(ours, comet, arguments)}
    if arguments.comet:
        result["signatures"]["comet"] = arguments.comet
    for theirs in others:
        scores = _scores(theirs, comet, arguments)["scores"]
        result["against"] = {**theirs.summary(), "scores": scores, **differences(ours, theirs)}
    return result


def _checked(arguments: argparse.Namespace) -> argparse.Namespace | None:
    """What the second model is asked with, if there is one. Raises `ConfigError` for what can be told at once."""
    second = bool(arguments.against or arguments.against_precision or arguments.against_backend)
    if second and arguments.against_answers:
        raise ConfigError("--against asks a model, --against-answers reads what one has said; give one of them.")
    if arguments.resume and not arguments.out:
        raise ConfigError("--resume goes on with the answers of a file; name it with --out.")
    for before in filter(None, (arguments.answers, arguments.against_answers)):
        if arguments.out and before.resolve() == arguments.out.resolve():
            raise ConfigError(f"--out would overwrite the answers {str(before)!r}; name another file.")
    other = _other(arguments) if second else None
    if other and _same(arguments, other):
        raise ConfigError(
            "--against is the model itself; name another, or another --against-precision or --against-backend."
        )
    return other


def _asked(
    arguments: argparse.Namespace,
    sets: Sets,
    asked: Sequence[Direction],
    glossaries: Glossaries,
    kept: Kept,
    *,
    everything: bool = False,
) -> Said:
    """What a model says. With `everything`, or where the user named languages, also of what it has not learnt."""
    backend = asking.backend_of(arguments)
    if not (everything or arguments.directions or arguments.langs):
        known = evaluate_questions.spoken(backend.info, asked)
        if left := [each for each in asked if each not in known]:
            names = ", ".join(map("-".join, left))
            print(f"Left out, since {backend.info.name} has not learnt them: {names}.", file=sys.stderr)
        asked = known
    questions = evaluate_questions.questions_of(backend.info.family, sets, asked, glossaries)
    through_backend, through_translator = evaluate_questions.through_backend, evaluate_questions.through_translator
    whole = arguments.through_translator
    ask = through_translator(backend, glossaries) if whole else through_backend(backend)
    return said_by(backend, questions, ask, kept, arguments, whole=whole)


def _scores(said: Said, comet: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    asked = said.questions, said.answers
    batch, on_cpu = arguments.comet_batch, arguments.device == "cpu"
    return quality_scores(*asked, evaluate_comet.scores(comet, *asked, batch, on_cpu) if comet else [])


# ---------------------------------------------------------------------------------------------------------------------
# tables


def show(result: dict[str, Any]) -> str:
    """The result as Markdown to read: the scores, how they were counted, and what a second model has."""
    parts = [_table(result["scores"])]
    if against := result.get("against"):
        parts.append(f"Against {_name(against)}: its score, then how much better {_name(result)} is; bold: p < 0.05.")
        parts.append(_comparison(against))
    signatures = result["signatures"] | {
        f"{name}, paired": signature for name, signature in (against or {}).get("signatures", {}).items()
    }
    parts.append("\n".join(f"- {name}: `{signature}`" for name, signature in signatures.items()))
    return "\n\n".join(parts)


def _name(model: Mapping[str, Any]) -> str:
    return f"{model['model']} ({model['precision']}, {model['backend']})"


def _table(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = [(name, direction, _cells(row)) for name, rows in scores.items() for direction, row in rows.items()]
    heads = list(dict.fromkeys(head for *_, cells in rows for head in cells))
    cells = [[name, direction, *(cells.get(head, "–") for head in heads)] for name, direction, cells in rows]
    return markdown(["set", "direction", *heads], cells)


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """What applies to a row, by its heading."""
    cells = {"lines": f"{row['lines']:,}"} | {name: f"{row[key]:.2f}" for key, name in NAMES.items()}
    cells |= {"cut off": f"{row['cut_off']:.1%}", "doubted": f"{row['checks']['any']:.1%}"}
    if tags := row.get("tags"):
        cells["tags kept"] = f"{tags['right and well nested']:.1%} of {tags['lines']:,}"
    if terms := row.get("terms"):
        cells["terms used"] = f"{terms['success']:.1%} of {terms['occurrences']:,}"
    if "comet" in row:
        cells["COMET"] = f"{row['comet']:.4f}"
    return cells


def _comparison(against: Mapping[str, Any]) -> str:
    rows = [(name, *row) for name, rows in against["differences"].items() for row in rows.items()]
    rows += [("all", "", against["all"])] if "all" in against else []
    heads = ["set", "direction", "lines", *NAMES.values()]
    return markdown(
        heads, [[name, way, f"{row['lines']:,}", *(_difference(row[key]) for key in NAMES)] for name, way, row in rows]
    )


def _difference(of: Mapping[str, Any]) -> str:
    difference = f"{of['difference']:+.2f}"
    shown = f"**{difference}**" if of["significant"] else difference
    return f"{of['against']:.2f} ± {of['against_interval']:.2f} {shown} (p {of['p']:.3f})"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns stand below each other; the first two are words, the others numbers."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = ["-" * width if place < 2 else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join(map(_line, [heads, rule, *rows], [widths] * (len(rows) + 2)))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    filled = (
        cell.ljust(width) if place < 2 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(filled)} |"
