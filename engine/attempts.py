"""A segment → its translation: which prompts are tried, what is amiss with an answer, and what becomes of lost marks.

The first answer is passed on as it comes. Then it is looked at: marks, completeness, loops, language, terms. For what
is amiss there is a remedy, another prompt; at most two are tried, and the best of the answers stays. Marks have the
guard's ladder besides: where no answer has them right, the runs between them are translated one by one; where that
gives nothing, the source stays. What is still amiss is said in a warning.
"""

import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from engine import checks, glossary, prompts
from engine.answer import WRAPPER, Answer
from engine.backends.base import Backend
from engine.checks import Fault, LoopWatch
from engine.languages import ADDS_ENDINGS, LANGUAGES
from engine.markup import in_place, kept, marks
from engine.segmenter import join_gap, sentences
from engine.types import Prompt, Sampling, Segment, Term, TermResult, Translated, TranslationRequest, Warning

MOST_REMEDIES = 2  # besides the first answer
MAX_TERM_TOKENS = 256  # of a prompt, and no more than a segment's; the more terms, the fewer a small model obeys
ANSWER_TOKENS_PER_SOURCE_TOKEN = 2
LONG_ANSWER_TOKENS_PER_SOURCE_TOKEN = 3  # into scripts that tokenizers cut finely
LONG_ANSWER_LANGUAGES = frozenset({"bo", "km", "my", "ta", "te"})
ANSWER_SLACK_TOKENS = 32  # a short segment may grow by more than its length
CHAT_LAYOUT_TOKENS = 16  # what a checkpoint puts around a prompt; HY-MT's has up to 4
ANOTHER_TEMPERATURE = 0.7  # where the model would say the same again: HY-MT's own recommendation
ANOTHER_SEED = 7
ANOTHER_REPETITION_PENALTY = 1.1  # against loops

Remedy = Literal["template", "in_place", "missed", "alone", "language", "sentences", "again"]
_REMEDIES: dict[str, tuple[Remedy, ...]] = {  # by what is amiss; the first that can be had is tried
    "marks": ("template",),
    "tags_moved": ("template",),
    "term_missed": ("in_place", "missed"),
    "empty": ("alone", "again"),
    "truncated": ("alone", "sentences", "again"),
    "incomplete": ("alone", "sentences", "again"),
    "too_long": ("alone", "again"),
    "looping": ("again",),
    "wrong_language": ("language", "again"),
    "echo": ("language", "again"),
    "notes": ("alone", "again"),
    "numbers": ("alone", "again"),
}
OF_MARKS = frozenset({"marks", "tags_moved"})


class Ask(NamedTuple):
    """A prompt's text, whether its answer comes in `WRAPPER`, and how it is sampled if not as the user said; and which
    of the user's context, the sentences before and the terms it shows."""

    text: str
    wrapped: bool = False
    sampling: Sampling | None = None
    context: str = ""
    before: str = ""
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An answer whose marks are right, and what is amiss with it, the worst first."""

    text: str | None  # None where marks were lost
    faults: tuple[Fault, ...] = ()
    terms: tuple[TermResult, ...] = ()

    @property
    def weight(self) -> float:
        return sum(fault.weight for fault in self.faults)

    def remedies(self) -> Iterator[tuple[str, Remedy]]:
        """What might help against what, the worst first."""
        return ((fault.code, remedy) for fault in self.faults for remedy in _REMEDIES.get(fault.code, ()))


class Attempts:
    """All that is tried for one segment of a request. `source` is the code of its language; `first`: see `Prompt`."""

    def __init__(
        self, backend: Backend, request: TranslationRequest, source: str, segment: Segment, *, first: bool = False
    ) -> None:
        self._backend, self._request, self._source, self._segment = backend, request, source, segment
        self._whole_source = kept.source(segment)
        self._is_first = first
        self._tokens = 0
        self._said = ""  # of what was passed on

    def first(self) -> list[Ask]:
        """What the model is asked first: one prompt, or one for each run where it carries no marks; none where all of
        the segment is kept."""
        segment = self._segment
        if not _has_words(marks.bare(segment.text, segment.tags)):
            return []
        if segment.tags and not self._backend.info.marks:
            pieces = marks.pieces(segment.text, segment.tags)
            parts = [self._part(piece) for piece in pieces if isinstance(piece, str) and _has_words(piece)]
            return [self._asks_for(part)[0] for part in parts]
        return [self._asks()[0]]

    async def run(self) -> AsyncGenerator[str | Translated, None]:
        """The first answer as it comes, then what became of the segment, which may be another text.

        Raises what the backend raises.
        """
        segment = self._segment
        if not _has_words(marks.bare(segment.text, segment.tags)):  # all of it is kept
            terms = self._terms(self._whole_source)
            yield self._translated(_Candidate(segment.text, tuple(_missed(terms)), terms))
            return
        spell = kept.Speller(segment)
        pieces = marks.pieces(segment.text, segment.tags)
        if segment.tags and not self._backend.info.marks:
            answer = Answer()
            async with aclosing(self._in_parts(answer, pieces)) as said:
                async for text in said:
                    yield self._passed_on(spell.feed(text))
            yield self._passed_on(spell.end())
            yield self._translated(self._judged(answer.text, answer))
            return
        ask = self._asks()[0]
        answer = Answer(wrapped=ask.wrapped)
        async with aclosing(self._say(answer, ask, segment)) as said:
            async for text in said:
                yield self._passed_on(spell.feed(text))
        yield self._passed_on(spell.end())
        best = await self._bettered(self._candidate(answer))
        if best.text is None:
            answer = Answer()
            await _drained(self._in_parts(answer, pieces))
            best = self._judged(answer.text, answer, _TRANSLATED_APART)
        yield self._translated(best)

    def _greedy(self) -> Sampling:
        return replace(self._request.sampling, temperature=0.0)

    def _passed_on(self, text: str) -> str:
        self._said += text
        return text

    # -----------------------------------------------------------------------------------------------------------------
    # remedies

    async def _bettered(self, best: _Candidate) -> _Candidate:
        """The best of the candidate and what the remedies for it give; one for each kind of fault."""
        codes, remedies = set[str](), set[Remedy]()
        judged = self._backend.info.translates  # else it would say the same again, but for marks
        for _ in range(MOST_REMEDIES):
            for code, remedy in best.remedies():
                if code in codes or remedy in remedies or not (judged or code in OF_MARKS):
                    continue
                if made := await self._remedied(remedy, best):
                    codes.add(code)
                    remedies.add(remedy)
                    best = min(best, made, key=lambda candidate: candidate.weight)
                    break
            else:
                break
        return best

    async def _remedied(self, remedy: Remedy, best: _Candidate) -> _Candidate | None:
        """None where this segment has no such remedy, or its prompt leaves no room for the answer."""
        segment, answer = self._segment, Answer()
        if remedy == "sentences":
            found = [*sentences(segment.text)]
            if segment.tags or len(found) < 2:
                return None
            await _drained(self._in_parts(answer, _sentences_and_gaps(segment.text, found, self._request.target)))
            return self._judged(answer.text, answer)
        if remedy == "in_place":
            return await self._with_terms_in_place()
        ask = self._other_ask(remedy, best)
        if ask is None or not self._fits(ask, segment):
            return None
        answer.wrapped = ask.wrapped
        await _drained(self._say(answer, ask, segment))
        return self._candidate(answer)

    async def _with_terms_in_place(self) -> _Candidate | None:
        """All terms of the segment, put into it as marked words; for families with a template for marks."""
        segment, info, target = self._segment, self._backend.info, self._request.target
        if (
            not info.marks
            or info.family not in prompts.MARKS_PUBLISHED
            or any(each in segment.text for each in WRAPPER)
        ):
            return None
        terms = [term for term in segment.terms if term.target]
        text, targets = in_place.put(segment.text, segment.tags, terms, self._source)
        if not targets:
            return None
        tags = in_place.with_pairs(segment.tags, targets)
        asked = replace(segment, text=text, tokens=self._backend.count_tokens(text), tags=tags)
        ask = Ask(prompts.with_marks(info.family, target, text), wrapped=True, sampling=self._greedy())
        if not self._fits(ask, asked):
            return None
        answer = Answer(ask.wrapped)
        await _drained(self._say(answer, ask, asked))
        text, targets = in_place.that_came_back(text, segment.tags, targets, answer.text)
        asked = replace(asked, text=text, tags=in_place.with_pairs(segment.tags, targets))
        return self._candidate(answer, asked, lambda mended: in_place.settled(mended, segment.tags, targets, target))

    def _other_ask(self, remedy: Remedy, best: _Candidate) -> Ask | None:
        """The prompt of a remedy, or None where it would be no other than the first."""
        segment, family, target = self._segment, self._backend.info.family, self._request.target
        asks = self._asks()
        other_sampling = replace(
            self._request.sampling,
            temperature=self._request.sampling.temperature or ANOTHER_TEMPERATURE,
            seed=(self._request.sampling.seed or 0) + ANOTHER_SEED,
            repetition_penalty=max(self._request.sampling.repetition_penalty or 1.0, ANOTHER_REPETITION_PENALTY),
        )
        match remedy:
            case "template":
                return asks[1]._replace(sampling=self._greedy()) if len(asks) > 1 else None
            case "missed":
                missed = [Term(term.source, term.target) for term in best.terms if term.applied < term.count]
                if not (terms := self._that_fit(missed)):
                    return None
                ask = Ask(prompts.with_terms(family, target, terms, segment.text))
                return ask._replace(sampling=other_sampling) if ask.text == asks[0].text else ask
            case "alone" if asks[0].text != (alone := self._plain()).text and not segment.tags:
                return alone
            case "language" if not segment.tags:
                return self._plain(other=asks[0].text == self._plain().text)
            case "again":
                return asks[0]._replace(sampling=other_sampling)
        return None

    # -----------------------------------------------------------------------------------------------------------------
    # prompts

    def _asks(self) -> list[Ask]:
        return self._asks_for(self._segment)

    def _asks_for(self, part: Segment) -> list[Ask]:
        """The prompts for a segment in the order in which they are tried; one alone where it has no marks.

        Terms come before marks and those before the text before: no template takes two of these, a term is an order,
        and the guard stands behind the marks. The user's own context is shown with terms too. A style is an order
        as well, and its template takes nothing else. A family without a template for marks is given them in its own
        first. What leaves no room for the answer is left out.
        """
        family, target, text = self._backend.info.family, self._request.target, part.text
        ask = Ask(prompts.plain(family, self._source, target, text))
        if terms := self._that_fit([term for term in part.terms if term.target]):
            for context in ("", part.context):
                said = prompts.with_terms(family, target, terms, text, context)
                richer = Ask(said, context=context, terms=tuple(terms))
                ask = richer if self._fits(richer, part) else ask
        elif self._request.style and family in prompts.STYLED:
            styled = Ask(prompts.with_style(family, self._source, target, self._request.style, text))
            ask = styled if self._fits(styled, part) else ask
        elif part.context or part.before:
            for context, before in (("", part.before), (part.context, ""), (part.context, part.before)):
                if shown := _joined(context, before):
                    said = prompts.with_context(family, target, shown, text)
                    richer = Ask(said, context=context, before=before)
                    ask = richer if self._fits(richer, part) else ask
        if not part.tags:
            return [ask]
        if any(wrapper in text for wrapper in WRAPPER):  # the text speaks of them: no answer could be told from it
            return [ask, Ask(prompts.plain(family, self._source, target, text))]
        marked = Ask(prompts.with_marks(family, target, text), wrapped=True)
        return [marked, ask] if family in prompts.MARKS_PUBLISHED and not terms else [ask, marked]

    def _plain(self, *, other: bool = False) -> Ask:
        family, target = self._backend.info.family, self._request.target
        return Ask(prompts.plain(family, self._source, target, self._segment.text, other=other))

    def _that_fit(self, terms: Sequence[Term]) -> list[Term]:
        """The most specific of the terms, which come first, within the budget of a prompt."""
        fit, left = list[Term](), min(MAX_TERM_TOKENS, self._backend.info.segment_tokens)
        for term in terms:
            size = self._backend.count_tokens(prompts.term_line(self._backend.info.family, term))
            if size <= left:  # one that is too long by itself does not cost the others
                fit.append(term)
                left -= size
        return fit

    def _fits(self, ask: Ask, part: Segment) -> bool:
        """Whether the answer to it has room."""
        return self._room(ask) >= self._wanted(part)

    def _room(self, ask: Ask) -> int:
        """Tokens left for the answer."""
        return self._backend.info.max_context_tokens - self._backend.count_tokens(ask.text) - CHAT_LAYOUT_TOKENS

    def _wanted(self, part: Segment) -> int:
        long = self._request.target in LONG_ANSWER_LANGUAGES
        growth = LONG_ANSWER_TOKENS_PER_SOURCE_TOKEN if long else ANSWER_TOKENS_PER_SOURCE_TOKEN
        return growth * part.tokens + ANSWER_SLACK_TOKENS

    # -----------------------------------------------------------------------------------------------------------------
    # answers

    async def _say(self, answer: Answer, ask: Ask, part: Segment) -> AsyncGenerator[str, None]:
        """Fills `answer`; one that goes round in circles is stopped, and has no `finish`."""
        # without room it is 1, and the backend says how long its prompt may be
        most = max(1, min(self._wanted(part), self._room(ask)))
        prompt = Prompt(ask.text, part.text, most, ask.sampling or self._request.sampling, self._is_first)
        watch = LoopWatch(part.text) if self._backend.info.translates else None
        async with aclosing(self._backend.stream(prompt)) as chunks:
            async for chunk in chunks:
                if text := answer.take(chunk):
                    yield text
                    if watch and watch.feed(text):
                        break
        self._tokens += answer.tokens

    async def _in_parts(self, answer: Answer, pieces: Sequence[marks.Piece]) -> AsyncGenerator[str, None]:
        """Fills `answer` with the runs of `pieces` translated each by itself, and yields them; right marks by
        construction. Where the model says nothing at all it stays empty."""
        segment = self._segment
        said, text, answer.finish = "", "", "stop"
        for piece in pieces:
            if not isinstance(piece, str) or not _has_words(piece):
                text = marks.spell([piece], segment.tags)
            else:
                part = self._part(piece)
                run = part.text
                before, _, after = piece.partition(run)
                of_run = Answer()
                await _drained(self._say(of_run, self._asks_for(part)[0], part))
                if of_run.finish != "stop":
                    answer.finish = of_run.finish
                words = marks.unmarked(_without_inventions(of_run.text, run), run, segment.tags)
                said += words
                text = before + (words or run) + after
            answer.text += text
            yield text
        if not said:
            answer.text = ""

    def _part(self, piece: str) -> Segment:
        """A run of the segment as a segment of its own."""
        run = piece.strip()
        terms = glossary.terms_in(glossary.index(self._segment.terms), run, self._source)
        tokens = self._backend.count_tokens(run)
        return replace(self._segment, text=run, tokens=tokens, tags={}, kept={}, terms=terms)

    def _candidate(
        self, answer: Answer, asked: Segment | None = None, settle: Callable[[str], str] = str
    ) -> _Candidate:
        """What an answer to `asked`, the segment or one with more marks, comes to; `settle` takes those off again."""
        asked = asked or self._segment
        text = _without_inventions(answer.text, asked.text)
        if not asked.tags:
            return self._judged(marks.unmarked(text, asked.text, {}), answer)
        mended = marks.mend(asked.text, asked.tags, text)
        if mended is None or answer.finish != "stop" or not marks.bare(mended, asked.tags).strip():
            return _Candidate(None, (Fault("marks", "", NO_CANDIDATE),))
        if self._request.target not in ADDS_ENDINGS:
            mended = marks.spaced(asked.text, asked.tags, mended)
        lost = len(marks.lost(asked.text, asked.tags, answer.text))
        return self._judged(settle(mended), answer, *([_tags_moved(lost)] if lost else []))

    def _judged(self, text: str, answer: Answer, *faults: Fault) -> _Candidate:
        """What is amiss with the `text` of an answer, whose marks are right: the `faults`, and what a look tells."""
        segment, found = self._segment, list(faults)
        text = _in_their_case(text, segment.terms)
        said = kept.bare(segment, kept.spelt_out(segment, text))
        if not said.strip():
            return _Candidate("", (_EMPTY,))
        if self._backend.info.translates:
            found += checks.faults(self._whole_source, said, self._source, self._request.target)
        if answer.finish == "length":
            weights = [fault.weight for fault in found if fault.code == "incomplete"]
            found = [fault for fault in found if fault.code != "incomplete"]
            found.append(replace(_TRUNCATED, weight=max(_TRUNCATED.weight, *weights)) if weights else _TRUNCATED)
        if answer.finish is None and all(fault.code != "looping" for fault in found):
            found.append(_LOOPING)
        terms = self._terms(said)
        found += _missed(terms)
        return _Candidate(text, tuple(sorted(found, key=lambda fault: -fault.weight)), terms)

    def _terms(self, said: str) -> tuple[TermResult, ...]:
        """How often each term of the segment was to be in its translation, and is in `said`."""
        terms, lang = self._segment.terms, self._request.target
        # without terms it would still read both texts
        return glossary.check(terms, self._whole_source, said, self._source, lang) if terms else ()

    def _translated(self, best: _Candidate) -> Translated:
        """With the source where there is no text. In a sentence `{where}` becomes the segment's number."""
        segment = self._segment
        where = f"segment {segment.index + 1}"
        warnings = tuple(
            Warning(fault.code, fault.sentence.replace("{where}", where), segment.index) for fault in best.faults
        )
        text = kept.spelt_out(segment, best.text or segment.text)
        return Translated(segment, text, self._tokens, best.terms, warnings, changed=text != self._said)


async def _drained(said: AsyncGenerator[str, None]) -> None:
    async with aclosing(said):
        async for _ in said:
            pass


def _sentences_and_gaps(text: str, found: Sequence[tuple[int, int]], target: str) -> list[marks.Piece]:
    pieces, done = list[marks.Piece](), 0
    for start, end in found:
        pieces += [join_gap(text[done:start], text[:done], LANGUAGES[target]), text[start:end]]
        done = end
    return pieces


def _in_their_case(text: str, terms: Sequence[Term]) -> str:
    """With the capitals of the glossary where the answer has none: German nouns, names."""
    for term in terms:
        if (small := term.target.lower()) != term.target and small in text:
            text = re.sub(rf"(?<!\w){re.escape(small)}(?!\w)", term.target.replace("\\", r"\\"), text)
    return text


def _joined(*contexts: str) -> str:
    return "\n".join(filter(None, contexts))


def _has_words(text: str) -> bool:
    return any(map(str.isalpha, text))


def _without_inventions(answer: str, source: str) -> str:
    """Without code's backticks and formatting tags where the source has none: small models dress up what looks like
    code to them. What might be a word in brackets stays."""
    if "`" not in source:
        answer = _CODE.sub(r"\1", answer)
    if not _BRACKET.search(source):
        answer = _TAG.sub("", answer)
    return answer.strip()


_CODE = re.compile(r"`([^`]*)`")
_BRACKET = re.compile(r"[<＜〈《«‹\[「『]")
_TAG = re.compile(r"</?(?:a|b|br|code|em|i|input|kbd|p|pre|span|strong|tt|u)(?:\s[^<>]{0,100})?/?>", re.IGNORECASE)
NO_CANDIDATE = 1_000.0  # heavier than all else that may be amiss
_EMPTY = Fault("empty", "The model said nothing for {where}, so its source text was kept.", 100.0)
_TRUNCATED = Fault("truncated", "The answer for {where} reached its limit, so its end may be missing.", 4.0)
_LOOPING = Fault("looping", "The answer for {where} went round in circles and was stopped; read it again.", 10.0)
_TRANSLATED_APART = Fault(
    "translated_apart",
    "The model lost tags or placeholders of {where}, so what stands between them was translated piece by piece; "
    "read it again.",
    1.0,
)


def _tags_moved(lost: int) -> Fault:
    return Fault(
        "tags_moved",
        f"The model left out {lost} of the tags or placeholders of {{where}}; they now stand at the end, so move them.",
        2.0 * lost,
    )


def _missed(terms: Sequence[TermResult]) -> Iterator[Fault]:
    for term in terms:
        if missing := term.count - term.applied:
            wanted = f"“{term.source}” should have become “{term.target}” {term.count}×"
            yield Fault("term_missed", f"In {{where}}, {wanted}, and did {term.applied}×.", 1.0 * missing)
