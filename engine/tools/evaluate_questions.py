"""What a model is asked to be scored, and how: lines of tests → questions → answers. Knows no scores.

A line is one prompt. One that holds the same inline tags on both sides is asked with marks in their place, in HY-MT's
template for these; one with terms of a glossary in the template for terms, which goes first, as in the translator. What
goes through the translator instead is asked as a user would: as HTML, with the glossary.
"""

import argparse
import html
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from engine import glossary, prompts
from engine.answer import WRAPPER
from engine.attempts import ANSWER_SLACK_TOKENS, ANSWER_TOKENS_PER_SOURCE_TOKEN
from engine.backends.base import Backend
from engine.errors import ConfigError, GlossaryError
from engine.languages import LANGUAGES
from engine.markup import html as html_parser
from engine.scheduler import Scheduler
from engine.termbase import read as termbase
from engine.tools import corpus, pairs
from engine.tools.asking import GREEDY
from engine.tools.pairs import Pair
from engine.translator import Translator
from engine.types import Document, Family, FinishReason, ModelInfo, Prompt, TagRules, Term, TranslationRequest

OUR_SETS = ("tatoeba", "flores200.devtest", corpus.DEVELOPMENT_SET)
_OF_PAIRS = (".tsv", ".jsonl", ".tmx")  # what `pairs` reads, compressed or not
_STANDS_ALONE = frozenset("area br col embed hr img input link meta source track wbr".split())  # of HTML
_TAG = re.compile(r"</?(?P<name>[A-Za-z][\w:.-]*)(?:\s[^<>]*)?/?>")
_MARK = re.compile(r"<(?P<closes>/?)s(?P<number>\d+)>")
_LANGUAGES = re.compile(r"\.[A-Za-z-]+-[A-Za-z-]+\Z")  # at the end of a name, such as news.en-zh

Direction = tuple[str, str]
Glossaries = Mapping[Direction, tuple[Term, ...]]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked and what should come. `prompt` is the whole prompt, `text` the part of it to translate."""

    set: str
    source: str
    target: str
    text: str
    prompt: str
    reference: str
    markup: str = ""  # the line as HTML where it has tags; `text` then has marks in their place
    terms: tuple[Term, ...] = ()  # of a glossary, that occur in it

    @property
    def direction(self) -> str:
        return f"{self.source}-{self.target}"

    @property
    def line(self) -> str:
        """As the test has it."""
        return self.markup or self.text

    @property
    def read(self) -> str:
        """As a reader reads it."""
        return bare(self.markup) if self.markup else self.text


@dataclass(frozen=True, slots=True)
class Answer:
    text: str  # as a reader reads it
    tokens: int
    finish: FinishReason
    markup: str = ""  # of a question that has it


def answer_of(question: Question, said: str, tokens: int, finish: FinishReason) -> Answer:
    """`said` is as the line is: with tags where that has some."""
    return Answer(bare(said), tokens, finish, said) if question.markup else Answer(said, tokens, finish)


Ask = Callable[[Question], Awaitable[Answer]]
Sets = Sequence[tuple[str, Sequence[Pair]]]  # by name


# ---------------------------------------------------------------------------------------------------------------------
# tests → pairs


def direction(given: str) -> Direction:
    """For argparse: `zh-Hant-en` → zh-Hant, en."""
    parts = given.split("-")
    for cut in range(1, len(parts)):
        source, target = "-".join(parts[:cut]), "-".join(parts[cut:])
        if source in LANGUAGES and target in LANGUAGES and source != target:
            return source, target
    raise argparse.ArgumentTypeError(f"{given!r} is no direction such as en-zh, of two of our language codes")


def directions(given: str) -> tuple[Direction, ...]:
    """The same with commas between."""
    return tuple(direction(each.strip()) for each in given.split(","))


def sets_of(place: Path, names: Sequence[str], langs: Sequence[str], limit: int | None) -> Sets:
    """The sets `names` of a folder that has them as `SET.en-XX.tsv`; else all that `pairs.read` reads there, a set a
    name. Of each pair of languages of a set the first `limit` lines.

    Raises `ConfigError`.
    """
    ours = list(names or (name for name in OUR_SETS if any(place.glob(f"{name}.en-*.tsv"))))
    found: dict[str, list[Pair]] = {}
    if names and not place.is_dir():
        raise ConfigError(f"--sets names files of a folder, and {str(place)!r} is none.")
    for name, file in _ours(place, ours, langs or tested(place, ours)) if ours else _files(place):
        found.setdefault(name, []).extend(_first(pairs.read(file), limit))
    return list(found.items())


def tested(folder: Path, sets: Sequence[str]) -> list[str]:
    """The languages that every one of the sets has a file of."""
    return [lang for lang in LANGUAGES if all(corpus.test_file(folder, name, lang).exists() for name in sets)]


def _ours(folder: Path, sets: Sequence[str], langs: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for name in sets:
        for lang in langs:
            if not (file := corpus.test_file(folder, name, lang)).is_file():
                raise ConfigError(f"There is no test {str(file)!r}; see --sets and --langs.")
            yield name, file


def _files(place: Path) -> Iterator[tuple[str, Path]]:
    """Files of pairs by the name of their set: `news.en-zh.tsv.zst` → news. A folder without such is a set itself."""
    suffixes = {place: _suffix(place)} if place.is_file() else {file: _suffix(file) for file in sorted(place.glob("*"))}
    files = [file for file, suffix in suffixes.items() if suffix]
    for file in files or [place]:
        name = file.name[: file.name.lower().index(suffixes[file])] if files else file.name
        yield _LANGUAGES.sub("", name), file


def _suffix(file: Path) -> str:
    return next((suffix for suffix in map(str.lower, file.suffixes) if suffix in _OF_PAIRS), "")


def _first(read: Iterable[Pair], limit: int | None) -> Iterator[Pair]:
    counts = Counter[Direction]()
    for pair in read:
        counts[pair.first_lang, pair.lang] += 1
        if limit is None or counts[pair.first_lang, pair.lang] <= limit:
            yield pair


# ---------------------------------------------------------------------------------------------------------------------
# glossaries


def glossaries_of(file: Path, asked: Sequence[Direction]) -> Glossaries:
    """The terms of a file for each direction it has. Raises `ConfigError` for one that is of no use."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"The glossary {str(file)!r} cannot be read ({error.strerror}).") from error
    found: dict[Direction, tuple[Term, ...]] = {}
    refusal: GlossaryError | None = None
    for source, target in asked:
        try:
            read = termbase.read(file.name, data, source, target)
        except GlossaryError as error:
            refusal = refusal or error
            continue
        if not (read.source_lang and read.target_lang) and len(asked) > 1:
            raise ConfigError(
                f"The glossary {str(file)!r} does not say which languages it is for; name its direction, such as "
                "--directions en-zh, or its columns."
            )
        found[source, target] = read.terms
    if refusal and not found:
        raise ConfigError(f"The glossary {str(file)!r} is of no use here. {refusal}") from refusal
    return found


# ---------------------------------------------------------------------------------------------------------------------
# pairs → questions


def chosen(sets: Sets, wanted: Sequence[Direction], langs: Sequence[str]) -> list[Direction]:
    """The directions to ask of those that the sets have: both of every pair. Raises `ConfigError` where none is."""
    there = dict.fromkeys(each for _, lines in sets for pair in lines for each in _both(pair))
    known = {*langs, "en"}
    asked = [each for each in there if (each in wanted if wanted else not langs or known.issuperset(each))]
    if not asked:
        has = ", ".join(map("-".join, there)) or "nothing"
        raise ConfigError(f"There is nothing to ask: the tests hold {has}; see --directions and --langs.")
    return asked


def spoken(info: ModelInfo, asked: Iterable[Direction]) -> list[Direction]:
    """Those a model has learnt. Raises `ConfigError` where there is none."""
    asked = list(asked)
    known = [each for each in asked if {*each} <= {*info.languages} and (info.hub is None or info.hub in each)]
    if not known:
        raise ConfigError(
            f"There is nothing to ask: {info.name} has not learnt {', '.join(map('-'.join, asked))}; name --directions "
            "to ask it all the same."
        )
    return known


def questions_of(
    family: Family, sets: Sets, asked: Iterable[Direction], glossaries: Glossaries | None = None
) -> list[Question]:
    """Every line of every set in the directions asked, those of a line side by side, for a model of a family."""
    wanted = frozenset(asked)
    indices = {each: glossary.index(terms) for each, terms in (glossaries or {}).items()}
    return [
        _question(family, name, pair, source, target, indices.get((source, target)))
        for name, lines in sets
        for pair in lines
        for source, target in _both(pair)
        if (source, target) in wanted
    ]


def _both(pair: Pair) -> tuple[Direction, Direction]:
    return (pair.first_lang, pair.lang), (pair.lang, pair.first_lang)


def _question(
    family: Family, name: str, pair: Pair, source: str, target: str, known: glossary.Index | None
) -> Question:
    forwards = source == pair.first_lang
    text, reference = (pair.first, pair.second) if forwards else (pair.second, pair.first)
    markup = ""
    if document := _tagged(text, reference):
        markup, text, reference = text, document.blocks[0].text, bare(reference)
    terms = glossary.terms_in(known, bare(markup) if markup else text, source) if known else ()
    if any(term.target for term in terms):
        prompt = prompts.with_terms(family, target, [term for term in terms if term.target], text)
    elif markup:
        prompt = prompts.with_marks(family, target, text)
    else:
        prompt = prompts.plain(family, source, target, text)
    return Question(name, source, target, text, prompt, reference, markup, terms)


# ---------------------------------------------------------------------------------------------------------------------
# tags


def tags(text: str) -> list[str]:
    return [found.group() for found in _TAG.finditer(text)]


def bare(markup: str) -> str:
    """As a reader reads it."""
    return html.unescape(_TAG.sub("", markup)).strip()


def is_well_nested(found: Iterable[str]) -> bool:
    opened: list[str] = []
    for tag in found:
        match = _TAG.fullmatch(tag)
        assert match is not None
        name = match["name"].lower()
        if tag.startswith("</"):
            if not opened or opened.pop() != name:
                return False
        elif not tag.endswith("/>") and name not in _STANDS_ALONE:
            opened.append(name)
    return not opened


def tags_kept(wanted: Sequence[str], said: Sequence[str]) -> tuple[bool, bool]:
    """Whether none is lost, added or changed; and whether they nest well besides."""
    right = Counter(wanted) == Counter(said)
    return right, right and is_well_nested(said)


def _tagged(text: str, reference: str) -> Document | None:
    """The line as a document of one block with marks; None where its sides have not the same tags, well nested: what
    looks like a tag and is never closed, or stands between backticks, is none."""
    found = tags(text)
    if not found or "`" in text or not all(tags_kept(found, tags(reference))) or not is_well_nested(found):
        return None
    document = html_parser.parse(text, _rules(text))
    return document if len(document.blocks) == 1 and document.blocks[0].tags else None


def _rules(markup: str) -> TagRules:
    """HTML would part a line at tags it does not know."""
    return TagRules(non_splitting=frozenset(found["name"] for found in _TAG.finditer(markup)))


def _with_tags(markup: str, said: str) -> str:
    """What a model said to a line with marks, with the tags of the line again, each where it put its mark."""
    document = html_parser.parse(markup, _rules(markup))
    known, parts, done = document.blocks[0].tags, list[str](), 0
    for found in _MARK.finditer(said):
        parts.append(html.escape(said[done : found.start()], quote=False))
        mark = int(found["number"])
        parts.append(known[mark][1 if found["closes"] else 0] if mark in known else found.group())
        done = found.end()
    block = "".join(parts) + html.escape(said[done:], quote=False)
    return "".join(block if isinstance(piece, int) else piece for piece in document.skeleton)


# ---------------------------------------------------------------------------------------------------------------------
# questions → answers


def through_backend(backend: Backend) -> Ask:
    async def ask(question: Question) -> Answer:
        most = ANSWER_TOKENS_PER_SOURCE_TOKEN * backend.count_tokens(question.text) + ANSWER_SLACK_TOKENS
        texts, tokens, finish = list[str](), 0, None
        async with aclosing(backend.stream(Prompt(question.prompt, question.text, most, GREEDY))) as chunks:
            async for chunk in chunks:
                texts.append(chunk.text)
                tokens += chunk.tokens
                finish = chunk.finish
        assert finish is not None
        said = "".join(texts).strip()
        if question.markup:
            opening, closing = WRAPPER
            said = _with_tags(question.markup, said.removeprefix(opening).removesuffix(closing).strip())
        return answer_of(question, said, tokens, finish)

    return ask


def through_translator(backend: Backend, glossaries: Glossaries | None = None) -> Ask:
    translator = Translator(backend, Scheduler(backend.slots, backend.slots))
    known = glossaries or {}

    async def ask(question: Question) -> Answer:
        request = TranslationRequest(
            question.line,
            question.target,
            question.source,
            format="html" if question.markup else "auto",
            tags=_rules(question.markup),
            glossary=known.get((question.source, question.target), ()),
            sampling=GREEDY,
        )
        done = await translator.translate(request)
        cut = any(warning.code == "truncated" for warning in done.warnings)
        finish: FinishReason = "length" if cut else "stop"
        return answer_of(question, done.text.strip(), done.output_tokens, finish)

    return ask
