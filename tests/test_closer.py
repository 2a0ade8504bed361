"""`/prompt`, `/alternatives` and `/render`, over a real socket."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from itertools import count
from typing import Any

import httpx
import pytest

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.markup.preview import POLICY, page
from engine.scheduler import Scheduler
from engine.translator import Translator
from engine.types import Prompt, Sampling, SegmentDone, Term, TokenChunk, TranslationRequest
from tests.conftest import Serve, soon

TEXT = "The river is wide.\nWe crossed <b>it</b> in an old boat."


class Varies(EchoBackend):
    """Says something else each time, as hot as it is asked, and keeps the prompts."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self.info = replace(self.info, translates=True)
        self.answers, self.prompts, self.number = answers, list[Prompt](), count()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.prompts.append(prompt)
        await asyncio.sleep(0)
        yield TokenChunk(self.answers[next(self.number) % len(self.answers)], finish="stop")


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def asked(url: str, path: str, **fields: Any) -> Any:
    answer = httpx.post(f"{url}/{path}", json={"source_lang": "en", "target_lang": "de", **fields})
    return answer.json() if answer.is_success else (answer.status_code, answer.json()["error"])


def alternatives(
    backend: EchoBackend, text: str, segment: int = 0, number: int = 3, without: str = "", **more: Any
) -> Any:
    scheduler = Scheduler(2, 4)
    request = TranslationRequest(text, "de", "en", **more)
    found = asyncio.run(Translator(backend, scheduler).alternatives(request, segment, number, without))
    assert (scheduler.free, scheduler.requests, backend.running) == (2, 0, 0)
    return found.texts


def test_a_prompt_is_told_with_its_parts(url: str) -> None:
    context = "A tale of boats. " * 200
    fields = {"text": TEXT, "format": "text", "glossary": {"river": "Fluss"}, "context": context}
    told = asked(url, "prompt", **fields)
    assert told["prompt"].endswith("The river is wide.")
    assert told["terms"] == [{"source": "river", "target": "Fluss"}]
    assert (told["segments"], told["segment"], told["source"], told["before"]) == (2, 0, "The river is wide.", "")
    assert context.strip().endswith(told["context"])
    assert told["context_cut"] == len(context.strip()) - len(told["context"]) > 0
    assert told["prompt_tokens"] == EchoBackend().count_tokens(told["prompt"])
    second = asked(url, "prompt", **{**fields, "context": ""}, segment=1)
    assert (second["source"], second["terms"]) == ("We crossed it in an old boat.", [])


@pytest.mark.parametrize(
    ("path", "fields", "sentence"),
    [
        ("prompt", {"text": TEXT, "segment": 9}, "There is no segment 9: the text has 2"),
        ("prompt", {"text": TEXT, "segment": -1}, "segment must be a whole number"),
        ("prompt", {"text": [TEXT]}, "text must be a string"),
        ("prompt", {"text": "..."}, "Nothing of this text"),
        ("prompt", {"text": TEXT, "segmen": 1}, "did you mean 'segment'?"),
        ("alternatives", {"text": TEXT, "count": 6}, "count must be a whole number from 1 to 5."),
        ("alternatives", {"text": TEXT, "segment": 2}, "There is no segment 2"),
    ],
)
def test_a_question_that_is_off_gets_one_clear_sentence(
    url: str, path: str, fields: dict[str, Any], sentence: str
) -> None:
    status, said = asked(url, path, format="text", **fields)
    assert status == 422
    assert sentence in said


def test_a_text_that_is_empty_or_of_a_language_unknown_is_refused_as_everywhere(url: str) -> None:
    assert [asked(url, path, text="")[0] for path in ("prompt", "alternatives")] == [400, 400]
    assert asked(url, "prompt", text=TEXT, target_lang="xx")[0] == 400


def test_alternatives_are_distinct_and_none_is_the_translation_there_is() -> None:
    backend = Varies("Eins.", "Zwei.", "Eins.", "Da. ", "Drei.", "Vier.")
    assert alternatives(backend, "One.", without=" Da.") == ("Eins.", "Zwei.", "Drei.")
    temperatures = [prompt.sampling.temperature or 0 for prompt in backend.prompts]
    assert temperatures == sorted(temperatures)
    assert temperatures[0] > 0


def test_what_is_no_translation_is_no_alternative() -> None:
    assert alternatives(Varies("la la la " * 60, "Nein, das ist es nicht."), "No, it is not that.", number=2) == (
        "Nein, das ist es nicht.",
    )


def test_there_may_be_fewer_alternatives_than_were_asked_for(url: str) -> None:
    assert asked(url, "alternatives", text=TEXT, format="text") == {
        "segment": 0,
        "alternatives": ["The river is wide."],
    }
    told = asked(url, "alternatives", text=TEXT, format="text", without="The river is wide.")
    assert told == {"segment": 0, "alternatives": []}


def test_a_seed_makes_others_and_none_is_as_before() -> None:
    backend = Varies("Eins.", "Zwei.", "Drei.")
    alternatives(backend, "One.", sampling=Sampling(seed=2**63 - 1))
    seeds = [prompt.sampling.seed for prompt in backend.prompts]
    assert len(set(seeds)) == 3
    assert 2**63 - 1 not in seeds
    assert all(seed is not None and 0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("markup", "text", "segment", "answers", "stands"),
    [
        ("html", "<p>One &amp; <b>two</b>.</p><p>x y</p>", 0, ["A & <s1>b</s1> < c"], ("A &amp; <b>b</b> &lt; c",)),
        ("html", "<img alt=One>", 0, ["A b"], ('"A b"',)),
        ("markdown", "One **two** three.", 0, ["一<s1>（二）</s1>三", "a<s1>b</s1>"], ("一 **（二）** 三", "a**b**")),
        ("markdown", "| One | two |\n|--|--|\n", 1, ["a|b"], ("a\\|b",)),
        ("markdown", "Hello [it][]. And so on, and so on, so on.\n\n[it]: /", 0, ["A <s1>b</s1>."], ("A [b][it].",)),
        ("text", "One {name} two", 0, ["zwei <s1></s1>"], ("zwei {name}",)),
    ],
)  # fmt: skip
def test_an_alternative_is_what_would_stand_in_the_document(
    markup: Any, text: str, segment: int, answers: list[str], stands: tuple[str, ...]
) -> None:
    backend = Varies(*(f"<target>{answer}</target>" if "<s" in answer else answer for answer in answers))
    backend.info = replace(backend.info, translates=False, segment_tokens=10)
    assert alternatives(backend, text, segment, format=markup) == stands


@pytest.mark.parametrize("without", ['Da <img alt="eine Katze" src=a> ist sie.', "", "Da ist sie."])
def test_what_is_read_in_a_tag_stays_as_it_was_translated(without: str) -> None:
    backend = Varies("<target>Hier <s1></s1> ist sie.</target>")
    backend.info = replace(backend.info, translates=False)
    (found,) = alternatives(backend, '<p>There <img alt="a cat" src=a> it is.</p>', 1, without=without, format="html")
    assert found == f'Hier <img alt="{"eine Katze" if "Katze" in without else "a cat"}" src=a> ist sie.'


def test_an_alternative_is_checked_and_has_its_terms_as_every_answer() -> None:
    backend = Varies("Der Server ruht.", "Der Rechner ruht.", "Der Rechner schläft.")
    found = alternatives(backend, "The server rests.", number=2, glossary=(Term("server", "Rechner"),))
    assert set(found) <= {"Der Rechner ruht.", "Der Rechner schläft."}
    assert any("server 翻译成 Rechner" in prompt.text for prompt in backend.prompts)


def test_who_leaves_stops_the_alternatives_at_once(serve: Serve) -> None:
    backend = EchoBackend(delay_seconds=0.05)
    address = serve(backend)
    running = backend.cancelled
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{address}/alternatives", json={"text": TEXT * 3, "target_lang": "de", "source_lang": "en"}, timeout=0.3
        )
    soon(lambda: backend.running == 0 and backend.cancelled > running)
    told = httpx.get(f"{address}/system").json()["scheduler"]
    assert told["requests"] == 0


def test_the_segment_that_is_asked_about_is_the_one_that_was_told(url: str) -> None:
    request = TranslationRequest(TEXT, "de", "en", format="text")

    async def told() -> list[SegmentDone]:
        events = Translator(EchoBackend(), Scheduler(2, 2)).stream(request)
        return [event async for event in events if isinstance(event, SegmentDone)]

    for done in asyncio.run(told()):
        said = asked(url, "alternatives", text=TEXT, format="text", segment=done.segment)["alternatives"]
        assert said == [done.text]


@pytest.mark.parametrize(
    ("fields", "format", "shown"),
    [
        ({"text": "# A *b*\n\n| c | d |\n|--|--|\n| e | $f$ |\n"}, "markdown", "<h1>A <em>b</em></h1>"),
        ({"text": "---\ntitle: a\n---\n- [x] b", "format": "markdown"}, "markdown", 'type="checkbox"'),
        ({"text": "<p>One <b>two</b>"}, "html", "<p>One <b>two</b>"),
        ({"text": "1 < 2 & \ud83d", "format": "text"}, "text", "<pre>\n1 &lt; 2 &amp; \ufffd</pre>"),
        ({"text": ""}, "text", "<pre>"),
    ],
)  # fmt: skip
def test_a_text_is_shown_as_a_reader_sees_it(url: str, fields: dict[str, Any], format: str, shown: str) -> None:
    answer = httpx.post(f"{url}/render", content=json.dumps(fields)).json()
    assert answer["format"] == format
    assert shown in answer["html"]
    assert "title: a" not in answer["html"]


def table(columns: int, rows: int) -> str:
    return "|a" * columns + "|\n" + "|:-:" * columns + "|\n" + "|b\n" * rows + "\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (table(500, 500) * 20, "The page of this text would have some 2"),
        ("> " + table(500, 1_500).replace("\n", "\n> "), "characters; 20,000,000 are shown at the most."),
        ("a" * 2_000_001, "The text has 2,000,001 characters; a preview takes 2,000,000 at the most."),
        ("[^1]" * 400_000 + "\n\n[^1]: a", "The page of this text would have some 2"),
    ],
)  # fmt: skip
def test_a_preview_too_large_for_a_page_is_refused(url: str, text: str, sentence: str) -> None:
    answer = httpx.post(f"{url}/render", json={"text": text, "format": "markdown"}, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (413, "text_too_long")
    assert sentence in answer.json()["error"]
    kept = httpx.post(f"{url}/render", json={"text": table(20, 2_000) + "a - b\n" * 20_000, "format": "markdown"})
    assert kept.json()["html"].count("<td") == 40_000


def test_nothing_in_a_preview_runs_or_is_fetched() -> None:
    dangerous = (
        '\ufeff<!DOCTYPE html><html lang="en"><head><meta http-equiv=refresh content="0;url=https://x.org">'
        "<META HTTP-EQUIV='Refresh' content=1><link rel=preconnect rel=stylesheet href=//x.org>"
        "<link rel='stylesheet' href='a.css'><meta name=viewport content=a><title>t</title></head>"
        "<body><script>alert(1)</script>"
    )
    for markup in ("html", "markdown"):
        shown = page(markup, dangerous)
        assert shown.startswith(f'<!doctype html><meta http-equiv="Content-Security-Policy" content="{POLICY}">')
        assert "refresh" not in shown.lower()
        assert "<link" not in shown
        assert "viewport" in shown
    assert POLICY.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:")
    assert "script-src" not in POLICY


def test_the_embedded_model_has_other_words_for_most_sentences(embedded: Backend) -> None:
    sentences = ["Nobody knew why the old man was smiling.", "Click the button below to create a new account."]
    requests = [TranslationRequest(each, "zh", "en", sampling=Sampling(seed=1)) for each in sentences]

    async def go() -> list[tuple[str, ...]]:
        translator = Translator(embedded, Scheduler(embedded.slots, 4))
        first = [(await translator.translate(request)).text for request in requests]
        asking = zip(requests, first, strict=True)
        return [(await translator.alternatives(request, 0, 3, without)).texts for request, without in asking]

    found = asyncio.run(go())
    assert [len(texts) >= 2 for texts in found] == [True, True]
    assert all(len(set(texts)) == len(texts) and "。" in "".join(texts) for texts in found)
