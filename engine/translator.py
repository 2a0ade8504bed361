"""The door into the engine: a request goes in, its events come out. The one file that knows all the steps between.

A text is read as its format says and cut into segments, each is shown its context and terms, put into a prompt, run in
its turn, read in reading order and checked. Leaving is cancelling: closing the generator of `stream` frees every slot
and stops the backend.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter

from engine.attempts import Attempts
from engine.backends.base import Backend
from engine.errors import (
    BackendError,
    EmptyText,
    InvalidRequest,
    SameLanguage,
    TextTooLong,
    UnknownLanguage,
    YiwenError,
)
from engine.job import Job, prepare
from engine.languages import LANGUAGES, resolve, resolve_any
from engine.markup.parse import PARSERS, Markup, format_of
from engine.markup.spans import remembering
from engine.markup.verify import at_fault
from engine.output import Output
from engine.scheduler import Scheduler
from engine.types import (
    Block,
    DocumentEvent,
    Finished,
    ModelInfo,
    Queued,
    Segment,
    Started,
    Term,
    TermResult,
    TextDelta,
    Translated,
    TranslationEvent,
    TranslationRequest,
    Warning,
)

MAX_TOKEN_CHARACTERS = 5  # prose in any script has fewer to a token, so a longer text is refused without counting
LANES_PER_SLOT = 2  # segments that run or wait ahead of the reader, so that no slot is idle while one is read


@dataclass(frozen=True, slots=True)
class _Turn:
    """Opens every lane: the segment has its slot."""


@dataclass(slots=True)
class _Lane:
    """A segment on its way: what the model says of it, then what became of it or why it failed."""

    segment: Segment
    said: asyncio.Queue[_Turn | str | Translated | YiwenError]
    task: asyncio.Task[None] | None = None
    outcome: Translated | None = None


@dataclass(frozen=True, slots=True)
class _Began:
    """The reader has come to this segment, and it has its slot."""

    segment: Segment


class Translator:
    """`max_text_tokens` is the longest text it takes, in tokens of the backend's model."""

    def __init__(self, backend: Backend, scheduler: Scheduler, max_text_tokens: int = 200_000) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._max_text_tokens = max_text_tokens
        self._sound_glossary: tuple[Term, ...] = ()  # the last one whose characters were looked at

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
        """Events in reading order. The last is `Finished`, whose text is that of all segments joined.

        Raises `RequestError` for what the caller can mend, `Overloaded` before any work when there is no room, and
        `BackendError` when a segment fails; the others are then cancelled, as they are when the reader leaves.
        """
        began_seconds = perf_counter()
        if not request.text:
            raise EmptyText("There is no text to translate; send at least one word.")
        request = self.checked(request, [request.text])
        with self._scheduler.admit(request.id):
            markup: Markup = format_of(request.text) if request.format == "auto" else request.format
            parser = PARSERS[markup]
            parser = parser._replace(write=remembering(parser.write))  # what is sent is verified after
            # threads, since a book takes a second to cut and count and others are being answered meanwhile
            document = await asyncio.to_thread(parser.parse, request.text)
            job = await self._prepared(request, document.blocks)
            output = Output(job, document, parser, request.target)
            done: list[Translated] = []
            async with aclosing(self._run(request, job)) as events:
                async for event in events:
                    match event:
                        case _Began():
                            changes = output.begin(event.segment)
                        case TextDelta():
                            changes = output.say(job.segments[event.segment], event.text)
                        case Translated():
                            changes = output.settle(event)
                        case _:
                            yield event
                            continue
                    for change in changes:
                        yield change
                    if isinstance(event, Translated):
                        done.append(event)
                        yield output.done(event)
            for change in output.finish():
                yield change
            if faults := await asyncio.to_thread(at_fault, markup, document, parser.write, output.texts):
                for change in output.keep(faults):
                    yield change
            unchanged = sorted({*(faults or []), *output.refused})
        doubts = _unchanged(unchanged, job.segments)
        yield self._finished(job, done, began_seconds, output.terms(), doubts, text=output.text)

    async def stream_blocks(
        self, request: TranslationRequest, blocks: Sequence[Block], known: Mapping[int, Translated] | None = None
    ) -> AsyncGenerator[DocumentEvent, None]:
        """The blocks of a document, whose text the request does not hold. The last event is `Finished`, with `texts`.

        `known` are segments by their indices that need no model any more, and what became of them; one whose text is
        another now is asked for again. Raises what `stream` raises.
        """
        began_seconds = perf_counter()
        request = self.checked(request, [block.text for block in blocks])
        with self._scheduler.admit(request.id):
            job = await self._prepared(request, tuple(blocks))
            done: list[Translated] = []
            async with aclosing(self._run(request, job, known or {})) as events:
                async for event in events:
                    if isinstance(event, Translated):
                        done.append(event)
                    if not isinstance(event, _Began | TextDelta):
                        yield event
        texts = job.texts([each.text for each in done], LANGUAGES[request.target])
        terms = (replace(term, places=()) for each in done for term in each.terms)  # of no text that anybody reads
        yield self._finished(job, done, began_seconds, terms, texts=tuple(texts))

    async def _prepared(self, request: TranslationRequest, blocks: tuple[Block, ...]) -> Job:
        count = self._backend.count_tokens
        return await asyncio.to_thread(prepare, request, blocks, self.info, count, self._max_text_tokens)

    async def _run(
        self, request: TranslationRequest, job: Job, known: Mapping[int, Translated] | None = None
    ) -> AsyncGenerator[Queued | Started | _Began | TextDelta | Translated, None]:
        """All segments in reading order, each as it is said and then as what became of it."""
        started = Started(len(job.segments), job.source, job.detection)
        if not job.segments:
            yield started
        upcoming = iter(job.segments)
        lanes: deque[_Lane] = deque()
        try:
            for index, part in enumerate(job.segments):
                room = LANES_PER_SLOT * self._scheduler.slots - len(lanes)
                lanes.extend(self._open(request, job.source, ahead, known or {}) for ahead in islice(upcoming, room))
                if index == 0 and (before := self._scheduler.ahead(request.id)):
                    yield Queued(before)
                lane = lanes[0]
                while not isinstance(said := await lane.said.get(), Translated):
                    if isinstance(said, YiwenError):
                        raise said
                    if isinstance(said, _Turn):
                        if index == 0:
                            yield started
                        yield _Began(part)
                    elif lane.outcome is None or not lane.outcome.changed:  # else it is known to be wrong already
                        yield TextDelta(index, said)
                yield said
                lanes.popleft()
        finally:
            tasks = [lane.task for lane in lanes if lane.task]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def checked(self, request: TranslationRequest, texts: Sequence[str]) -> TranslationRequest:
        """The request with our own language codes. All that can be refused of it and its `texts` without a look at the
        words is; `stream` raises the same."""
        characters = sum(map(len, texts))
        most = self._max_text_tokens * MAX_TOKEN_CHARACTERS
        if characters > most:
            raise TextTooLong(
                f"The text has {characters:,} characters; one request takes {self._max_text_tokens:,} tokens, "
                f"about {most:,} characters at the most. Send it in parts."
            )
        known = request.glossary is self._sound_glossary  # of a list of texts all have the same, and it may be long
        words = "" if known else "".join(f"{term.source}{term.target}" for term in request.glossary)
        for text in (*texts, request.context, words):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(
                    f"Half a character (U+{ord(text[error.start]):04X}) stands at position {error.start}; "
                    "send whole Unicode characters."
                ) from error
        self._sound_glossary = request.glossary
        target = resolve(request.target, self.info.languages)
        source = None if request.source is None else resolve(request.source, self.info.languages)
        likely = resolve_any(request.likely) if request.likely else None
        if request.likely and not likely:
            raise UnknownLanguage(
                f"source_hint is {request.likely[:40]!r}, which is no language known here; leave it out."
            )
        if source == target:
            raise SameLanguage(
                f"Source and target are both {LANGUAGES[target].english} ({target}); choose two different languages."
            )
        return replace(request, source=source, target=target, likely=likely)

    def _open(self, request: TranslationRequest, source: str, part: Segment, known: Mapping[int, Translated]) -> _Lane:
        lane = _Lane(part, asyncio.Queue())
        before = known.get(part.index)
        if before and before.segment.text == part.text:
            lane.said.put_nowait(_Turn())
            lane.said.put_nowait(replace(before, segment=part))
        else:
            lane.task = asyncio.create_task(self._attempt(request, source, lane))
        return lane

    async def _attempt(self, request: TranslationRequest, source: str, lane: _Lane) -> None:
        attempts = Attempts(self._backend, request, source, lane.segment)
        try:
            async with self._scheduler.slot(request.id):
                lane.said.put_nowait(_Turn())
                async with aclosing(attempts.run()) as answer:
                    async for said in answer:
                        lane.outcome = said if isinstance(said, Translated) else None
                        lane.said.put_nowait(said)
        except YiwenError as error:
            lane.said.put_nowait(error)
        except Exception as error:  # the end of a task: without this the reader would wait for ever
            failure = BackendError(f"Segment {lane.segment.index + 1} could not be translated ({error!r}); try again.")
            failure.__cause__ = error
            lane.said.put_nowait(failure)

    def _finished(
        self,
        job: Job,
        done: Sequence[Translated],
        began_seconds: float,
        terms: Iterable[TermResult],
        warnings: Iterable[Warning] = (),
        text: str = "",
        texts: tuple[str, ...] = (),
    ) -> Finished:
        return Finished(
            text=text,
            texts=texts,
            source=job.source,
            segments=len(job.segments),
            input_tokens=sum(part.tokens for part in job.segments),
            output_tokens=sum(each.tokens for each in done),
            seconds=perf_counter() - began_seconds,
            model=self.info.name,
            detection=job.detection,
            terms=_summed(terms),
            warnings=(*job.warnings, *(warning for each in done for warning in each.warnings), *warnings),
        )


def _unchanged(blocks: Iterable[int], segments: Sequence[Segment]) -> Iterator[Warning]:
    first = {part.block: part.index for part in reversed(segments)}
    for block in blocks:
        message = (
            f"The paragraph of segment {first[block] + 1} could not be written with its translation and the structure "
            "it had, so its source text was kept."
        )
        yield Warning("source_kept", message, first[block])


def _summed(results: Iterable[TermResult]) -> tuple[TermResult, ...]:
    """One result a term, over the whole text."""
    sums: dict[tuple[str, str], TermResult] = {}
    for result in results:
        key = (result.source, result.target)
        before = sums.get(key, TermResult(*key, 0, 0))
        sums[key] = TermResult(
            *key, before.count + result.count, before.applied + result.applied, before.places + result.places
        )
    return tuple(sums.values())
