"""What the tests of DeepL's face share: a backend that shows what was translated, and clients that wait less."""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator
from dataclasses import replace

import deepl
import pytest

from engine.backends.echo import EchoBackend
from engine.types import Family, Prompt, TokenChunk

KEY = "a-key-of-the-tests-0123456789abcdef"
_WORDS = re.compile(r"(</?s\d+>)")
_TERM = re.compile(r"^(.+) 翻译成 (.+)$", re.MULTILINE)


class Loud(EchoBackend):
    """Says the source back in capitals, with the terms of its prompt put in, once it is `free`; and remembers its
    prompts."""

    def __init__(self, family: Family = "hy-mt1.5") -> None:
        super().__init__()
        self.info = replace(self.info, family=family)
        self.prompts: list[str] = []
        self.free = threading.Event()
        self.free.set()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.prompts.append(prompt.text)
        said = "".join(part if _WORDS.match(part) else part.upper() for part in _WORDS.split(prompt.source))
        for source, target in _TERM.findall(prompt.text):
            said = said.replace(source.upper(), target)
        async for chunk in super().stream(replace(prompt, source=said)):
            while not self.free.is_set():
                await asyncio.sleep(0.005)
            yield chunk


def client(url: str, key: str = KEY) -> deepl.DeepLClient:
    return deepl.DeepLClient(key, server_url=url)


@pytest.fixture(scope="module")
def asked(url: str) -> deepl.DeepLClient:
    """A client of the module's server."""
    return client(url)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again at once, twice at the most."""
    monkeypatch.setattr(deepl.http_client._BackoffTimer, "BACKOFF_INITIAL", 0.02)
    monkeypatch.setattr(deepl.http_client, "max_network_retries", 2)
