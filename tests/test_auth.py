"""Nobody gets in without a key, wherever he knocks and whatever he speaks."""

import asyncio
import json
import select
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import create_connection

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from engine.backends.echo import EchoBackend
from engine.config import Config
from engine.documents.store import Documents
from engine.metrics import Metrics
from engine.scheduler import Scheduler
from engine.server.app import create_app
from engine.termbase.store import Glossaries
from engine.translator import Translator
from tests.conftest import Serve, soon
from ui.blocks import mount

KEY, OTHER = "correct-horse-battery", "another-horse-stable"
ASKS = {"text": "Hello.", "source_lang": "en", "target_lang": "de"}
OPEN = {"/healthz", "/readyz", "/health", "/login", "/languages", "/frontend/settings"}
OPEN |= {"/download_file/{name}", "/download_file/{rest:path}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"anna:{KEY}\nbert:{OTHER}\n")
    return path


@pytest.fixture(scope="module")
def url(serve: Serve, keys: Path) -> str:
    return serve(EchoBackend(), config=Config(api_keys=str(keys)))


@pytest.fixture(scope="module")
def app(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The whole house, page and all, that nobody has started: whatever gets past the door fails."""
    backend, data_dir = EchoBackend(), tmp_path_factory.mktemp("data")
    config = Config(api_keys=str(keys), data_dir=str(data_dir))
    translator, metrics = Translator(backend, Scheduler(1, 1)), Metrics()
    shelves = Documents(translator, metrics, data_dir), Glossaries(data_dir)
    made = create_app(config, translator, Scheduler(1, 1), metrics, *shelves, backend.close)

    async def with_page() -> FastAPI:
        return mount(made, translator, config)

    return asyncio.run(with_page())


def paths(routes: Iterable[BaseRoute]) -> Iterator[str]:
    """Of all routes, those in routers and in what is mounted too."""
    for route in routes:
        inside = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inside, "routes"):
            yield from paths(inside.routes)
        yield getattr(route, "path", "/")


def test_no_path_of_ours_or_of_the_page_answers_without_a_key(app: FastAPI) -> None:
    known = {path or "/" for path in paths(app.routes)} | {"/theme.css", "/no/such/path", "/login/"}
    assert len(known) > 60
    assert {"/documents/{document_id}", "/v2/translate", "/metrics", "/bench", "/logout"} <= known

    async def knock() -> dict[str, set[int]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return {
                path: {(await client.request(method, path)).status_code for method in ("GET", "POST", "DELETE", "HEAD")}
                for path in known - OPEN
            }

    answers = asyncio.run(knock())
    assert {
        path: said for path, said in answers.items() if said != {403 if path[:4] in ("/v2/", "/v3/") else 401}
    } == {}


@pytest.mark.parametrize(
    ("path", "status", "shape"),
    [
        ("/translate", 401, {"error", "code"}),
        ("/v2/translate", 403, {"message", "detail"}),
        ("/v1/chat/completions", 401, {"error"}),
        ("/deeplx", 401, {"code", "message"}),
    ],
)
def test_each_service_hears_it_as_it_would_say_it(url: str, path: str, status: int, shape: set[str]) -> None:
    answer = httpx.post(f"{url}{path}", json=ASKS, headers={"Authorization": f"Bearer {KEY}x"})
    assert (answer.status_code, set(answer.json())) == (status, shape)
    assert KEY not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY}"},
        {"Authorization": f"DeepL-Auth-Key {KEY}"},
        {"X-API-Key": KEY},
        {"Authorization": "Basic of-the-proxy", "X-API-Key": KEY},
    ],
)
def test_a_key_comes_in_a_header(url: str, headers: dict[str, str]) -> None:
    assert httpx.post(f"{url}/translate", json=ASKS, headers=headers).json()["translation"] == "Hello."


def test_what_anybody_may_know_is_told_without_a_key_but_not_with_a_wrong_one(url: str) -> None:
    assert httpx.get(f"{url}/languages").status_code == 200
    assert httpx.get(f"{url}/languages", headers={"X-API-Key": f"{KEY}x"}).status_code == 401


@pytest.mark.parametrize("path", ["/languages?api_key=", "/v2/languages?auth_key=", "/deeplx?token="])
def test_a_key_comes_in_an_address(url: str, path: str) -> None:
    assert httpx.get(f"{url}{path}{KEY}").status_code in (200, 405)
    assert httpx.get(f"{url}{path}{KEY}x").status_code in (401, 403)


def test_a_key_comes_in_a_body_which_the_service_still_reads(url: str) -> None:
    libre = {"q": "Hello.", "source": "en", "target": "de", "api_key": KEY}
    said = [
        httpx.post(f"{url}/translate", json=libre),
        httpx.post(f"{url}/translate", data=libre),
        httpx.post(f"{url}/translate", data=libre, files={"none": b""}),
        httpx.post(f"{url}/translate", json={**libre, "q": 'No "api_key": "hidden" here. ' * 20}),
    ]
    assert [answer.status_code for answer in said] == [200, 200, 200, 200]
    deepl = {"text": "Hello.", "target_lang": "DE", "auth_key": KEY}
    assert httpx.post(f"{url}/v2/translate", data=deepl).status_code == 200
    wrong = {**libre, "api_key": f"{KEY}x"}
    assert httpx.post(f"{url}/translate", json=wrong).status_code == 401
    assert httpx.post(f"{url}/translate", json={**libre, "q": "long " * 300_000}).status_code == 401
    assert httpx.post(f"{url}/documents", data={"api_key": KEY}).status_code == 401


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=b", b"name=api_key\r\n" * 70_000),
        ("multipart/form-data; boundary=b", b"name=api_key\r\nContent-" * 40_000),
        ("application/x-www-form-urlencoded", b"api_key=" + b"%" * 1_000_000),
        ("application/json", b'{"api_key"' + b" " * 1_000_000),
    ],
)
def test_to_look_for_a_key_in_a_body_takes_no_minute(url: str, kind: str, body: bytes) -> None:
    assert httpx.post(f"{url}/translate", content=body, headers={"Content-Type": kind}).status_code == 401


def test_bodies_of_nobody_known_fill_no_memory(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.server.auth.MOST_HELD", 100_000)
    begun = b"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n" + b"a" * 40_000
    with ExitStack() as opened:
        address = url.removeprefix("http://").split(":")
        slow = [opened.enter_context(create_connection((address[0], int(address[1])))) for _ in range(4)]
        for one in slow:
            one.sendall(begun)
        refused, _, _ = select.select(slow, [], [], 9)
        assert refused[0].recv(12) == b"HTTP/1.1 401"
        asks = {"q": "Hello.", "source": "en", "target": "de", "api_key": KEY}
        assert httpx.post(f"{url}/translate", data=asks).status_code == 200


def test_no_cache_on_the_way_keeps_what_was_for_one_key(url: str) -> None:
    kept = {
        name: httpx.get(f"{url}{path}", headers=headers).headers.get("Cache-Control")
        for name, path, headers in [
            ("with", "/glossaries", {"X-API-Key": KEY}),
            ("without", "/healthz", {}),
            ("its own", "/login", {"X-API-Key": KEY}),
        ]
    }
    assert kept == {"with": "private", "without": None, "its own": "no-store"}


@pytest.mark.parametrize("query", ["", "?api_key=wrong-key-wrong-key"])
def test_a_socket_without_a_key_is_never_accepted(url: str, query: str) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"{url.replace('http', 'ws')}/ws/translate{query}")


def test_a_socket_brings_its_key_in_the_address_or_a_header(url: str) -> None:
    address = f"{url.replace('http', 'ws')}/ws/translate"
    ways = [(f"{address}?api_key={KEY}", {}), (address, {"Authorization": f"Bearer {KEY}"})]
    for where, headers in ways:
        with connect(where, additional_headers=headers) as opened:
            opened.send('{"type": "ping"}')
            assert json.loads(opened.recv()) == {"type": "pong"}


@contextmanager
def signed_in(url: str, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        assert client.post("/login", data={"key": key}).status_code == 303
        yield client


def test_a_key_that_is_taken_away_ends_its_cookies_and_its_sockets(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{KEY}\nbert:{OTHER}\n")
    url = serve(EchoBackend(), config=Config(api_keys=str(keys)))
    with signed_in(url, KEY) as anna, signed_in(url, OTHER) as bert:
        cookie = "; ".join(f"{name}={value}" for name, value in anna.cookies.items())
        with connect(f"{url.replace('http', 'ws')}/ws/translate", additional_headers={"Cookie": cookie}) as opened:
            opened.send('{"type": "ping"}')
            assert json.loads(opened.recv()) == {"type": "pong"}
            keys.write_text(f"anna:{KEY}-anew\nbert:{OTHER}\n")
            soon(lambda: anna.get("/system").status_code == 401)
            with pytest.raises(ConnectionClosed):
                opened.recv(timeout=9)
        assert bert.get("/system").status_code == 200


def test_a_cookie_is_for_this_server_and_no_script_and_ends_when_it_is_signed_out(url: str) -> None:
    with signed_in(url, KEY) as client:
        answer = client.post("/login", data={"key": KEY}, params={"next": "/?source=en&text=a%20b"})
        assert answer.headers["Location"] == "/?source=en&text=a%20b"
        cookie = answer.headers["Set-Cookie"]
        assert ("HttpOnly" in cookie, "SameSite=lax" in cookie, "Secure" in cookie, KEY in cookie) == (
            True,
            True,
            False,
            False,
        )
        assert client.get("/system").status_code == 200
        (name, value), *_ = client.cookies.items()
        told, _, proof = value.rpartition(".")  # of whose last letter not all bits count
        forged = {"Cookie": f"{name}={told}.{'A' if proof[0] != 'A' else 'B'}{proof[1:]}"}
        assert httpx.get(f"{url}/system", headers=forged).status_code == 401
        foreign = {"Origin": "https://evil.example"}
        assert client.post("/translate", json=ASKS, headers=foreign).status_code == 403
        assert client.post("/logout").status_code == 303
        assert client.get("/system").status_code == 401


@pytest.mark.parametrize("path", ["//evil.example/", "https://evil.example", "/\\evil.example", "/a\r\nX: y", "evil"])
def test_signing_in_leads_to_no_other_host(url: str, path: str) -> None:
    answer = httpx.post(f"{url}/login", data={"key": KEY}, params={"next": path})
    assert answer.headers["Location"] == "/"
    assert "evil" not in httpx.get(f"{url}/login", params={"next": path}).text


def test_below_a_path_and_behind_tls_the_cookie_is_so_too(serve: Serve, keys: Path) -> None:
    config = Config(api_keys=str(keys), root_path="/yiwen", trusted_proxies=("127.0.0.1/32",))
    url = serve(EchoBackend(), config=config)
    answer = httpx.get(f"{url}/?a=b", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/yiwen/login?next=%2F%3Fa%3Db")
    answer = httpx.post(f"{url}/login", data={"key": KEY}, headers={"X-Forwarded-Proto": "https"})
    assert "Path=/yiwen;" in answer.headers["Set-Cookie"]
    assert "Secure" in answer.headers["Set-Cookie"]
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=")


def test_who_guesses_keys_has_to_wait(serve: Serve, keys: Path) -> None:
    url = serve(EchoBackend(), config=Config(api_keys=str(keys)))
    statuses = [httpx.post(f"{url}/login", data={"key": f"guess-{number}"}).status_code for number in range(11)]
    assert (statuses[0], statuses[-1]) == (401, 429)
    assert int(httpx.post(f"{url}/login", data={"key": KEY}).headers["Retry-After"]) > 0
    assert httpx.get(f"{url}/languages", headers={"X-API-Key": KEY}).status_code == 200
