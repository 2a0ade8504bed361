import asyncio
import random
import time
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest

from engine.backends.echo import EchoBackend
from engine.errors import (
    BackendError,
    EmptyText,
    InvalidRequest,
    Overloaded,
    SameLanguage,
    TextTooLong,
    UnknownLanguage,
)
from engine.scheduler import Scheduler
from engine.translator import LANES_PER_SLOT, Translator
from engine.types import (
    Finished,
    Guess,
    Queued,
    SegmentDone,
    Started,
    Term,
    TermResult,
    TextDelta,
    TokenChunk,
    TranslationRequest,
)
from tests.timing import cpu_at_most


class SaysBackend(EchoBackend):
    """Answers every prompt with the same chunks, and keeps the prompts."""

    def __init__(self, *texts, finish="stop", **more):
        super().__init__(**more)
        self.texts, self.finish, self.prompts = texts, finish, []

    async def stream(self, prompt):
        self.prompts.append(prompt)
        for text in self.texts:
            await asyncio.sleep(0)
            yield TokenChunk(text)
        yield TokenChunk("", tokens=0, finish=self.finish)


class FailsBackend(EchoBackend):
    """Fails where the source says so, and echoes the rest."""

    error: Exception = BackendError("the card is gone")

    async def stream(self, prompt):
        if "FAIL" in prompt.source:
            raise self.error
        async with aclosing(super().stream(prompt)) as chunks:
            async for chunk in chunks:
                yield chunk


def make(backend=None, slots=4, max_requests=100, **more):
    scheduler = Scheduler(slots, max_requests)
    return Translator(backend or EchoBackend(), scheduler, **more), scheduler


def ask(text, target="fr", source="en", **more):
    return TranslationRequest(text, target, source, **more)


async def events_of(translator, request):
    return [event async for event in translator.stream(request)]


def run(request, backend=None):
    return asyncio.run(events_of(make(backend)[0], request))


def joined(events):
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_the_events_of_a_request_come_in_reading_order():
    events = run(ask("First line here.\n\nSecond line there."))
    assert events[0] == Started(2, "en")
    assert [event.segment for event in events[1:-1]] == sorted(event.segment for event in events[1:-1])
    assert [event.text for event in events if isinstance(event, SegmentDone)] == [
        "First line here.",
        "Second line there.",
    ]
    assert isinstance(events[-1], Finished)
    assert (events[-1].segments, events[-1].source, events[-1].model) == (2, "en", "echo")
    assert events[-1].input_tokens > 0
    assert events[-1].output_tokens > 0


PIECES = [
    "Hello. ",
    "One, two",
    "\n",
    "\r\n",
    "\t",
    "  ",
    "\u00a0",
    "---",
    "12",
    "Ünïcödé ",
    "中文。",
    "👍",
    "\ufeff",
    "\0",
    "x" * 300,
]


@pytest.mark.parametrize("target", ["fr", "zh"])
def test_deltas_joined_are_the_translation(target):
    dice = random.Random(4)
    for _ in range(60):
        text = "".join(dice.choices(PIECES, k=dice.randint(1, 30))) + "a"
        events = run(ask(text, target, "de"), EchoBackend(segment_tokens=dice.choice([4, 16, 48])))
        assert joined(events) == events[-1].text


def test_an_echo_is_the_text_to_the_last_byte():
    text = "\ufeff  Hello there.  \r\n\r\n\t1. One – two! Three?\n---\n\0Last… line\u00a0\n\n"
    assert run(ask(text))[-1].text == text


def test_between_sentences_there_is_what_the_target_has_there():
    chinese = "今天天气很好我们去公园散步吧。" * 2
    small = EchoBackend(segment_tokens=4)
    assert (
        run(ask(chinese, "en", "zh"), small)[-1].text == "今天天气很好我们去公园散步吧。 今天天气很好我们去公园散步吧。"
    )
    assert run(ask("One is here. Two is there.", "zh"), small)[-1].text == "One is here.Two is there."


def test_white_space_around_an_answer_is_not_the_models_to_say():
    events = run(ask("One.\nTwo.\n"), SaysBackend("\n ", " Un", "  ", "deux ", "\n"))
    assert events[-1].text == joined(events) == "Un  deux\nUn  deux\n"


def test_a_text_without_a_letter_is_answered_at_once():
    backend = SaysBackend("no")
    assert run(ask(" 12 – 34\n***\n", source=None), backend)[-1].text == " 12 – 34\n***\n"
    assert backend.prompts == []


def test_an_empty_text_is_refused():
    with pytest.raises(EmptyText, match="at least one word"):
        run(ask(""))


def test_white_space_comes_back_as_it_is():
    backend = SaysBackend("no")
    assert run(ask(" \n\t\u3000", source=None), backend)[-1].text == " \n\t\u3000"
    assert backend.prompts == []


def test_an_unknown_language_is_told_which_there_are():
    with pytest.raises(UnknownLanguage, match="de, en"):
        run(ask("Hi", "xx"), EchoBackend(languages=("de", "en")))


def test_a_language_the_model_does_not_speak_is_refused():
    with pytest.raises(UnknownLanguage, match="French"):
        run(ask("Hi", "fr"), EchoBackend(languages=("de", "en")))


def test_codes_are_understood_in_any_letter_case():
    assert run(ask("Hello", "FR", "En"))[-1].source == "en"


def test_one_language_for_both_sides_is_refused():
    with pytest.raises(SameLanguage, match="English"):
        run(ask("Hi", "en", "en"))


def test_half_a_character_is_refused():
    with pytest.raises(InvalidRequest, match=r"U\+D83D.* 3"):
        run(ask("Hi \ud83d there"))


def test_a_text_that_is_too_long_is_told_its_size_the_limit_and_what_to_do():
    async def go():
        with pytest.raises(TextTooLong, match=r"1\d\d tokens.*100\. Send it in parts"):
            await make(max_text_tokens=100)[0].translate(ask("word " * 96))

    asyncio.run(go())


def test_tokens_are_counted_as_the_model_counts_them():
    translator, _ = make()
    assert translator.count_tokens("eight ch") == EchoBackend().count_tokens("eight ch") == 2


def test_a_megabyte_too_many_costs_nothing():
    class NeverCounts(EchoBackend):
        def count_tokens(self, text):
            raise AssertionError("counted")

    with pytest.raises(TextTooLong, match="1,048,576 characters"):
        run(ask("a" * 1_048_576), NeverCounts())


def test_the_source_is_detected_when_it_is_not_named():
    events = run(ask("Der Ausschuss hat noch nicht entschieden.", source=None))
    assert events[0].source == events[-1].source == "de"
    assert [type(guess) for guess in events[-1].detection] == [Guess, Guess]


def test_a_text_in_the_target_language_already_comes_back_unchanged():
    backend = SaysBackend("no")
    text = " Le comité n'a pas encore décidé.\n"
    events = run(ask(text, "fr", source=None), backend)
    assert events[-1].text == joined(events) == text
    assert [warning.code for warning in events[-1].warnings] == ["same_language"]
    assert backend.prompts == []


def test_terms_of_the_glossary_reach_the_prompt_of_their_segment_only():
    backend = SaysBackend("IA")
    run(
        ask("About AI here.\nAbout nothing.", glossary=(Term("AI", "IA"), Term("page", "page")), context="A tale."),
        backend,
    )
    first, second = (prompt.text for prompt in backend.prompts)
    assert "AI 翻译成 IA" in first
    assert "page" not in first
    assert "A tale." in second
    assert "翻译成 IA" not in second


def test_terms_are_counted_over_the_whole_text_and_misses_are_named():
    events = run(ask("AI one.\nAI two. AI three.", glossary=(Term("AI", "IA"),)), SaysBackend("IA est là"))
    finished = events[-1]
    assert finished.terms == (TermResult("AI", "IA", 3, 2, ((0, 2), (10, 12)), ((0, 2), (8, 10), (16, 18))),)
    assert [(warning.code, warning.segment) for warning in finished.warnings] == [("term_missed", 1)]
    assert "“AI”" in finished.warnings[0].message
    assert [event.warnings for event in events if isinstance(event, SegmentDone)] == [(), finished.warnings]


def test_context_mode_shows_each_segment_the_text_before_it():
    backend = SaysBackend("x")
    run(ask("She is a judge.\nShe is old.", context_mode=True), backend)
    assert [("She is a judge." in prompt.text) for prompt in backend.prompts] == [True, True]
    assert backend.prompts[1].source == "She is old."


def test_without_terms_and_context_the_prompt_is_the_plain_one():
    backend = SaysBackend("x")
    run(ask("Hi there."), backend)
    assert backend.prompts[0].text.startswith("Translate the following segment into French")
    assert backend.prompts[0].source == "Hi there."


def test_an_answer_may_be_twice_as_long_and_thrice_in_some_scripts_but_must_fit_the_model():
    def limit(target, **more):
        backend = SaysBackend("x", **more)
        run(ask("word " * 8, target), backend)
        return backend.prompts[0].max_new_tokens

    assert limit("fr") == 2 * 10 + 32
    assert limit("km") == 3 * 10 + 32
    assert limit("fr", max_context_tokens=60) < 52
    assert limit("fr", max_context_tokens=1) == 1


def test_an_answer_cut_short_is_said_so():
    warning = run(ask("Hi there.\nYou too."), SaysBackend("Salut", finish="length"))[-1].warnings[1]
    assert (warning.code, warning.segment) == ("truncated", 1)
    assert "segment 2" in warning.message


def test_where_the_model_says_nothing_the_source_text_is_kept():
    events = run(ask("Hi there.\nYou too."), SaysBackend(" \n"))
    assert events[-1].text == joined(events) == "Hi there.\nYou too."
    assert [warning.code for warning in events[-1].warnings] == ["empty", "empty"]


def test_a_segment_that_fails_ends_the_request_and_frees_the_rest():
    async def go():
        backend = FailsBackend(delay_seconds=0.001)
        translator, scheduler = make(backend)
        with pytest.raises(BackendError, match="card"):
            await translator.translate(ask("One is fine.\nFAIL here.\n" + "Three is long enough. \n" * 20))
        assert (backend.running, scheduler.free, scheduler.waiting, scheduler.requests) == (0, 4, 0, 0)

    asyncio.run(go())


def test_an_error_of_another_kind_stops_at_the_door_and_keeps_its_cause():
    backend = FailsBackend()
    backend.error = OSError("socket")
    with pytest.raises(BackendError, match=r"Segment 1.*OSError") as failed:
        run(ask("FAIL here."), backend)
    assert isinstance(failed.value.__cause__, OSError)


@pytest.mark.parametrize("reads", [1, 2, 5])
def test_leaving_frees_every_slot_and_stops_the_backend_at_once(reads):
    async def go():
        backend = EchoBackend(delay_seconds=0.001)
        translator, scheduler = make(backend, slots=2)
        async with aclosing(translator.stream(ask("A line of text that takes a while to say.\n" * 20))) as events:
            for _ in range(reads):
                await anext(events)
            assert backend.running == 2
        assert (backend.running, backend.cancelled) == (0, 2)
        assert (scheduler.free, scheduler.waiting, scheduler.requests) == (2, 0, 0)

    asyncio.run(go())


def test_cancelling_the_task_that_reads_does_too():
    async def go():
        backend = EchoBackend(delay_seconds=0.01)
        translator, scheduler = make(backend)
        task = asyncio.create_task(translator.translate(ask("A line of text.\n" * 20)))
        while not backend.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert (backend.running, scheduler.free, scheduler.waiting, scheduler.requests) == (0, 4, 0, 0)

    asyncio.run(go())


def test_a_line_never_waits_behind_a_book():
    async def go():
        translator, _ = make(EchoBackend(delay_seconds=0.0005), slots=2)
        book = asyncio.create_task(translator.translate(ask("A sentence of the book.\n" * 300)))
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        await translator.translate(ask("Hi there."))
        line_seconds = time.perf_counter() - began
        assert not book.done()
        await book
        assert line_seconds < (time.perf_counter() - began) / 4

    asyncio.run(go())


def test_who_must_wait_is_told_how_many_are_ahead():
    async def go():
        translator, _ = make(EchoBackend(delay_seconds=0.001), slots=1)
        first = asyncio.create_task(events_of(translator, ask("The first request of all.")))
        await asyncio.sleep(0.003)
        second = await events_of(translator, ask("The second request."))
        assert second[:2] == [Queued(1), Started(1, "en")]
        assert not any(isinstance(event, Queued) for event in await first)

    asyncio.run(go())


def test_overload_is_said_before_any_work():
    async def go():
        backend = SaysBackend("x")
        translator, scheduler = make(backend, max_requests=1)
        with scheduler.admit("another"), pytest.raises(Overloaded, match="1 requests"):
            await translator.translate(ask("Hi there."))
        assert backend.prompts == []
        assert (await translator.translate(ask("Hi there."))).text == "x"

    asyncio.run(go())


def test_fifty_requests_over_four_slots_all_come_back_right():
    async def go():
        backend = EchoBackend()
        translator, scheduler = make(backend, slots=4)
        texts = [f"Request number {number}.\n" * (number % 7 + 1) for number in range(50)]
        answers = await asyncio.gather(*(translator.translate(ask(text)) for text in texts))
        assert [answer.text for answer in answers] == texts
        assert (backend.peak, scheduler.free, scheduler.requests) == (4, 4, 0)

    asyncio.run(go())


@pytest.mark.timeout(60)
def test_a_book_of_10000_sentences_takes_seconds_and_runs_no_further_ahead_than_the_window():
    async def go():
        translator, _ = make(EchoBackend(), slots=4)
        text = "A sentence of it.\n" * 10_000
        most_tasks, deltas = 0, []
        async for event in translator.stream(ask(text)):
            if isinstance(event, TextDelta):
                deltas.append(event.text)
            elif isinstance(event, SegmentDone):
                most_tasks = max(most_tasks, len(asyncio.all_tasks()))
        assert "".join(deltas) == text
        assert most_tasks <= 4 * LANES_PER_SLOT + 1

    with cpu_at_most(9):
        asyncio.run(go())


class WaitsBackend(EchoBackend):
    """Answers once it is let."""

    def __init__(self):
        super().__init__()
        self.let = asyncio.Semaphore(0)

    async def stream(self, prompt):
        await self.let.acquire()
        yield TokenChunk("x", finish="stop")


def test_twenty_who_wait_for_one_slot_see_the_queue_move_and_go_in_their_order():
    async def go():
        backend = WaitsBackend()
        translator, scheduler = make(backend, slots=1)
        told, began = [[] for _ in range(20)], []

        async def user(number):
            async for event in translator.stream(ask("Eight words.")):
                if isinstance(event, Queued):
                    told[number].append(event.ahead)
                elif isinstance(event, Started):
                    began.append(number)

        users = []
        for number in range(20):
            users.append(asyncio.create_task(user(number)))
            while scheduler.free or scheduler.waiting < number:
                await asyncio.sleep(0.001)
        for gone in range(20):
            while [numbers[-1:] for numbers in told[gone + 1 :]] != [[ahead] for ahead in range(1, 20 - gone)]:
                await asyncio.sleep(0.001)
            backend.let.release()
            await users[gone]
        assert began == [*range(20)]
        assert told == [[*range(number, 0, -1)] for number in range(20)]

    asyncio.run(go())


def test_a_reader_who_leaves_the_queue_is_no_longer_ahead_of_anybody():
    async def go():
        translator, scheduler = make(EchoBackend(delay_seconds=0.01), slots=1)
        first = asyncio.create_task(events_of(translator, ask("A sentence that takes a while. " * 9)))
        while scheduler.free:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(events_of(translator, ask("Never read.")))
        while scheduler.ahead("a third") != 2:
            await asyncio.sleep(0.001)
        async with aclosing(translator.stream(ask("The third."))) as third:
            assert await anext(third) == Queued(2)
            second.cancel()
            assert await anext(third) == Queued(1)
        await first
        assert (scheduler.free, scheduler.waiting, scheduler.requests) == (1, 0, 0)

    asyncio.run(go())


MARKED = "<p>The <b>server</b> of {name} HunYuan is here.</p><p>It is new. <i>Look</i> at it, says HunYuan.</p>"


@pytest.mark.parametrize("family", ["hy-mt1.5", "hy-mt2"])
@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"context": "A tale of a server. " * 60},
        {"glossary": (Term("server", "Rechner"), Term("HunYuan", ""))},
        {"context": "A tale.", "glossary": (Term("server", "Rechner"),), "context_mode": False},
    ],
)
def test_the_prompt_that_is_shown_is_the_one_that_is_sent(family, marks, more):
    async def go():
        for text in (MARKED, "The server is here.\nIt is new.\nLook at the server, HunYuan."):
            backend = SaysBackend("<target>x</target>", segment_tokens=12)
            backend.info = replace(backend.info, family=family, marks=marks)
            translator, scheduler = make(backend, slots=1)
            request = ask(text, "de", **more)
            shown = [await translator.prompt(request, 0)]
            shown += [await translator.prompt(request, number) for number in range(1, shown[0].segments)]
            assert backend.prompts == []
            done = [event async for event in translator.stream(request) if isinstance(event, SegmentDone)]
            sent = [prompt.text for prompt in backend.prompts]
            for each in shown:
                assert each.text in sent or each.text == "\n\n".join(part for part in sent if part in each.text)
                assert each.context in each.text
                assert each.before in each.text
                assert all(f"{term.source} 翻译成 {term.target}" in each.text for term in each.terms)
                assert len(each.context) + each.context_cut == len(request.context.strip())
                assert each.tokens > 0
            assert [each.source for each in shown] == [each.source for each in done]
            assert scheduler.requests == 0

    asyncio.run(go())


@pytest.mark.parametrize(
    ("text", "segment", "sentence"),
    [("Hi there.", 1, r"no segment 1: the text has 1, counted from 0"), ("1 2 3", 0, "Nothing of this text")],
)
def test_there_is_no_prompt_of_a_segment_that_is_not_there(text, segment, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        asyncio.run(make()[0].prompt(ask(text), segment))


def test_what_is_kept_whole_is_shown_to_no_model():
    shown = asyncio.run(make()[0].prompt(ask("Acme Corp", glossary=(Term("Acme Corp", ""),))))
    assert (shown.text, shown.tokens, shown.source) == ("", 0, "Acme Corp")
