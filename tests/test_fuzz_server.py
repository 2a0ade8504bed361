"""A server that is sent what no client should send: none of it is our mistake, and nothing of it stays."""

import asyncio
from urllib.parse import urlsplit

import httpx
import pytest

from engine.backends.echo import EchoBackend
from tests.conftest import Serve, soon
from tests.fuzz_server import attack, drawn, under_way


def test_malformed_messages_are_refused_and_leave_nothing_behind(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    backend = EchoBackend()
    url = serve(backend)
    found = asyncio.run(attack(urlsplit(url).port or 0, drawn(400)))
    assert (found.sent, found.mistakes) == (400, [])
    assert [said.getMessage() for said in caplog.records if "Exception in ASGI" in said.getMessage()] == []
    soon(lambda: under_way(url) == {"running": 0, "admitted": 0} and backend.running == 0)
    assert httpx.get(f"{url}/readyz").status_code == 200
    answer = httpx.post(f"{url}/translate", json={"text": "Hello.", "source_lang": "en", "target_lang": "fr"})
    assert answer.json()["translation"] == "Hello."
