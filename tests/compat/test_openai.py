"""The official `openai` package against a real server, and what others of that shape send."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.config import Config
from engine.errors import BackendError
from engine.server.openai import settled
from engine.types import (
    Finished,
    Prompt,
    SegmentDone,
    Started,
    TextDelta,
    TextReplaced,
    TokenChunk,
    TranslationEvent,
)
from tests.conftest import Serve, soon

TEXT = "The river is wide. We crossed it in an old boat."
ASKED = [{"role": "user", "content": f"Translate into French:\n\n{TEXT}"}]
ENGLISH = ["The river is wide and very old.", "We crossed it in a small boat yesterday."]
FRENCH = ["La rivière est large et très ancienne.", "Nous l'avons traversée hier dans un petit bateau."]
KEY = "a-key-that-nobody-guesses"
BOOK = "\n\n".join([TEXT] * 50)


class Mends(EchoBackend):
    """Says the source back first, which the checks do not take for a translation, and then translates."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, translates=True)
        self.heard: set[str] = set()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        answer = FRENCH[ENGLISH.index(prompt.source)] if prompt.source in self.heard else prompt.source
        self.heard.add(prompt.source)
        for word in answer.split(" "):
            yield TokenChunk(f"{word} ")
        yield TokenChunk("", tokens=0, finish="stop")


class FailsLate(EchoBackend):
    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        if "second" in prompt.source:
            raise BackendError("The card fell off; put it back.")
        yield TokenChunk(prompt.source)
        yield TokenChunk("", tokens=0, finish="stop")


@pytest.fixture(scope="module")
def backend() -> EchoBackend:
    return EchoBackend()


@pytest.fixture(scope="module")
def url(serve: Serve, backend: EchoBackend) -> str:
    return serve(backend)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_of(url) as client:
        yield client


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)


def refused(url: str, path: str = "chat/completions", **body: Any) -> tuple[int, str]:
    answer = httpx.post(f"{url}/v1/{path}", json=body)
    wrong = answer.json()["error"]
    assert set(wrong) == {"message", "type", "param", "code"}
    return answer.status_code, wrong["message"]


def test_a_chat_is_answered_with_the_translation(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=ASKED)
    assert answer.choices[0].message.content == TEXT
    assert (answer.choices[0].finish_reason, answer.choices[0].message.role) == ("stop", "assistant")
    assert (answer.model, answer.object, len(answer.choices)) == ("echo", "chat.completion", 1)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 20


def test_a_stream_says_a_segment_after_the_other(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="x", messages=ASKED, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0].delta.content for chunk in chunks[:-1]]
    assert "".join(said) == TEXT
    assert (chunks[-1].choices[0].finish_reason, chunks[-1].choices[0].delta.content) == ("stop", None)
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_counts_its_tokens_where_it_is_asked_to(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    *_, last = client.chat.completions.create(model="x", messages=ASKED, stream=True, stream_options=options)
    whole = client.chat.completions.create(model="x", messages=ASKED)
    assert (last.choices, last.usage) == ([], whole.usage)


def test_a_response_is_answered_as_bob_asks(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="gpt-4o", instructions="You only translate.", input=f"translate from en to zh-CN:\n\n{TEXT}"
    )
    assert (answer.output_text, answer.status, answer.model) == (TEXT, "completed", "echo")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 20


def test_the_events_of_a_response_are_those_of_openai(client: openai.OpenAI) -> None:
    with client.responses.stream(model="x", input=f"translate from en to fr:\n\n{BOOK}") as stream:
        events = list(stream)
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == BOOK
    assert events[-1].response.output_text == BOOK
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_both_work_asynchronously(url: str) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            chunks = await client.chat.completions.create(model="x", messages=ASKED, stream=True)
            said = [chunk.choices[0].delta.content or "" async for chunk in chunks]
            answer = await client.responses.create(model="x", input=[{"role": "user", "content": ASKED[0]["content"]}])
            return "".join(said), answer.output_text

    assert asyncio.run(ask()) == (TEXT, TEXT)


def test_many_paragraphs_keep_their_separators(client: openai.OpenAI) -> None:
    paragraphs = "One river.\n\n%%\n\nTwo <b>boats</b>.\n\n%%\n\n..."
    asked = [{"role": "user", "content": f"Translate to French:\n\n{paragraphs}"}]
    assert client.chat.completions.create(model="x", messages=asked).choices[0].message.content == paragraphs
    stream = client.chat.completions.create(model="x", messages=asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == paragraphs


def test_with_a_target_of_its_own_a_message_is_the_text_word_for_word(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": "Translate into German: the river"}]
    for ours in {"target_lang": "zh", "source_lang": "en", "glossary": {"river": "河"}}, {"target_lang": "fr"}:
        answer = client.chat.completions.create(model="x", messages=asked, extra_body=ours)
        assert answer.choices[0].message.content == asked[0]["content"]
    unset = client.chat.completions.create(model="x", messages=asked, extra_body={"target_lang": None, "format": ""})
    assert unset.choices[0].message.content == "the river"


def test_terms_come_from_the_message_or_from_a_field(client: openai.OpenAI, url: str) -> None:
    batch = {"targetLanguage": "fr", "segments": [{"id": 0, "text": "Hello"}], "glossary": {"Hello": "Salut"}}
    asked: Any = [{"role": "user", "content": json.dumps(batch)}]
    answer = client.chat.completions.create(model="x", messages=asked)
    assert json.loads(str(answer.choices[0].message.content))["translations"] == [{"id": 0, "text": "Hello"}]
    many = json.dumps({**batch, "glossary": {f"word {number}": "x" for number in range(10_001)}})
    status, message = refused(url, messages=[{"role": "user", "content": many}])
    assert (status, message.partition(" must be ")[0]) == (400, "glossary")


def test_an_answer_ends_at_a_stop_or_after_as_many_tokens_as_it_may_have(client: openai.OpenAI) -> None:
    def ends(stream: bool, **limits: Any) -> tuple[str, str]:
        made = client.chat.completions.create(model="x", messages=ASKED, stream=stream, **limits)
        if not stream:
            return made.choices[0].message.content, made.choices[0].finish_reason
        chunks = list(made)
        return "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason

    for stream in (False, True):
        assert ends(stream, stop="We cro") == ("The river is wide. ", "stop")
        assert ends(stream, stop=["boat.!", "old"]) == ("The river is wide. We crossed it in an ", "stop")
        assert ends(stream, max_tokens=4) == (TEXT[:16], "length")
        assert ends(stream, max_completion_tokens=400, max_tokens=1) == (TEXT, "stop")


def test_a_response_that_was_cut_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="x", input=ASKED[0]["content"], max_output_tokens=4)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    *_, last = client.responses.create(model="x", input=ASKED[0]["content"], max_output_tokens=4, stream=True)
    assert (last.type, last.response.output_text) == ("response.incomplete", TEXT[:16])


def test_the_models_are_ours_and_the_same_without_a_wrapper(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["echo", "echo:raw"]
    assert client.models.retrieve("echo:raw").owned_by == "yiwen"
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt/4' here; choose one of: echo, echo:raw"):
        client.models.retrieve("gpt/4")


@pytest.mark.parametrize("how", [{"model": "echo:raw"}, {"model": "x", "extra_body": {"raw": True}}])
def test_a_raw_message_goes_to_the_model_word_for_word(client: openai.OpenAI, how: dict[str, Any]) -> None:
    asked = [{"role": "system", "content": "Be brief."}, *ASKED]
    answer = client.chat.completions.create(messages=asked, **how)
    assert answer.choices[0].message.content == f"Be brief.\n\n{ASKED[0]['content']}"
    assert answer.model == "echo:raw"
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens > 20
    chunks = list(client.chat.completions.create(messages=ASKED, stream=True, max_tokens=4, **how))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ASKED[0]["content"][:16]
    assert chunks[-1].choices[0].finish_reason == "length"


def test_who_leaves_a_stream_leaves_no_work_behind(serve: Serve) -> None:
    slow = EchoBackend(delay_seconds=0.02)
    client = client_of(serve(slow))
    for model in ("x", "echo:raw"):
        before = slow.cancelled
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": f"Translate to French:\n\n{BOOK}"}], stream=True
        )
        next(iter(stream))
        soon(lambda: slow.running > 0)
        stream.close()
        soon(lambda: slow.running == 0)
        assert slow.cancelled > before


@pytest.mark.parametrize("between", ["\n", "\n\n# "])
def test_a_stream_waits_until_a_segment_is_mended(serve: Serve, between: str) -> None:
    backend = Mends()
    client = client_of(serve(backend, tested=False))
    asked: Any = {"role": "user", "content": f"Translate from English to French:\n\n{between.join(ENGLISH)}"}
    at_once = client.chat.completions.create(model="x", messages=[asked]).choices[0].message.content
    assert at_once == between.join(FRENCH)
    backend.heard.clear()
    chunks = list(client.chat.completions.create(model="x", messages=[asked], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == at_once
    assert len(chunks) > len(ENGLISH)


def test_what_a_stream_has_said_stays() -> None:
    """A paragraph is written otherwise once its last segment is there, which a stream cannot say any more."""
    made: list[TranslationEvent] = [
        Started(2, "en"),
        TextDelta(0, "One."),
        SegmentDone(0, "One."),
        TextDelta(1, " Tow"),
        TextReplaced(1, " Two."),
        TextReplaced(0, "*One. Two.*"),
        TextReplaced(1, ""),
        SegmentDone(1, "Two."),
        TextDelta(1, "\n"),
        TextReplaced(0, "Eins."),
        Finished("Eins.", "en", 2, 2, 2, 0.1, "x"),
    ]

    async def events() -> AsyncGenerator[TranslationEvent, None]:
        for event in made:
            yield event

    async def said() -> str:
        return "".join([part async for part in settled(events()) if isinstance(part, str)])

    assert asyncio.run(said()) == "One. Two.\n"


def test_an_error_in_the_middle_is_raised_by_the_client(serve: Serve) -> None:
    client = client_of(serve(FailsLate(), tested=False))
    text = f"Translate from English to French:\n\n{TEXT}\n\nThe second paragraph."
    with pytest.raises(openai.APIError, match="The card fell off"):
        list(client.chat.completions.create(model="x", messages=[{"role": "user", "content": text}], stream=True))
    with pytest.raises(openai.APIError, match="The card fell off"):
        list(client.responses.create(model="x", input=text, stream=True))
    with pytest.raises(openai.InternalServerError, match="The card fell off"):
        client.responses.create(model="x", input=text)


def test_the_errors_are_those_of_the_client(client: openai.OpenAI, url: str) -> None:
    def ask(text: str, **more: Any) -> Any:
        return client.chat.completions.create(model="x", messages=[{"role": "user", "content": text}], **more)

    with pytest.raises(openai.BadRequestError, match="No message says which language to translate into"):
        ask(TEXT)
    with pytest.raises(openai.BadRequestError, match="This model does not speak 'Klingon'"):
        ask("Translate into Klingon:\n\nHi")
    with pytest.raises(openai.BadRequestError, match="temperature must be a number from 0"):
        ask("Translate into French: Hi", temperature=3)
    with pytest.raises(openai.BadRequestError, match="n must be 1: a request has one answer"):
        ask("Translate into French: Hi", n=2)
    with pytest.raises(openai.BadRequestError, match="A part of the type 'image_url' cannot be translated"):
        ask([{"type": "image_url", "image_url": {"url": "data:,"}}])  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        ask("Translate into French: Hi", extra_body={"glossary_id": "none"})
    assert refused(url, messages=[])[0] == 400
    assert refused(url, model="x")[0] == 400
    assert refused(url, messages=[{"role": "user", "content": "x"}] * 1001)[0] == 400
    assert refused(url, messages=[{"role": "system", "content": "Translate to French."}])[0] == 400
    assert refused(url, "responses", input=7)[0] == 400
    assert refused(url, messages=[{"role": "user", "content": "Translate to French:\n\n" + "x" * 1_100_000}])[0] == 413
    assert refused(url, model="x:raw", messages=[{"role": "user", "content": "x" * 1_100_000}])[0] == 413
    assert httpx.post(f"{url}/v1/chat/completions", content="{").status_code == 400
    assert httpx.get(f"{url}/v1/chat/completions").json()["error"]["code"] == "method_not_allowed"


HALF = json.dumps({"targetLanguage": "fr", "segments": [{"id": "\ud800", "text": "one"}, {"id": 1, "text": "\ud800"}]})


@pytest.mark.parametrize("text", ["Translate to French:\n\n\ud800", "\ud800", HALF])
@pytest.mark.parametrize("model", ["x", "x:raw"])
def test_half_a_character_is_refused_wherever_it_stands(url: str, text: str, model: str) -> None:
    for path, said in ("chat/completions", "messages"), ("responses", "input"):
        body = json.dumps({"model": model, said: [{"role": "user", "content": text}], "instructions": "Be \ud800"})
        answer = httpx.post(f"{url}/v1/{path}", content=body)
        assert answer.status_code == 400 or (text is HALF and model == "x:raw" and path != "responses")


def test_unknown_fields_are_passed_over(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="x",
        messages=ASKED,
        frequency_penalty=1,
        presence_penalty=1,
        user="u",
        seed=-3,
        top_p=0.5,
        temperature=0,
        response_format={"type": "text"},
        extra_body={"enable_thinking": False, "top_k": 5},
    )
    assert answer.choices[0].message.content == TEXT


def test_a_crowd_is_told_to_come_back(serve: Serve) -> None:
    full = client_of(serve(EchoBackend(delay_seconds=0.05), slots=1, max_requests=1))
    stream = full.chat.completions.create(model="x", messages=ASKED, stream=True)
    next(iter(stream))
    for model in ("x", "echo:raw"):
        with pytest.raises(openai.InternalServerError) as refusal:
            full.chat.completions.create(model=model, messages=ASKED)
        assert (refusal.value.status_code, refusal.value.response.headers["Retry-After"]) == (503, "5")
    stream.close()


def test_a_key_is_asked_for_and_its_limit_told_as_the_client_knows_them(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"ann:{KEY}:1\n", encoding="utf-8")
    url = serve(EchoBackend(), config=Config(api_keys=str(keys)))
    with pytest.raises(openai.AuthenticationError):
        client_of(url).chat.completions.create(model="x", messages=ASKED)
    ann = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    assert ann.chat.completions.create(model="x", messages=ASKED).choices[0].message.content == TEXT
    with pytest.raises(openai.RateLimitError) as refusal:
        ann.chat.completions.create(model="x", messages=ASKED)
    assert int(refusal.value.response.headers["Retry-After"]) > 0


def test_pot_reads_our_stream_by_its_lines(url: str) -> None:
    body = {"messages": ASKED, "stream": True, "model": "x"}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == TEXT


def test_the_events_of_a_response_have_names(url: str) -> None:
    body = {"input": ASKED[0]["content"], "stream": True}
    with httpx.stream("POST", f"{url}/v1/responses", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[0] == "event: response.created"
    assert [line.partition(": ")[0] for line in lines] == ["event", "data"] * (len(lines) // 2)


def test_the_embedded_model_translates_for_each_of_them(serve: Serve, embedded: Backend) -> None:
    client = client_of(serve(embedded, config=Config(), tested=False))
    wrapped = 'Translate the following English text into Simplified-Chinese text: """The river is wide."""'
    answer = client.chat.completions.create(model="x", messages=[{"role": "user", "content": wrapped}], temperature=0)
    assert "河" in str(answer.choices[0].message.content)
    stream = client.responses.create(model="x", input=wrapped, temperature=0, stream=True)
    said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert said == answer.choices[0].message.content
    prompt = "将以下文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释：\n\nThe river is wide."
    raw = client.chat.completions.create(
        model=f"{embedded.info.name}:raw", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=40
    )
    assert "河" in str(raw.choices[0].message.content)
    assert raw.usage.completion_tokens < 40
