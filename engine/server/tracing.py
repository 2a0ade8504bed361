"""Spans for OpenTelemetry, where its variables ask for them: a request, its wait for a slot, its work. They hold counts
and routes, never a text, an address or a path somebody made up.

Its SDK is not among what Yiwen needs; without it, one line of the log says what to install.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.metrics import CANCELLED, DONE, Metrics, Run

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

TO_INSTALL = "pip install opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2"
STOP_SECONDS = 2.0
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

log = logging.getLogger(__name__)


def provider_of(environ: Mapping[str, str] = os.environ) -> "TracerProvider | None":
    """Where spans go, as the variables of OpenTelemetry say; None where they say nothing. Its own to whoever asks for
    it: libraries that look for the program's provider would tell of addresses and queries."""
    kind = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    wanted = kind or any(environ.get(name) for name in _ENDPOINTS)
    if not wanted or kind == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if kind not in ("", "otlp", "console"):
        log.warning("no spans are sent: OTEL_TRACES_EXPORTER must be otlp, console or none")
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError:
        log.warning("no spans are sent, since OpenTelemetry's SDK is not installed: %s", TO_INSTALL)
        return None
    name = {SERVICE_NAME: environ.get("OTEL_SERVICE_NAME") or "yiwen"}
    provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter() if kind == "console" else OTLPSpanExporter()))
    return provider


def close(provider: "TracerProvider") -> None:
    """Sends what is left, and waits no longer for a collector that is not there."""
    last = threading.Thread(target=provider.shutdown, daemon=True)
    last.start()
    last.join(STOP_SECONDS)


class Traced:
    """Around the access log: a span for each request, a child of the caller's where that sends `traceparent`."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app, self._tracer, self._callers = app, tracer, TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracer.start_span("request", self._callers.extract(sent), SpanKind.SERVER)
        try:  # what an error says may quote the text
            with use_span(span, record_exception=False, set_status_on_exception=False):
                await self._app(scope, receive, send)
        finally:
            method, route, status = scope["state"]["answered"]
            told = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
            span.update_name(f"{method} {route}")
            span.set_attributes(told)
            if status >= 500:
                span.set_status(StatusCode.ERROR)
            span.end()


def listener(tracer: Tracer, metrics: Metrics) -> Callable[[Run], None]:
    """For the metrics: makes the spans of each run as it ends."""

    def tell(run: Run) -> None:
        zero = time.time_ns() - int(metrics.clock() * 1e9)
        began, ended = zero + int(run.began * 1e9), zero + int(run.ended * 1e9)
        started = ended if run.started is None else zero + int(run.started * 1e9)
        counts = {"segments": run.segments, "input_tokens": run.input_tokens, "output_tokens": run.output_tokens}
        whole = tracer.start_span("run", start_time=began, attributes={"outcome": run.outcome, **counts})
        if run.outcome not in (DONE, CANCELLED):
            whole.set_status(StatusCode.ERROR, run.outcome)
        inside = set_span_in_context(whole)
        tracer.start_span("wait", inside, start_time=began).end(started)
        if run.started is not None:
            work = tracer.start_span("translate", inside, start_time=started, attributes=counts)
            if run.spoke is not None:
                work.add_event("first text", timestamp=zero + int(run.spoke * 1e9))
            work.end(ended)
        whole.end(ended)

    return tell
