"""Who may ask from inside a browser, under which name, and what the browser is told of each answer."""

import json
import socket

import httpx
import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from engine.backends.echo import EchoBackend
from engine.config import Config
from tests.conftest import Serve
from tests.studio import BOX, a_studio

ASKS = {"text": "Hello.", "source_lang": "en", "target_lang": "de"}
FRIEND, STRANGER = "https://friend.example", "https://evil.example"


@pytest.fixture(scope="module")
def address(serve: Serve) -> str:
    return serve(EchoBackend(), page=True)


@pytest.fixture(scope="module")
def friendly(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> str:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("anna:correct-horse-battery\n")
    hosts = ("yiwen.example", "*.inner.example")
    return serve(EchoBackend(), config=Config(api_keys=str(keys), allowed_origins=(FRIEND,), allowed_hosts=hosts))


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:7860", 200), ("[::1]:80", 200), ("rebound.example", 403), ("[", 403)],
)
def test_a_server_of_this_machine_is_asked_by_no_other_name(address: str, host: str, status: int) -> None:
    answer = httpx.get(f"{address}/healthz", headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "foreign_host"
        assert "--allowed-hosts" in answer.json()["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("Yiwen.example:8443", 200), ("a.inner.example", 200), ("localhost", 200), ("inner.example", 403), ("x", 403)],
)
def test_named_hosts_are_answered(friendly: str, host: str, status: int) -> None:
    assert httpx.get(f"{friendly}/healthz", headers={"Host": host}).status_code == status


def test_a_server_for_all_is_asked_by_any_name(serve: Serve) -> None:
    url = serve(EchoBackend(), config=Config(host="0.0.0.0"))
    assert httpx.get(f"{url}/healthz", headers={"Host": "any.example"}).status_code == 200


def test_a_socket_is_asked_for_by_our_name_only(address: str) -> None:
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as wire, pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://rebound.example:{port}/ws/translate", sock=wire)


def test_a_named_origin_may_ask_and_read_also_that_it_was_refused(friendly: str) -> None:
    preflight = httpx.options(
        f"{friendly}/translate",
        headers={
            "Origin": FRIEND,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        },
    )
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, FRIEND)
    for headers, status in (({"X-API-Key": "correct-horse-battery"}, 200), ({}, 401)):
        answer = httpx.post(f"{friendly}/translate", json=ASKS, headers={"Origin": FRIEND, **headers})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, FRIEND)
        assert "Access-Control-Allow-Credentials" not in answer.headers
    for origin in (STRANGER, STRANGER.upper()):
        stranger = httpx.post(f"{friendly}/translate", json=ASKS, headers={"Origin": origin})
        assert (stranger.status_code, "Access-Control-Allow-Origin" in stranger.headers) == (403, False)
    place = f"{friendly.replace('http', 'ws')}/ws/translate?api_key=correct-horse-battery"
    with connect(place, origin=Origin(FRIEND)) as open_socket:
        open_socket.send('{"type": "ping"}')
        assert json.loads(open_socket.recv()) == {"type": "pong"}
    with pytest.raises(InvalidStatus, match="403"):
        connect(place, origin=Origin(STRANGER))


def test_without_named_origins_no_page_of_others_reads_anything(address: str) -> None:
    answer = httpx.get(f"{address}/languages", headers={"Origin": STRANGER})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/studio/page.js", "/no/such/path"])
def test_each_answer_says_what_a_browser_may_do_with_it(address: str, path: str) -> None:
    headers = httpx.get(f"{address}{path}").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert "default-src '" in headers["Content-Security-Policy"]
    assert "Strict-Transport-Security" not in headers


def test_a_named_origin_may_frame_the_page(serve: Serve) -> None:
    url = serve(EchoBackend(), page=True, config=Config(allowed_origins=(FRIEND,)))
    headers = httpx.get(url).headers
    assert f"frame-ancestors 'self' {FRIEND}" in headers["Content-Security-Policy"]
    assert "X-Frame-Options" not in headers


def test_the_page_runs_only_scripts_that_bear_the_mark_of_this_answer(address: str) -> None:
    one, other = httpx.get(address), httpx.get(address)
    nonce = one.headers["Content-Security-Policy"].partition("'nonce-")[2].partition("'")[0]
    assert len(nonce) >= 22
    assert nonce not in other.text
    assert one.text.count("<script") == one.text.count(f'<script nonce="{nonce}"') > 3
    assert "'unsafe-inline'" not in one.headers["Content-Security-Policy"].split("script-src")[1].split(";")[0]


@pytest.mark.timeout(60, func_only=True)
def test_the_page_does_all_it_does_within_its_policy(chromium: Browser, address: str) -> None:
    """A browser complains of whatever its policy forbids, and the studio takes no complaint."""
    with chromium.new_context(locale="en-US") as context, a_studio(context, address) as studio:
        studio.open("?source=en&target=de")
        studio.write("A <b>bold</b> word.")
        studio.translate()
        studio.wait_done()
        expect(studio.page.locator(BOX)).to_contain_text("bold")
        studio.page.locator("#yw-preview-on").check()
        expect(studio.page.frame_locator("#yw-preview iframe").locator("b")).to_have_text("bold")
        studio.page.locator("#yw-seen > summary").click()
        file = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"One line."}
        studio.page.get_by_role("tab", name="Documents").click()
        studio.page.locator("#yw-doc-drop input").set_input_files([file])  # type: ignore[list-item]
        expect(studio.page.locator("#yw-docs")).to_contain_text("a.txt")
        studio.page.get_by_role("tab", name="Terms").click()
        studio.page.get_by_role("tab", name="System").click()
        ran = studio.page.evaluate(
            "new Promise((go) => { window.ran = false; const one = document.createElement('script');"
            " one.textContent = 'window.ran = true'; document.body.append(one); setTimeout(() => go(window.ran)) })"
        )
        assert ran is False
        assert "Content Security Policy" in studio.complaints.pop()
