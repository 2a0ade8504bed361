"""The door into the engine: a request goes in, its events come out. The one file that knows all the steps between.

A text is cut into segments, each is shown its context and terms, put into a prompt, run in its turn, read in reading
order and checked. Leaving is cancelling: closing the generator of `stream` frees every slot and stops the backend.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter

from engine import glossary, prompts
from engine.backends.base import Backend
from engine.context import windows
from engine.detect import detect
from engine.errors import BackendError, EmptyText, InvalidRequest, SameLanguage, TextTooLong, YiwenError
from engine.languages import LANGUAGES, resolve
from engine.scheduler import Scheduler
from engine.segmenter import join_gap, segment
from engine.types import (
    Finished,
    FinishReason,
    Guess,
    ModelInfo,
    Prompt,
    Queued,
    Segment,
    SegmentDone,
    Started,
    TermResult,
    TextDelta,
    TokenChunk,
    TranslationEvent,
    TranslationRequest,
    Warning,
)

MAX_TOKEN_CHARACTERS = 5  # prose in any script has fewer to a token, so a longer text is refused without counting
LANES_PER_SLOT = 2  # segments that run or wait ahead of the reader, so that no slot is idle while one is read
ANSWER_TOKENS_PER_SOURCE_TOKEN = 2
LONG_ANSWER_TOKENS_PER_SOURCE_TOKEN = 3  # into scripts that tokenizers cut finely
LONG_ANSWER_LANGUAGES = frozenset({"bo", "km", "my", "ta", "te"})
ANSWER_SLACK_TOKENS = 32  # a short segment may grow by more than its length
CHAT_LAYOUT_TOKENS = 16  # what a checkpoint puts around a prompt; HY-MT's has up to 4
UNDETERMINED = "und"  # BCP-47's code for the source of a text without words

_TURN = TokenChunk("", tokens=0)  # opens every lane: the segment has its slot


@dataclass(frozen=True, slots=True)
class _Job:
    """A request after the work that needs no model. `tail` follows the last segment, or is the whole answer."""

    segments: list[Segment]
    tail: str
    source: str
    detection: tuple[Guess, ...] = ()
    warnings: tuple[Warning, ...] = ()


@dataclass(frozen=True, slots=True)
class _Lane:
    """A segment on its way: the task that runs it, and what has come of it so far; `None` is the end."""

    task: asyncio.Task[None]
    chunks: asyncio.Queue[TokenChunk | YiwenError | None]


@dataclass(slots=True)
class _Answer:
    """What the model says of one segment, without the white space around it, since gaps are ours."""

    text: str = ""
    tokens: int = 0
    finish: FinishReason | None = None
    held: str = ""  # white space that belongs to the answer only if more comes

    def take(self, chunk: TokenChunk) -> str:
        """The text that `chunk` makes certain."""
        self.tokens += chunk.tokens
        self.finish = chunk.finish
        new = self.held + chunk.text if self.text else chunk.text.lstrip()
        certain = new.rstrip()
        self.held = new[len(certain) :]
        self.text += certain
        return certain


class Translator:
    """`max_text_tokens` is the longest text it takes, in tokens of the backend's model."""

    def __init__(self, backend: Backend, scheduler: Scheduler, max_text_tokens: int = 200_000) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._max_text_tokens = max_text_tokens

    @property
    def info(self) -> ModelInfo:
        return self._backend.info

    def count_tokens(self, text: str) -> int:
        """As the model counts them, and `max_text_tokens` does."""
        return self._backend.count_tokens(text)

    async def translate(self, request: TranslationRequest) -> Finished:
        """The whole answer at once. Raises what `stream` raises."""
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event
        raise AssertionError("a stream that ends well ends with Finished")

    async def stream(self, request: TranslationRequest) -> AsyncGenerator[TranslationEvent, None]:
        """Events in reading order. The last is `Finished`, whose text is all `TextDelta` joined.

        Raises `RequestError` for what the caller can mend, `Overloaded` before any work when there is no room, and
        `BackendError` when a segment fails; the others are then cancelled, as they are when the reader leaves.
        """
        began_seconds = perf_counter()
        request = self._checked(request)
        with self._scheduler.admit(request.id):
            # a thread, since a book takes a second to cut and count and others are being answered meanwhile
            job = await asyncio.to_thread(self._prepare, request)
            texts: list[str] = []
            warnings = list(job.warnings)
            terms: list[TermResult] = []
            output_tokens = 0

            started = Started(len(job.segments), job.source, job.detection)
            if not job.segments:
                yield started
            upcoming = iter(job.segments)
            lanes: deque[_Lane] = deque()
            try:
                for index, part in enumerate(job.segments):
                    room = LANES_PER_SLOT * self._scheduler.slots - len(lanes)
                    lanes.extend(self._open(request, job.source, ahead) for ahead in islice(upcoming, room))
                    if index == 0 and (before := self._scheduler.ahead(request.id)):
                        yield Queued(before)
                    answer = _Answer()
                    while (chunk := await lanes[0].chunks.get()) is not None:
                        if isinstance(chunk, YiwenError):
                            raise chunk
                        if chunk is _TURN:
                            if index == 0:
                                yield started
                            text = self._gap(request, job, index)
                        else:
                            text = answer.take(chunk)
                        if text:
                            texts.append(text)
                            yield TextDelta(index, text)
                    lanes.popleft()
                    if not answer.text:
                        texts.append(part.text)
                        yield TextDelta(index, part.text)
                    done = _judge(part, answer, job.source)
                    output_tokens += answer.tokens
                    warnings.extend(done.warnings)
                    terms.extend(done.terms)
                    yield done
            finally:
                for lane in lanes:
                    lane.task.cancel()
                await asyncio.gather(*(lane.task for lane in lanes), return_exceptions=True)
            if job.tail:
                texts.append(job.tail)
                yield TextDelta(max(len(job.segments) - 1, 0), job.tail)
        yield Finished(
            text="".join(texts),
            source=job.source,
            segments=len(job.segments),
            input_tokens=sum(part.tokens for part in job.segments),
            output_tokens=output_tokens,
            seconds=perf_counter() - began_seconds,
            model=self.info.name,
            detection=job.detection,
            terms=_summed(terms),
            warnings=tuple(warnings),
        )

    def _checked(self, request: TranslationRequest) -> TranslationRequest:
        """The request with our own language codes. All that can be refused without looking at the words is."""
        if not request.text.strip():
            raise EmptyText("There is no text to translate; send at least one word.")
        most = self._max_text_tokens * MAX_TOKEN_CHARACTERS
        if len(request.text) > most:
            raise TextTooLong(
                f"The text has {len(request.text):,} characters; one request takes {self._max_text_tokens:,} tokens, "
                f"about {most:,} characters at the most. Send it in parts."
            )
        words = "".join(f"{term.source}{term.target}" for term in request.glossary)
        for text in (request.text, request.context, words):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(
                    f"Half a character (U+{ord(text[error.start]):04X}) stands at position {error.start}; "
                    "send whole Unicode characters."
                ) from error
        target = resolve(request.target, self.info.languages)
        source = None if request.source is None else resolve(request.source, self.info.languages)
        if source == target:
            raise SameLanguage(
                f"Source and target are both {LANGUAGES[target].english} ({target}); choose two different languages."
            )
        return replace(request, source=source, target=target)

    def _prepare(self, request: TranslationRequest) -> _Job:
        segments, tail = segment(request.text, self._backend.count_tokens, self.info.segment_tokens)
        if not segments:
            return _Job([], tail, request.source or UNDETERMINED)
        size = sum(part.tokens for part in segments)
        if size > self._max_text_tokens:
            raise TextTooLong(
                f"The text has {size:,} tokens; one request takes {self._max_text_tokens:,}. Send it in parts."
            )
        detection = () if request.source else detect(request.text, self.info.languages)
        source = request.source or detection[0].lang
        if source == request.target:
            message = (
                f"The text seems to be {LANGUAGES[source].english} already, so it was left as it is; "
                "if it is not, choose its language yourself."
            )
            return _Job([], request.text, source, detection, (Warning("same_language", message),))
        shown = windows(
            [part.gap + part.text for part in segments],
            request.context,
            request.context_mode,
            self._backend.count_tokens,
        )
        terms = glossary.index(request.glossary)
        segments = [
            replace(part, context=seen, terms=glossary.terms_in(terms, part.text, source))
            for part, seen in zip(segments, shown, strict=True)
        ]
        return _Job(segments, tail, source, detection, self._doubts(source, request.target))

    def _doubts(self, source: str, target: str) -> tuple[Warning, ...]:
        hub = self.info.hub
        if hub is None or hub in (source, target):
            return ()
        between, first, second = (LANGUAGES[code].english for code in (hub, source, target))
        message = (
            f"{self.info.name} has learnt {between} with each of its languages, but not {first} with {second}, so this "
            f"is a guess; translate into {between} first, and that into {second}."
        )
        return (Warning("unlearnt_pair", message),)

    def _gap(self, request: TranslationRequest, job: _Job, index: int) -> str:
        before = job.segments[index - 1].text if index else ""
        return join_gap(job.segments[index].gap, before, LANGUAGES[request.target])

    def _open(self, request: TranslationRequest, source: str, part: Segment) -> _Lane:
        chunks: asyncio.Queue[TokenChunk | YiwenError | None] = asyncio.Queue()
        return _Lane(asyncio.create_task(self._run(request, source, part, chunks)), chunks)

    async def _run(
        self,
        request: TranslationRequest,
        source: str,
        part: Segment,
        chunks: asyncio.Queue[TokenChunk | YiwenError | None],
    ) -> None:
        try:
            prompt = self._prompt(request, source, part)
            async with self._scheduler.slot(request.id):
                chunks.put_nowait(_TURN)
                async with aclosing(self._backend.stream(prompt)) as answer:
                    async for chunk in answer:
                        chunks.put_nowait(chunk)
            chunks.put_nowait(None)
        except YiwenError as error:
            chunks.put_nowait(error)
        except Exception as error:  # the end of a task: without this the reader would wait for ever
            failure = BackendError(f"Segment {part.index + 1} could not be translated ({error!r}); try again.")
            failure.__cause__ = error
            chunks.put_nowait(failure)

    def _prompt(self, request: TranslationRequest, source: str, part: Segment) -> Prompt:
        """Terms come before context: a term is an order, context a hint, and no template takes both."""
        family, target = self.info.family, request.target
        if part.terms:
            text = prompts.with_terms(family, target, part.terms, part.text)
        elif part.context:
            text = prompts.with_context(family, target, part.context, part.text)
        else:
            text = prompts.plain(family, source, target, part.text)
        growth = (
            LONG_ANSWER_TOKENS_PER_SOURCE_TOKEN if target in LONG_ANSWER_LANGUAGES else ANSWER_TOKENS_PER_SOURCE_TOKEN
        )
        room = self.info.max_context_tokens - self._backend.count_tokens(text) - CHAT_LAYOUT_TOKENS
        # without room it is 1, and the backend says how long its prompt may be
        return Prompt(text, part.text, max(1, min(growth * part.tokens + ANSWER_SLACK_TOKENS, room)), request.sampling)


def _judge(part: Segment, answer: _Answer, source: str) -> SegmentDone:
    """What there is to say of a finished segment: terms missed, an answer cut short or missing."""
    terms = glossary.check(part.terms, part.text, answer.text, source)
    where = f"segment {part.index + 1}"
    warnings = [
        Warning(
            "term_missed",
            f"In {where}, “{term.source}” should have become “{term.target}” {term.count}×, and did {term.applied}×.",
            part.index,
        )
        for term in terms
        if term.applied < term.count
    ]
    if answer.finish == "length":
        message = f"The answer for {where} reached its limit of {answer.tokens} tokens, so its end may be missing."
        warnings.append(Warning("truncated", message, part.index))
    if not answer.text:
        message = f"The model said nothing for {where}, so its source text was kept."
        warnings.append(Warning("empty", message, part.index))
    return SegmentDone(part.index, answer.text or part.text, terms, tuple(warnings))


def _summed(results: Iterable[TermResult]) -> tuple[TermResult, ...]:
    """One result a term, over the whole text."""
    sums: dict[tuple[str, str], TermResult] = {}
    for result in results:
        key = (result.source, result.target)
        before = sums.get(key, TermResult(*key, 0, 0))
        sums[key] = replace(before, count=before.count + result.count, applied=before.applied + result.applied)
    return tuple(sums.values())
