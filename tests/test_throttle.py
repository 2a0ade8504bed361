"""How much a client may ask, and who counts as one."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from engine.backends.echo import EchoBackend
from engine.config import Config
from engine.server import throttle
from engine.server.clients import Client
from engine.server.throttle import Bucket
from tests.conftest import Serve, soon

ASKS = {"text": "Hello there.", "source_lang": "en", "target_lang": "de"}
HOME = "203.0.113.7"


@pytest.fixture(scope="module")
def limited(serve: Serve) -> str:
    """Behind a proxy on this machine, so that each test can be somebody else."""
    config = Config(requests_per_minute=3, trusted_proxies=("127.0.0.1/32", "10.0.0.0/8"))
    return serve(EchoBackend(), config=config)


def asked(url: str, forwarded: str, path: str = "/translate") -> httpx.Response:
    return httpx.post(f"{url}{path}", json=ASKS, headers={"X-Forwarded-For": forwarded})


def test_past_its_requests_a_minute_a_client_waits_and_others_do_not(limited: str) -> None:
    statuses = [asked(limited, HOME).status_code for _ in range(4)]
    refused = asked(limited, HOME)
    assert statuses == [200, 200, 200, 429]
    assert refused.json()["code"] == "too_many_requests"
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert f"try again in {refused.headers['Retry-After']} s" in refused.json()["error"]
    assert asked(limited, "203.0.113.8").status_code == 200
    free = [
        httpx.get(f"{limited}{path}", headers={"X-Forwarded-For": HOME}) for path in ("/healthz", "/system", "/docs")
    ]
    assert [answer.status_code for answer in free] == [200, 200, 200]
    typed, pasted = ({"text": "Hello. " * count} for count in (1, 2_000))
    headers = {"X-Forwarded-For": HOME}
    statuses = [httpx.post(f"{limited}/detect", json=text, headers=headers).status_code for text in (typed, pasted)]
    assert statuses == [200, 429]


def test_a_home_with_many_addresses_is_one_client(limited: str) -> None:
    statuses = [asked(limited, f"2001:db8:1:2::{number:x}").status_code for number in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert asked(limited, "2001:db8:1:3::1").status_code == 200


def test_the_nearest_hop_that_is_not_trusted_is_the_client(limited: str) -> None:
    """What stands before it anybody may have written."""
    statuses = [asked(limited, f"198.51.100.{number}, 192.0.2.5, 10.0.0.9").status_code for number in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert asked(limited, "192.0.2.5").status_code == 429
    assert asked(limited, "no address").status_code == 200  # then it is the proxy itself


def test_without_a_trusted_proxy_nobody_names_himself(serve: Serve) -> None:
    url = serve(EchoBackend(), config=Config(requests_per_minute=2))
    assert [asked(url, f"203.0.113.{number}").status_code for number in range(3)] == [200, 200, 429]


def test_runs_on_a_socket_count_as_requests(limited: str) -> None:
    address = f"{limited.replace('http', 'ws')}/ws/translate"
    with connect(address, additional_headers={"X-Forwarded-For": "203.0.113.50"}) as socket:
        last = []
        for number in range(4):
            socket.send(json.dumps({"type": "start", "id": f"r{number}", **ASKS}))
            while (message := json.loads(socket.recv()))["type"] not in ("done", "error"):
                pass
            last.append(message)
    assert [message["type"] for message in last] == ["done", "done", "done", "error"]
    assert (last[3]["id"], last[3]["code"]) == ("r3", "too_many_requests")


def test_a_key_has_its_own_numbers_and_its_tokens_are_charged_also_for_documents(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("few:few-tokens-a-minute::40\nmany:many-tokens-a-minute\n")
    config = Config(api_keys=str(tmp_path / "keys"), data_dir=str(tmp_path), requests_per_minute=100)
    url = serve(EchoBackend(), config=config)
    few, many = ({"X-API-Key": f"{name}-tokens-a-minute"} for name in ("few", "many"))
    file = {"file": ("a.txt", "One line. " * 30)}
    sent = httpx.post(f"{url}/documents", headers=few, files=file, data={"target_lang": "de", "source_lang": "en"})
    assert sent.status_code == 202
    place = f"{url}/documents/{sent.json()['id']}"
    soon(lambda: httpx.get(place, headers=many).json()["status"] == "done")
    refused = httpx.post(f"{url}/translate", json=ASKS, headers=few)
    assert refused.status_code == 429
    assert "40 tokens a minute" in refused.json()["error"]
    assert int(refused.headers["Retry-After"]) > 60
    assert httpx.post(f"{url}/translate", json=ASKS, headers=many).status_code == 200


def test_a_client_has_so_many_requests_and_sockets_at_once_and_no_more(serve: Serve) -> None:
    url = serve(EchoBackend(0.05), config=Config(max_per_client=2))
    slow = {**ASKS, "text": "A line that takes a while to be said again. " * 3}
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(httpx.post, f"{url}/translate", json=slow, timeout=30) for _ in range(2)]
        soon(lambda: httpx.get(f"{url}/system").json()["scheduler"]["requests"] == 2)
        assert httpx.post(f"{url}/translate", json=ASKS).status_code == 429
        assert [each.result().status_code for each in running] == [200, 200]
    assert httpx.post(f"{url}/translate", json=ASKS).status_code == 200
    address = f"{url.replace('http', 'ws')}/ws/translate"
    with connect(address), connect(address), pytest.raises(InvalidStatus, match="403"):
        connect(address)


def test_a_bucket_fills_steadily_and_many_clients_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(throttle, "MOST_BUCKETS", 100)
    bucket = Bucket(lambda: now)
    for _ in range(6):
        bucket.take("a", 1, 6)
    assert bucket.wait_seconds("a", 1, 6) == pytest.approx(10)
    now = 10.0
    assert bucket.wait_seconds("a", 1, 6) == 0
    bucket.take("a", 12, 6)  # more than there is: a debt
    assert bucket.wait_seconds("a", 1, 6) == pytest.approx(120)
    for number in range(1000):
        bucket.take(f"b{number}", 1, 6)
    assert len(bucket) == 100


def test_a_client_is_known_by_its_key_or_its_network() -> None:
    client = Client("::ffff:192.0.2.1")
    assert (client.id, replace(client, name="anna").id) == ("192.0.2.1", "key anna")
    assert Client("2001:db8::1").id == Client("2001:db8::2").id != Client("2001:db8:0:1::1").id


def test_who_leaves_early_has_spent_what_was_made_for_him(serve: Serve) -> None:
    url = serve(EchoBackend(0.01), config=Config(tokens_per_minute=60))
    with connect(f"{url.replace('http', 'ws')}/ws/translate") as socket:
        socket.send(json.dumps({"type": "start", "id": "r", **ASKS, "text": "A line that takes a while. " * 20}))
        while json.loads(socket.recv())["type"] != "delta":
            pass
    while (answer := httpx.post(f"{url}/translate", json=ASKS)).status_code == 200:
        pass
    assert int(answer.headers["Retry-After"]) > 10  # short requests alone would leave no such debt
