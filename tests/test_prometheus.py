"""What Prometheus reads at /metrics: counted as it happened, in labels that nobody can make up."""

import json
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_text
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.backends.late import LateBackend
from engine.progress import Progress
from tests.conftest import Serve, soon

ASKED = {"source_lang": "en", "target_lang": "fr"}
SECRET = "Quetzalcoatlus"
OPEN = "application/openmetrics-text"


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend(), page=True)


def figures(url: str) -> dict[tuple[str, ...], float]:
    """By name and values of labels, these in the order of their names."""
    return {
        (sample.name.removeprefix("yiwen_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in read_text(httpx.get(f"{url}/metrics").text)
        for sample in family.samples
    }


def grown(before: dict[tuple[str, ...], float], after: dict[tuple[str, ...], float], *names: str) -> dict[Any, float]:
    return {
        key: value - before.get(key, 0)
        for key, value in after.items()
        if key[0] in names and value != before.get(key, 0)
    }


def test_a_run_is_counted_with_its_tokens_terms_and_warnings(url: str) -> None:
    before = figures(url)
    said = httpx.post(f"{url}/translate", json={"text": "Two words.", **ASKED, "glossary": {"words": "mots"}}).json()
    after = figures(url)
    assert grown(before, after, "runs_total", "segments_total", "glossary_terms_total", "warnings_total") == {
        ("runs_total", "done"): 1,
        ("segments_total",): 1,
        ("glossary_terms_total", "missed"): 1,
        **{("warnings_total", warning["code"]): 1 for warning in said["warnings"]},
    }
    assert ("warnings_total", "term_missed") in after
    tokens = {kind: after["tokens_total", kind] - before["tokens_total", kind] for kind in ("input", "output")}
    assert tokens == {"input": said["usage"]["input_tokens"], "output": said["usage"]["output_tokens"]}
    for name in ("first_text_seconds", "whole_seconds"):
        assert after[f"{name}_count",] - before[f"{name}_count",] == 1
        assert after[f"{name}_bucket", "+Inf"] == after[f"{name}_count",]


def test_an_answer_is_counted_by_its_route_whatever_is_in_its_path(url: str) -> None:
    before = figures(url)
    for path in (f"/documents/{SECRET}", f"/{SECRET}/a?api_key={SECRET}", f"/assets/{SECRET}", f"/studio/{SECRET}"):
        httpx.get(f"{url}{path}")
    httpx.request("PROPFIND", f"{url}/translate")
    with pytest.raises(InvalidStatus):
        connect(f"ws{url[4:]}/ws/{SECRET}")
    with connect(f"ws{url[4:]}/ws/translate?api_key={SECRET}"):
        pass
    key = ("requests_total", "WEBSOCKET", "/ws/translate", "101")
    soon(lambda: figures(url).get(key, 0) > before.get(key, 0))
    found = grown(before, figures(url), "requests_total")
    assert {key[1:3] for key in found if key[2] != "/metrics"} == {
        ("GET", "/documents/{document_id}"),
        ("GET", "page"),
        ("GET", "other"),
        ("GET", "/studio/{path}"),
        ("OTHER", "/translate"),
        ("WEBSOCKET", "other"),
        ("WEBSOCKET", "/ws/translate"),
    }
    assert SECRET.lower() not in httpx.get(f"{url}/metrics").text.lower()


def test_paths_made_up_make_no_figures(url: str) -> None:
    def ask(number: int) -> None:
        httpx.get(f"{url}/made/up/{number}", headers={"X-Request-Id": str(number), "User-Agent": str(number)})
        httpx.get(f"{url}/{number}?key={number}", headers={"Host": f"{number}.example"})

    ask(0)
    before = set(figures(url))
    for number in range(1, 20):
        ask(number)
    assert set(figures(url)) == before


def test_alternatives_and_benchmarks_are_counted_too(url: str) -> None:
    before = figures(url)
    httpx.post(f"{url}/alternatives", json={"text": "Two words.", **ASKED})
    httpx.post(f"{url}/bench", json={"seconds": 1})
    after = figures(url)
    assert grown(before, after, "runs_total") == {("runs_total", "done"): 2}
    assert after["tokens_total", "output"] > before["tokens_total", "output"] + 10


def test_how_a_run_ended_is_its_outcome(serve: Serve) -> None:
    url = serve(EchoBackend(delay_seconds=0.2))
    httpx.post(f"{url}/translate", json={"text": "Hi.", "source_lang": "en", "target_lang": "en"})
    with connect(f"ws{url[4:]}/ws/translate") as socket:
        socket.send(json.dumps({"type": "start", "id": "r", "text": "A long line of some words.", **ASKED}))
        while json.loads(socket.recv(9))["type"] != "delta":
            pass
        assert figures(url)["slots_in_use",] == 1
        assert figures(url)["requests_admitted",] == 1
    soon(lambda: figures(url)["runs_total", "cancelled"] == 1)
    assert grown({}, figures(url), "runs_total") == {
        ("runs_total", "cancelled"): 1,
        ("runs_total", "same_language"): 1,
    }


def test_every_figure_is_described_and_read_in_both_formats(url: str) -> None:
    soon(lambda: ("process_resident_bytes",) in figures(url))
    for accept, kind, read in (("text/plain", "text/plain", read_text), (f"{OPEN}; version=1.0.0", OPEN, read_open)):
        answer = httpx.get(f"{url}/metrics", headers={"Accept": accept})
        families = list(read(answer.text))
        assert answer.headers["Content-Type"].startswith(kind)
        assert len(families) >= 20
        assert [family.name for family in families if not family.documentation] == []
        assert all(family.name.startswith("yiwen_") for family in families)
    for accept in ("", "*/*", f"{OPEN}; version=banana", f"{OPEN}; version=1.x", "text/plain; version=one"):
        assert httpx.get(f"{url}/metrics", headers={"Accept": accept}).status_code == 200


def test_the_model_and_its_memory_are_told(url: str) -> None:
    soon(lambda: ("process_resident_bytes",) in figures(url))
    said = figures(url)
    assert said["model_info", "none", "echo", "none"] == 1  # device, model, precision
    assert said["ready",] == 1
    assert said["slots",] == 8
    assert sum(value for key, value in said.items() if key[:2] == ("device_bytes", "cpu")) > 1e9
    assert {key[1] for key in said if key[0] == "documents"} == {"queued", "translating", "done", "error"}


def test_the_batch_and_the_cache_are_told_where_the_engine_has_them(serve: Serve) -> None:
    class Paged(EchoBackend):
        def memory(self) -> dict[str, int]:
            pages = {"pages_used": 10, "pages_free": 90, "preempted": 3, "batch": 5}
            return {"weights": 4, **pages, "prompt_tokens": 80, "shared_tokens": 20}

    url = serve(Paged(), tested=False)
    soon(lambda: ("batch_size",) in figures(url))
    said = figures(url)
    assert (said["batch_size",], said["preemptions_total",], said["cache_hit_ratio",]) == (5, 3, 0.25)
    assert (said["kv_pages", "used"], said["kv_pages", "free"]) == (10, 90)


def test_figures_are_there_before_the_model_is(serve: Serve) -> None:
    def never(progress: Progress) -> Backend:
        while True:
            progress.report("weights")

    backend = LateBackend(never)
    url = serve(backend, tested=False)
    said = figures(url)
    backend.stop(9)
    assert said["ready",] == 0
    assert "model_info" not in {key[0] for key in said}
