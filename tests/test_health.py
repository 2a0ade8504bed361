"""Ready means that the model translates: seen at the start, and looked at again when nothing has come from it."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

import httpx
import pytest

from engine.backends.echo import EchoBackend
from engine.errors import BackendError
from engine.metrics import Metrics
from engine.progress import Progress
from engine.scheduler import Scheduler
from engine.server import health
from engine.translator import Translator
from engine.types import Prompt, TokenChunk, TranslationRequest
from tests.conftest import Serve, soon
from tests.test_metrics import Clock


class Wedges(EchoBackend):
    """Says nothing of some texts while it is told not to, or fails over them."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck: frozenset[str] = frozenset()
        self.fails = False
        self.sources: list[str] = []

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.sources.append(prompt.source)
        while prompt.source in self.stuck:
            await asyncio.sleep(0.005)
        if self.fails:
            raise BackendError("The card fell off; put it back.")
        async for chunk in super().stream(prompt):
            yield chunk


class Translates(Wedges):
    """A model, as far as the self-test is concerned."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, precision="fp32")

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.sources.append(prompt.source)
        yield TokenChunk(f"{prompt.source}?", finish="stop")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A minute is a moment."""
    for name in ("SILENT_SECONDS", "PATIENCE_SECONDS"):
        monkeypatch.setattr(health, name, 0.15)
    monkeypatch.setattr(health, "RETRY_SECONDS", 0.01)
    return


def ready(url: str) -> bool:
    return httpx.get(f"{url}/readyz").status_code == 200


@pytest.mark.parametrize(
    ("languages", "hub", "tested"),
    [
        (("de", "en", "fr", "zh"), "en", [("en", "zh"), ("zh", "en"), ("de", "en")]),
        (("de", "en", "fr", "zh"), None, [("en", "zh"), ("zh", "en"), ("de", "en")]),
        (("ja", "ko"), None, [("ja", "ko")]),
        (("fr", "es"), "fr", [("fr", "es"), ("es", "fr")]),
        (("ko", "th"), None, [("en", "ko")]),
    ],
)
def test_three_directions_are_tested_that_the_model_has_learnt(
    languages: tuple[str, ...], hub: str | None, tested: list[tuple[str, str]]
) -> None:
    info = replace(EchoBackend(languages=languages).info, precision="int4", hub=hub)
    assert health.directions(info) == tested


def test_the_model_has_translated_all_three_when_it_is_ready(serve: Serve) -> None:
    backend = Translates()
    serve(backend)
    assert [*dict.fromkeys(backend.sources)] == [health.SENTENCES[code] for code in ("en", "zh", "de")]


def test_a_model_that_says_nothing_is_ready_no_more_until_it_answers_again(serve: Serve, hasty: None) -> None:
    backend = Wedges()
    url = serve(backend)
    backend.stuck = frozenset(health.SENTENCES.values())
    soon(lambda: not ready(url))
    said = httpx.get(f"{url}/readyz").json()
    assert said["status"] == "failed"
    assert said["reason"].startswith("The model has said nothing for ")
    assert httpx.get(f"{url}/system").json()["state"]["reason"].startswith("The model has said nothing for ")
    backend.stuck = frozenset()
    soon(lambda: ready(url))


def test_a_model_that_fails_is_ready_no_more_until_it_is_mended(serve: Serve, hasty: None) -> None:
    backend = Wedges()
    url = serve(backend)
    backend.fails = True
    soon(lambda: not ready(url))
    assert "The card fell off" in httpx.get(f"{url}/readyz").json()["reason"]
    backend.fails = False
    soon(lambda: ready(url))


def test_a_model_that_answers_others_is_ready_though_the_test_must_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.05)
    clock, backend = Clock(), Wedges()
    translator, metrics = Translator(backend, Scheduler(8, 9)), Metrics(clock=clock)
    self_test = health.SelfTest(translator, metrics, Progress(), clock)

    async def silent_for(seconds: float, answered: bool) -> str:
        clock.now += seconds
        self_test.look()
        if answered:
            asked = TranslationRequest("Hello there.", "fr", "en")
            assert [event async for event in metrics.observe(translator.stream(asked))]
        await asyncio.sleep(0.1)
        return self_test.state().status

    async def states() -> list[str]:
        await self_test.run()
        backend.stuck = frozenset(health.SENTENCES.values())
        said = [await silent_for(61, True), await silent_for(61, True), await silent_for(61, False)]
        await self_test.close()
        return said

    assert asyncio.run(states()) == ["ready", "ready", "failed"]


def test_a_model_that_was_seen_to_answer_is_not_asked_again_for_a_minute(serve: Serve) -> None:
    backend = Wedges()
    url = serve(backend)
    for _ in range(5):
        assert ready(url)
    assert len(backend.sources) == 1
