"""The door into the engine: a request goes in, its events come out. The one file that knows all the steps between.

A text is read as its format says and cut into segments, each is shown its context and terms, put into a prompt, run in
its turn, read in reading order and checked. Leaving is cancelling: closing the generator of `stream` frees every slot
and stops the backend.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter
from typing import Any, TypeVar

from engine.alternatives import TRIES_PER_ALTERNATIVE, as_it_stands, freer, is_fit
from engine.attempts import CHAT_LAYOUT_TOKENS, Attempts
from engine.backends.base import Backend
from engine.benchmark import Benchmark
from engine.errors import (
    BackendError,
    DeviceLost,
    EmptyText,
    InvalidRequest,
    SameLanguage,
    TextTooLong,
    UnknownLanguage,
    YiwenError,
)
from engine.job import UNDETERMINED, Job, prepare
from engine.languages import LANGUAGES, resolve, resolve_any
from engine.markup import kept
from engine.markup.parse import Markup, Parser, format_of, parser_for
from engine.markup.spans import remembering
from engine.markup.verify import at_fault
from engine.output import Output
from engine.scheduler import Scheduler
from engine.types import (
    Alternatives,
    Block,
    Document,
    DocumentEvent,
    Finished,
    MarkupChange,
    ModelInfo,
    Prompt,
    Queued,
    Replica,
    Sampling,
    Segment,
    ShownPrompt,
    Started,
    Term,
    TermResult,
    TextDelta,
    Translated,
    TranslationEvent,
    TranslationRequest,
    Warning,
    new_id,
)

MAX_TOKEN_CHARACTERS = 5  # prose in any script has fewer to a token, so a longer text is refused without counting
LANES_PER_SLOT = 2  # segments that run or wait ahead of the reader, so that no slot is idle while one is read
SHORT_CHARACTERS = 2_000  # read and cut at once, in a millisecond or two; a hop to a thread and back would add 0.2 ms
SHORT_TERMS = 50
QUEUE_LOOK_SECONDS = (
    0.05  # between two looks at how many are ahead of who waits, and as much again for every ten of them
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Turn:
    """Opens every lane: the segment has its slot."""


@dataclass(slots=True)
class _Lane:
    """A segment on its way: what the model says of it, then what became of it or why it failed. It has one reader."""

    segment: Segment
    whole: bool = False  # only what became of it
    said: deque[_Turn | str | Translated | YiwenError] = field(default_factory=deque)  # a queue would cost more
    task: asyncio.Task[None] | None = None
    outcome: Translated | None = None
    _reader: asyncio.Future[None] | None = None

    def say(self, said: _Turn | str | Translated | YiwenError) -> None:
        self.said.append(said)
        if self._reader and not self._reader.done():
            self._reader.set_result(None)

    async def read(self) -> _Turn | str | Translated | YiwenError:
        while not self.said:
            await self._spoken()
        return self.said.popleft()

    def end(self) -> Translated:
        """What became of the segment once its attempt is over; raises why it failed."""
        last = self.said.pop()
        if isinstance(last, YiwenError):
            raise last
        assert isinstance(last, Translated), "an attempt ends with what became of it, or why it failed"
        return last

    async def spoke(self, within_seconds: float) -> None:
        """Wait until there is something to read, but no longer."""
        if not self.said:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._spoken(), within_seconds)

    def _spoken(self) -> asyncio.Future[None]:
        self._reader = asyncio.get_running_loop().create_future()
        return self._reader


@dataclass(frozen=True, slots=True)
class _Read:
    """A text as its format says, and the job it makes."""

    request: TranslationRequest  # checked
    markup: Markup
    parser: Parser
    document: Document
    job: Job


@dataclass(frozen=True, slots=True)
class _Began:
    """The reader has come to this segment, and it has its slot."""

    segment: Segment


class Translator:
    """`max_text_tokens` is the longest text it takes, in tokens of the backend's model."""

    def __init__(self, backend: Backend, scheduler: Scheduler, max_text_tokens: int = 200_000) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self.benchmark = Benchmark(backend, scheduler)
        self.spent: Callable[[int], None] = lambda tokens: None  # told of each segment, in the context of who asked
        self._max_text_tokens = max_text_tokens
        self._sound_glossary: tuple[Term, ...] = ()  # the last one whose characters were looked at

    @property
    def info(self) -> ModelInfo:
        return self._backend.info

    @property
    def lost(self) -> bool:
        """Whether the model can be had only by a new process, so that this one ends soon."""
        failed = self._backend.failed
        return failed.done() and isinstance(failed.result(), DeviceLost)

    def replicas(self) -> Sequence[Replica]:
        """Of the model, where there are several."""
        return self._backend.replicas()

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

    async def stream(
        self, request: TranslationRequest, *, whole: bool = False
    ) -> AsyncGenerator[TranslationEvent, None]:
        """Events in reading order. The last is `Finished`, whose text is that of all segments joined. `whole`: each
        segment comes as one delta, for who does not wait for words.

        Raises `RequestError` for what the caller can mend, `Overloaded` before any work when there is no room, and
        `BackendError` when a segment fails; the others are then cancelled, as they are when the reader leaves.
        """
        began_seconds = perf_counter()
        request = self._own(request)
        with self._scheduler.admit(request.id):
            read = await self._read(request)
            job, document, parser = read.job, read.document, read.parser
            output = Output(job, document, parser, request.target)
            done: list[Translated] = []
            async with aclosing(self._run(request, job, whole=whole)) as events:
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
            if faults := await _aside(request, at_fault, read.markup, document, parser.write, output.texts):
                for change in output.keep(faults):
                    yield change
            unchanged = sorted({*(faults or []), *output.refused})
            declared = await _aside(request, output.changes)
        doubts = _unchanged(unchanged, job.segments)
        yield self._finished(job, done, began_seconds, output.terms(), doubts, text=output.text, changes=declared)

    async def stream_blocks(
        self,
        request: TranslationRequest,
        blocks: Sequence[Block],
        known: Mapping[int, Translated] | None = None,
        cut: Job | None = None,
    ) -> AsyncGenerator[DocumentEvent, None]:
        """The blocks of a document, whose text the request does not hold. The last event is `Finished`, with `texts`.

        `known` are segments by their indices that need no model any more, and what became of them; one whose text is
        another now is asked for again. `cut` is what `cut` made of the blocks, which else is done here. Raises what
        `stream` raises.
        """
        began_seconds = perf_counter()
        request = self.checked(request, [block.text for block in blocks])
        with self._scheduler.admit(request.id):
            job = cut or await self._prepared(request, tuple(blocks))
            done: list[Translated] = []
            async with aclosing(self._run(request, job, known or {})) as events:
                async for event in events:
                    if isinstance(event, Translated):
                        done.append(event)
                    if not isinstance(event, _Began | TextDelta):
                        yield event
        texts = job.texts([each.text for each in done], LANGUAGES[request.target])
        # places would be of no text that anybody reads
        terms = (replace(term, places=(), source_places=()) for each in done for term in each.terms)
        yield self._finished(job, done, began_seconds, terms, texts=tuple(texts))

    async def cut(self, request: TranslationRequest, blocks: Sequence[Block]) -> Job:
        """The segments of a document, each with what it is shown. Raises what `stream` raises of a text."""
        return await self._prepared(self.checked(request, [block.text for block in blocks]), tuple(blocks))

    async def stream_segment(
        self, request: TranslationRequest, source: str, part: Segment
    ) -> AsyncGenerator[DocumentEvent, None]:
        """A segment of what was `cut` before, from the language `source`. Raises what `stream` raises."""
        began_seconds = perf_counter()
        request = self.checked(request, ())
        job = Job((), [part], [], source)
        done: list[Translated] = []
        with self._scheduler.admit(request.id):
            async with aclosing(self._run(request, job)) as events:
                async for event in events:
                    if isinstance(event, Translated):
                        done.append(event)
                    if not isinstance(event, _Began | TextDelta):
                        yield event
        yield self._finished(job, done, began_seconds, ())

    async def prompt(self, request: TranslationRequest, segment: int = 0) -> ShownPrompt:
        """What the model would be shown first of this segment of the text. Raises what `stream` raises before its first
        segment, and `InvalidRequest` where there is no such segment."""
        with self._admitted(request) as request:
            read = await self._read(request)
            part = _segment(read.job, segment)
            asks = Attempts(self._backend, request, read.job.source, part).first()
            context = max((ask.context for ask in asks), key=len, default="")
            text = "\n\n".join(ask.text for ask in asks)
            return ShownPrompt(
                segments=len(read.job.segments),
                segment=segment,
                source=kept.source(part),
                context=context,
                context_cut=len(request.context.strip()) - len(context),
                before=max((ask.before for ask in asks), key=len, default=""),
                terms=tuple(dict.fromkeys(term for ask in asks for term in ask.terms)),
                text=text,
                tokens=sum(self._backend.count_tokens(ask.text) for ask in asks),
            )

    async def alternatives(
        self, request: TranslationRequest, segment: int, count: int, without: str = ""
    ) -> Alternatives:
        """At most `count` translations of one segment of the text, each another than the rest and than `without`.

        There may be fewer: of what is sampled some is the same, and what is no translation is not shown. Raises what
        `prompt` and `stream` raise; cancelling it frees its slots and stops the backend.
        """
        with self._admitted(request) as request:
            read = await self._read(request)
            part = _segment(read.job, segment)
            tries = TRIES_PER_ALTERNATIVE * count
            upcoming = iter(range(tries))
            found: dict[str, int] = {}  # → its try
            read_tokens = made_tokens = 0
            asking: set[asyncio.Task[tuple[int, Translated]]] = set()
            try:
                while len(found) < count:
                    for number in islice(upcoming, count - len(found) - len(asking)):
                        freely = replace(request, sampling=freer(request.sampling, number, tries))
                        asking.add(asyncio.create_task(self._try(freely, read.job.source, part, number)))
                    if not asking:
                        break
                    answered, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                    for number, done in sorted(task.result() for task in answered):
                        read_tokens, made_tokens = read_tokens + part.tokens, made_tokens + done.tokens
                        text = await asyncio.to_thread(_fit, read, done, without)
                        if text and text.strip() != without.strip():
                            found.setdefault(text, number)
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
        return Alternatives(segment, tuple(sorted(found, key=found.__getitem__)), read_tokens, made_tokens)

    async def _try(
        self, request: TranslationRequest, source: str, part: Segment, number: int
    ) -> tuple[int, Translated]:
        """What becomes of a segment, in its turn; and the `number`."""
        lane = _Lane(part, whole=True)
        await self._attempt(request, source, lane)
        return number, lane.end()

    async def complete(
        self, text: str, sampling: Sampling, max_tokens: int | None = None
    ) -> AsyncGenerator[Started | TextDelta | Finished, None]:
        """What the model says to `text`, word for word as the user's turn, in its turn; nothing of it is checked. A
        warning `truncated` says that it had not come to its end. Raises what `stream` raises of one segment."""
        began_seconds = perf_counter()
        refuse_halves(text)
        if not text.strip():
            raise EmptyText("There is no text to translate; send at least one word.")
        most = self.info.max_context_tokens - CHAT_LAYOUT_TOKENS
        fits = len(text) <= most * MAX_TOKEN_CHARACTERS
        tokens = await asyncio.to_thread(self._backend.count_tokens, text) if fits else most
        if tokens >= most:
            size = f"{tokens:,} tokens" if fits else f"{len(text):,} characters"
            raise TextTooLong(f"The message has {size}; with its answer {most:,} tokens fit the model. Shorten it.")
        request_id, said, made = new_id(), list[str](), 0
        warnings: tuple[Warning, ...] = ()
        with self._scheduler.admit(request_id):
            async with self._scheduler.slot(request_id) as first:
                yield Started(1, UNDETERMINED)
                prompt = Prompt(text, text, min(max_tokens or most, most - tokens), sampling, first)
                try:
                    async with aclosing(self._backend.stream(prompt)) as chunks:
                        async for chunk in chunks:
                            made += chunk.tokens
                            said.append(chunk.text)
                            if chunk.finish == "length":
                                message = "The answer reached the most tokens it may have, so its end may be missing."
                                warnings = (Warning("truncated", message),)
                            if chunk.text:
                                yield TextDelta(0, chunk.text)
                finally:
                    self.spent(tokens + made)
        yield Finished(
            text="".join(said),
            source=UNDETERMINED,
            segments=1,
            input_tokens=tokens,
            output_tokens=made,
            seconds=perf_counter() - began_seconds,
            model=self.info.name,
            warnings=warnings,
        )

    @contextmanager
    def _admitted(self, request: TranslationRequest) -> Iterator[TranslationRequest]:
        request = self._own(request)
        with self._scheduler.admit(request.id):
            yield request

    def _own(self, request: TranslationRequest) -> TranslationRequest:
        """A request whose text is its own, checked."""
        if not request.text:
            raise EmptyText("There is no text to translate; send at least one word.")
        return self.checked(request, [request.text])

    async def _read(self, request: TranslationRequest) -> _Read:
        markup: Markup = format_of(request.text) if request.format == "auto" else request.format
        parser = parser_for(markup, request.tags, request.split)
        parser = Parser(parser.parse, remembering(parser.write), parser.escape)  # what is sent is verified after
        document = await _aside(request, parser.parse, request.text)
        return _Read(request, markup, parser, document, await self._prepared(request, document.blocks))

    async def _prepared(self, request: TranslationRequest, blocks: tuple[Block, ...]) -> Job:
        count = self._backend.count_tokens
        return await _aside(request, prepare, request, blocks, self.info, count, self._max_text_tokens)

    async def _run(
        self,
        request: TranslationRequest,
        job: Job,
        known: Mapping[int, Translated] | None = None,
        *,
        whole: bool = False,
    ) -> AsyncGenerator[Queued | Started | _Began | TextDelta | Translated, None]:
        """All segments in reading order, each as it is said and then as what became of it."""
        started = Started(len(job.segments), job.source, job.detection)
        if not job.segments:
            yield started
        if whole and len(job.segments) == 1:  # nobody reads ahead of it, so it needs no task of its own
            lane = _Lane(job.segments[0], whole)
            async with self._scheduler.slot(request.id) as first:
                yield started
                await self._work(request, job.source, lane, first)
            outcome = lane.end()
            yield _Began(lane.segment)
            yield outcome
            return
        upcoming = iter(job.segments)
        lanes: deque[_Lane] = deque()
        try:
            for index, part in enumerate(job.segments):
                room = LANES_PER_SLOT * self._scheduler.slots - len(lanes)
                lanes.extend(
                    self._open(request, job.source, _Lane(ahead, whole), known or {})
                    for ahead in islice(upcoming, room)
                )
                lane = lanes[0]
                if index == 0:
                    async with aclosing(self._queue(request.id, lane)) as places:
                        async for queued in places:
                            yield queued
                while not isinstance(said := await lane.read(), Translated):
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

    async def _queue(self, request_id: str, lane: _Lane) -> AsyncGenerator[Queued, None]:
        """How many are ahead, and again whenever that has changed, until the lane has its turn or nobody is ahead.

        Looks again and again, since being told would cost every release of a slot a look at all who wait; who has many
        ahead looks more seldom.
        """
        told = 0
        while not lane.said and (ahead := self._scheduler.ahead(request_id)):
            if ahead != told:
                told = ahead
                yield Queued(ahead)
            await lane.spoke(QUEUE_LOOK_SECONDS * (1 + ahead / 10))

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
            refuse_halves(text)
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
        if (source, target, likely) == (request.source, request.target, request.likely):
            return request
        return replace(request, source=source, target=target, likely=likely)

    def _open(self, request: TranslationRequest, source: str, lane: _Lane, known: Mapping[int, Translated]) -> _Lane:
        before = known.get(lane.segment.index)
        if before and before.segment.text == lane.segment.text:
            lane.say(_Turn())
            lane.say(replace(before, segment=lane.segment))
        else:
            lane.task = asyncio.create_task(self._attempt(request, source, lane))
        return lane

    async def _attempt(self, request: TranslationRequest, source: str, lane: _Lane) -> None:
        async with self._scheduler.slot(request.id) as first:
            lane.say(_Turn())
            await self._work(request, source, lane, first)

    async def _work(self, request: TranslationRequest, source: str, lane: _Lane, first: bool) -> None:
        """What is said in a lane, in its turn: the last is what became of the segment, or why it failed."""
        try:
            attempts = Attempts(self._backend, request, source, lane.segment, first=first)
            made = 0  # deltas: of what is cut short nobody counts the tokens
            try:
                async with aclosing(attempts.run()) as answer:
                    async for said in answer:
                        made += 1
                        lane.outcome = said if isinstance(said, Translated) else None
                        if lane.outcome or not lane.whole:
                            lane.say(said)
            finally:
                self.spent(lane.segment.tokens + (lane.outcome.tokens if lane.outcome else made))
        except YiwenError as error:
            lane.say(error)
        except Exception as error:  # the end of a task: without this the reader would wait for ever
            kind = type(error).__name__  # its own words may quote the text, and this comes into the log
            failure = BackendError(f"Segment {lane.segment.index + 1} could not be translated ({kind}); try again.")
            failure.__cause__ = error
            lane.say(failure)

    def _finished(
        self,
        job: Job,
        done: Sequence[Translated],
        began_seconds: float,
        terms: Iterable[TermResult],
        warnings: Iterable[Warning] = (),
        text: str = "",
        texts: tuple[str, ...] = (),
        changes: tuple[MarkupChange, ...] = (),
    ) -> Finished:
        return Finished(
            text=text,
            texts=texts,
            changes=changes,
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


def refuse_halves(text: str) -> None:
    """JSON can say half a character, and no encoding has it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"Half a character (U+{ord(text[error.start]):04X}) stands at position {error.start}; "
            "send whole Unicode characters."
        ) from error


async def _aside(request: TranslationRequest, work: Callable[..., Result], *given: Any) -> Result:
    """In a thread, since a book takes a second to cut and count and others are being answered meanwhile; of a short
    text here. That of a document's blocks is not in its request."""
    characters = len(request.text) + len(request.context)
    if request.text and characters < SHORT_CHARACTERS and len(request.glossary) <= SHORT_TERMS:
        return work(*given)
    return await asyncio.to_thread(work, *given)


def _segment(job: Job, number: int) -> Segment:
    """Raises `InvalidRequest` where there is none of this number."""
    if not job.segments:
        raise InvalidRequest("Nothing of this text is shown to the model, since there is nothing in it to translate.")
    if not 0 <= number < len(job.segments):
        raise InvalidRequest(
            f"There is no segment {number:,}: the text has {len(job.segments):,}, counted from 0; ask for one of these."
        )
    return job.segments[number]


def _fit(read: _Read, done: Translated, before: str) -> str | None:
    """How it stands in the document, where `before` stands now, if it may be shown."""
    if not is_fit(done):
        return None
    return as_it_stands(read.job, read.document, read.markup, read.parser, read.request.target, done, before)


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
    found: dict[tuple[str, str], list[TermResult]] = {}
    for result in results:
        found.setdefault((result.source, result.target), []).append(result)
    return tuple(
        TermResult(
            *key,
            sum(each.count for each in of_term),
            sum(each.applied for each in of_term),
            tuple(place for each in of_term for place in each.places),
            tuple(
                sorted(place for each in of_term for place in each.source_places)
            ),  # an alt text comes before its line
        )
        for key, of_term in found.items()
    )
