"""Where OpenTelemetry's variables ask for it: spans with routes and counts, and no word of a text."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from websockets.sync.client import connect

from engine.backends.echo import EchoBackend
from engine.server import tracing
from tests.conftest import Serve, soon

WORD = "Quetzalcoatlus"
ASKED = {"text": f"The {WORD} flies.", "source_lang": "en", "target_lang": "fr", "glossary": {WORD: "Quetzal"}}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    bodies: list[bytes] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneCollector", (Collector,), {"bodies": bodies}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds
    yield bodies
    server.shutdown()
    server.server_close()


def spans(bodies: list[bytes]) -> dict[str, Any]:
    """By name."""
    found = (
        span
        for body in tuple(bodies)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    )
    return {span.name: span for span in found}


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_request_its_wait_and_its_work_are_spans_of_the_callers_trace(serve: Serve, collected: list[bytes]) -> None:
    url = serve(EchoBackend())
    caller = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    done = httpx.post(f"{url}/translate?api_key={WORD}", json=ASKED, headers=caller).json()
    httpx.get(f"{url}/documents/{WORD}")
    with connect(f"ws{url[4:]}/ws/translate?api_key={WORD}") as socket:
        socket.send(json.dumps({"type": "start", "id": WORD, **ASKED}))
        while json.loads(socket.recv(9))["type"] != "done":
            pass
    names = {"POST /translate", "run", "wait", "translate", "GET /documents/{document_id}", "WEBSOCKET /ws/translate"}
    soon(lambda: names <= spans(collected).keys())
    serve.stop(last=True)
    found = spans(collected)
    assert found["POST /translate"].trace_id.hex() == TRACE
    assert found["POST /translate"].parent_span_id.hex() == CALLER
    asked = {"http.request.method": "POST", "http.route": "/translate", "http.response.status_code": 200}
    assert attributes(found["POST /translate"]) == asked
    whole, wait, work = (found[name] for name in ("run", "wait", "translate"))
    assert whole.trace_id == wait.trace_id == work.trace_id == found["WEBSOCKET /ws/translate"].trace_id
    assert {wait.parent_span_id, work.parent_span_id} == {whole.span_id}
    assert whole.parent_span_id == found["WEBSOCKET /ws/translate"].span_id
    usage = {kind: done["usage"][f"{kind}_tokens"] for kind in ("input", "output")}
    counts = {"segments": 1, "input_tokens": usage["input"], "output_tokens": usage["output"]}
    assert attributes(whole) == {"outcome": "done", **counts}
    assert [event.name for event in work.events] == ["first text"]
    assert wait.start_time_unix_nano <= work.start_time_unix_nano <= work.end_time_unix_nano
    assert WORD.encode() not in b"".join(collected)
    assert b"127.0.0.1" not in b"".join(collected)


@pytest.mark.parametrize(
    ("variables", "sent"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, False),
    ],
)
def test_spans_are_sent_where_the_variables_say_so(variables: dict[str, str], sent: bool) -> None:
    provider = tracing.provider_of(variables)
    assert (provider is not None) == sent
    if provider:
        provider.shutdown()


def test_without_its_packages_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert tracing.provider_of({"OTEL_TRACES_EXPORTER": "otlp"}) is None
    assert [record.getMessage() for record in caplog.records] == [
        "no spans are sent, since OpenTelemetry's SDK is not installed: "
        "pip install opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2"
    ]
