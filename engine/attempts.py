"""A segment → its translation: which prompts are tried, and what becomes of marks that the model gets wrong.

The guard's ladder: the answer as it is or mended; once more at temperature 0 with the other template; the runs between
the marks each by itself; the source text. So marks are always right, and what was done is said in a warning.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from engine import glossary, prompts
from engine.answer import WRAPPER, Answer
from engine.backends.base import Backend
from engine.languages import ADDS_ENDINGS
from engine.markup import marks
from engine.types import Prompt, Segment, TermResult, Translated, TranslationRequest, Warning

ANSWER_TOKENS_PER_SOURCE_TOKEN = 2
LONG_ANSWER_TOKENS_PER_SOURCE_TOKEN = 3  # into scripts that tokenizers cut finely
LONG_ANSWER_LANGUAGES = frozenset({"bo", "km", "my", "ta", "te"})
ANSWER_SLACK_TOKENS = 32  # a short segment may grow by more than its length
CHAT_LAYOUT_TOKENS = 16  # what a checkpoint puts around a prompt; HY-MT's has up to 4


class _Ask(NamedTuple):
    """A prompt's text, and whether its answer comes in `WRAPPER`."""

    text: str
    wrapped: bool = False


class Attempts:
    """All that is tried for one segment of a request. `source` is the code of its language."""

    def __init__(self, backend: Backend, request: TranslationRequest, source: str, segment: Segment) -> None:
        self._backend, self._request, self._source, self._segment = backend, request, source, segment
        self._tokens = 0
        self._truncated = False
        self._answered = False
        self._said = ""  # of what was passed on

    async def run(self) -> AsyncGenerator[str | Translated, None]:
        """The first answer as it comes, then what became of the segment, which may be another text.

        Raises what the backend raises.
        """
        segment = self._segment
        if not segment.tags:
            answer = Answer()
            async with aclosing(self._say(answer, self._asks(segment)[0], segment)) as said:
                async for text in said:
                    self._said += text
                    yield text
            text = marks.unmarked(answer.text, segment.text, {})
            yield self._judged(_without_inventions(text, segment.text))
            return
        if self._backend.info.marks:
            guessed: tuple[str, int] | None = None  # a text, and how many of its marks stand where nobody put them
            for attempt, ask in enumerate(self._asks(segment)):
                answer = Answer(wrapped=ask.wrapped)
                async with aclosing(self._say(answer, ask, segment, greedy=attempt > 0)) as said:
                    async for text in said:
                        if attempt == 0:
                            self._said += text
                            yield text
                mended = marks.mend(segment.text, segment.tags, _without_inventions(answer.text, segment.text))
                if mended is None or self._truncated or not marks.bare(mended, segment.tags).strip():
                    continue
                if self._request.target not in ADDS_ENDINGS:
                    mended = marks.spaced(segment.text, segment.tags, mended)
                lost = len(marks.lost(segment.text, segment.tags, answer.text))
                if not lost:
                    yield self._judged(mended)
                    return
                guessed = guessed or (mended, lost)
            if guessed:
                mended, lost = guessed
                self._truncated = False  # which the answer after it may have been
                yield self._judged(mended, _tags_moved(lost))
                return
        whole = ""
        async with aclosing(self._apart()) as said:
            async for text in said:
                whole += text
                if not self._backend.info.marks:
                    self._said = whole
                    yield text
        doubt = _TRANSLATED_APART if self._backend.info.marks else None
        yield self._judged(whole if self._answered else "", doubt)

    def _asks(self, part: Segment) -> list[_Ask]:
        """The prompts for a segment in the order in which they are tried; one alone where it has no marks.

        Terms come before marks and those before context: no template takes two of these, a term is an order, and
        the guard stands behind the marks. A family without a template for marks is given them in its own first.
        """
        family, target, text = self._backend.info.family, self._request.target, part.text
        if part.terms:
            ask = _Ask(prompts.with_terms(family, target, part.terms, text))
        elif part.context:
            ask = _Ask(prompts.with_context(family, target, part.context, text))
        else:
            ask = _Ask(prompts.plain(family, self._source, target, text))
        if not part.tags:
            return [ask]
        if any(wrapper in text for wrapper in WRAPPER):  # the text speaks of them: no answer could be told from it
            return [ask, _Ask(prompts.plain(family, self._source, target, text))]
        marked = _Ask(prompts.with_marks(family, target, text), wrapped=True)
        return [marked, ask] if family in prompts.MARKS_PUBLISHED and not part.terms else [ask, marked]

    async def _say(self, answer: Answer, ask: _Ask, part: Segment, greedy: bool = False) -> AsyncGenerator[str, None]:
        """Fills `answer`."""
        async with aclosing(self._backend.stream(self._prompt(ask, part, greedy))) as chunks:
            async for chunk in chunks:
                if text := answer.take(chunk):
                    yield text
        self._tokens += answer.tokens
        self._truncated = answer.finish == "length"

    def _prompt(self, ask: _Ask, part: Segment, greedy: bool) -> Prompt:
        count = self._backend.count_tokens
        growth = (
            LONG_ANSWER_TOKENS_PER_SOURCE_TOKEN
            if self._request.target in LONG_ANSWER_LANGUAGES
            else ANSWER_TOKENS_PER_SOURCE_TOKEN
        )
        wanted = growth * part.tokens + ANSWER_SLACK_TOKENS
        room = self._backend.info.max_context_tokens - count(ask.text) - CHAT_LAYOUT_TOKENS
        sampling = replace(self._request.sampling, temperature=0.0) if greedy else self._request.sampling
        # without room it is 1, and the backend says how long its prompt may be
        return Prompt(ask.text, part.text, max(1, min(wanted, room)), sampling)

    async def _apart(self) -> AsyncGenerator[str, None]:
        """The segment with each run translated by itself, a run or a mark at a time; right marks by construction."""
        segment, truncated, terms = self._segment, False, glossary.index(self._segment.terms)
        for piece in marks.pieces(segment.text, segment.tags):
            if not isinstance(piece, str) or not any(map(str.isalpha, piece)):
                yield marks.spell([piece], segment.tags)
                continue
            run = piece.strip()
            before, _, after = piece.partition(run)
            part = replace(
                segment,
                text=run,
                tokens=self._backend.count_tokens(run),
                tags={},
                terms=glossary.terms_in(terms, run, self._source),
            )
            answer = Answer()
            async with aclosing(self._say(answer, self._asks(part)[0], part)) as said:
                async for _ in said:
                    pass
            truncated |= self._truncated
            self._answered |= bool(answer.text)
            words = marks.unmarked(_without_inventions(answer.text, run), run, segment.tags)
            yield before + (words or run) + after
        self._truncated = truncated

    def _judged(self, text: str, doubt: tuple[str, str] | None = None) -> Translated:
        """With what there is to say of it: `doubt` (code and sentence), an answer cut short or missing, terms missed.

        In a sentence `{where}` becomes the segment's number. Without a text the source is kept.
        """
        segment, doubts = self._segment, list[tuple[str, str]]()
        if self._truncated:
            doubts.append(_TRUNCATED)
        if not text:
            doubts.append(_EMPTY)
        elif doubt:
            doubts.append(doubt)
        bare_source, bare = (marks.bare(each, segment.tags) for each in (segment.text, text))
        terms = glossary.check(segment.terms, bare_source, bare, self._source)
        doubts += [_term_missed(term) for term in terms if term.applied < term.count]
        where = f"segment {segment.index + 1}"
        warnings = tuple(
            Warning(code, sentence.replace("{where}", where).replace("{tokens}", str(self._tokens)), segment.index)
            for code, sentence in doubts
        )
        text = text or segment.text
        return Translated(segment, text, self._tokens, terms, warnings, changed=text != self._said)


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
_TRUNCATED = "truncated", "The answer for {where} reached its limit of {tokens} tokens, so its end may be missing."
_EMPTY = "empty", "The model said nothing for {where}, so its source text was kept."
_TRANSLATED_APART = (
    "translated_apart",
    "The model lost tags or placeholders of {where}, so what stands between them was translated piece by "
    "piece; read it again.",
)


def _tags_moved(lost: int) -> tuple[str, str]:
    return (
        "tags_moved",
        f"The model left out {lost} of the tags or placeholders of {{where}}; they now stand at the end, so move them.",
    )


def _term_missed(term: TermResult) -> tuple[str, str]:
    wanted = f"“{term.source}” should have become “{term.target}” {term.count}×"
    return "term_missed", f"In {{where}}, {wanted}, and did {term.applied}×."
