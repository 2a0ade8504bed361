"""`/metrics`: what was counted and measured, as Prometheus reads it. No label holds what somebody sent.

All is read, when asked for, from those who have counted it. Nothing is measured meanwhile: memory was sampled before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from math import inf

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

from engine.balance import Standing, load_gap, memory_gap
from engine.devices import Member, Sampler
from engine.documents.folder import Status
from engine.errors import YiwenError
from engine.metrics import CANCELLED, DONE, Metrics, Spread
from engine.scheduler import Scheduler
from engine.server.access import Requests
from engine.translator import Translator
from engine.types import LoadState

PATH = "/metrics"


class Figures(Collector):
    """As they are at the moment of asking."""

    def __init__(
        self,
        requests: Requests,
        translator: Translator,
        scheduler: Scheduler,
        metrics: Metrics,
        sampler: Sampler,
        documents: Callable[[], Mapping[Status, int]],
        state: Callable[[], LoadState],
    ) -> None:
        """`documents` counts them by status."""
        self._requests, self._translator, self._scheduler, self._metrics = requests, translator, scheduler, metrics
        self._sampler, self._documents, self._state = sampler, documents, state

    def describe(self) -> list[Metric]:
        return []  # or it would be asked for all while it is registered, before there is anything

    def collect(self) -> Iterator[Metric]:
        yield from self._answered()
        yield from self._counted()
        yield from self._waiting()
        yield from self._held()
        yield _gauge("ready", "1 when the model answers, as /readyz says; else 0", self._state().status == "ready")
        yield _by("documents", "Documents kept, by status", "status", self._documents())
        try:
            info = self._translator.info
        except YiwenError:  # it is loading, or that failed
            return
        model = {"model": info.name, "precision": info.precision, "device": info.device}
        yield InfoMetricFamily("yiwen_model", "Which model is loaded, and how", model)

    def _answered(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "yiwen_requests",
            "Answers, by route, method and status; a WebSocket counts once, as it closes (101: it had been opened)",
            labels=("route", "method", "status"),
        )
        for (route, method, status), count in self._requests.counts.items():
            answers.add_metric((route, method, str(status)), count)
        yield answers
        seconds = HistogramMetricFamily(
            "yiwen_request_seconds", "From a request to the end of its answer, without WebSockets", labels=("route",)
        )
        for route, histogram in self._requests.seconds.items():
            seconds.add_metric((route,), *_buckets(histogram.read()))
        yield seconds

    def _counted(self) -> Iterator[Metric]:
        counted = self._metrics.tallies()
        runs = {DONE: 0, CANCELLED: 0, **counted.runs}
        yield _counts("runs", "Translations, by outcome: done, cancelled or an error's code", "outcome", runs)
        tokens = {"input": counted.input_tokens, "output": counted.output_tokens}
        yield _counts("tokens", "Tokens of texts, and those made, of runs that were done", "kind", tokens)
        segments = CounterMetricFamily("yiwen_segments", "Segments translated, of runs that were done")
        segments.add_metric((), counted.segments)
        yield segments
        terms = {"applied": counted.terms_applied, "missed": counted.terms_missed}
        yield _counts("glossary_terms", "Places of terms, by whether the target was found after", "result", terms)
        yield _counts("warnings", "What checks found amiss in translations, by code", "code", counted.warnings)
        first, whole = counted.first_text_seconds, counted.whole_seconds
        yield _histogram("first_text_seconds", "From a run's begin to its first text, waiting included", first)
        yield _histogram("whole_seconds", "From a run's begin to its end, of those that were done", whole)
        yield _gauge("uptime_seconds", "Since the program started", counted.uptime_seconds)

    def _waiting(self) -> Iterator[Metric]:
        scheduler = self._scheduler
        yield _gauge("requests_admitted", "Requests running and waiting", scheduler.requests)
        yield _gauge("requests_admitted_limit", "As many are taken; the rest get 503", scheduler.max_requests)
        yield _gauge("segments_waiting", "Segments that wait for a slot", scheduler.waiting)
        yield _gauge("slots", "Segments that can be translated at once", scheduler.slots)
        yield _gauge("slots_in_use", "Segments that are being translated", scheduler.slots - scheduler.free)

    def _held(self) -> Iterator[Metric]:
        sample = self._sampler.latest
        if sample is None:  # a moment after the start
            return
        held = sample.held
        yield _gauge("process_resident_bytes", "Memory of this program", held.memory.process)
        devices = GaugeMetricFamily(
            "yiwen_device_bytes", "Memory by what holds it; of a device all kinds sum up to all of it", labels=_PARTS
        )
        for device in sample.devices:
            for kind, size in asdict(device.parts).items():
                devices.add_metric((device.device, kind), size)
        yield devices
        yield from _shared(sample.members, self._sampler.standings())
        if held.batch is not None:
            yield _gauge("batch_size", "Sequences that a step of the model works on", held.batch)
        if held.pages:
            pages = {"used": held.pages.used, "free": held.pages.free}
            yield _by("kv_pages", "Pages of the KV cache", "state", pages)
            preempted = CounterMetricFamily(
                "yiwen_preemptions", "Sequences that gave their pages back and began anew, for want of memory"
            )
            preempted.add_metric((), held.pages.preempted)
            yield preempted
        if held.hit_rate is not None:
            yield _gauge("cache_hit_ratio", "Of tokens of prompts, those found in the KV cache", held.hit_rate)


def _shared(members: Sequence[Member], standings: Sequence[Standing]) -> Iterator[Metric]:
    """Of several that work as one."""
    if members:
        ready = {member.name: int(member.state == "ready") for member in members}
        yield _by("replica_ready", "1 for one of several that takes prompts; else 0", "replica", ready)
        tokens = {member.name: member.tokens for member in members}
        yield _by("replica_tokens", "Tokens of prompts and answers under way there, about", "replica", tokens)
        segments = {member.name: member.segments for member in members}
        yield _by("replica_segments", "Segments under way there", "replica", segments)
        slots = {member.name: member.slots for member in members}
        yield _by("replica_slots", "Segments that it translates at once", "replica", slots)
    gaps = {"memory": memory_gap(standings), "load": load_gap(standings)}
    if shares := {kind: gap.share for kind, gap in gaps.items() if gap}:
        told = "How much less than the most the least has, over half a minute: of memory, or to do where one is full"
        yield _by("imbalance_ratio", told, "kind", shares)


_PARTS = ("device", "kind")


def router(figures: Figures) -> APIRouter:
    api = APIRouter()
    registry = CollectorRegistry()  # the library's own would also tell of Python
    registry.register(figures)

    @api.get(PATH, include_in_schema=False)
    async def metrics(request: Request) -> Response:
        try:
            encode, media_type = choose_encoder(request.headers.get("Accept", ""))
            said = encode(registry)
        except (TypeError, ValueError):  # the client asks for a version that is no number
            said, media_type = generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
        return Response(said, headers={"Content-Type": media_type})

    return api


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(f"yiwen_{name}", told, float(value))


def _by(
    name: str, told: str, label: str, values: Mapping[str, int] | Mapping[str, float] | Mapping[Status, int]
) -> Metric:
    family = GaugeMetricFamily(f"yiwen_{name}", told, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family


def _counts(name: str, told: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"yiwen_{name}", told, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family


def _histogram(name: str, told: str, spread: Spread) -> Metric:
    buckets, total = _buckets(spread)
    return HistogramMetricFamily(f"yiwen_{name}", told, buckets=buckets, sum_value=total)


def _buckets(spread: Spread) -> tuple[list[tuple[str, float]], float]:
    """How many values are at most so large, and the sum of all."""
    so_far = 0
    buckets = []
    for bound, count in zip((*spread.bounds, inf), spread.counts, strict=True):
        so_far += count
        buckets.append(("+Inf" if bound == inf else str(bound), float(so_far)))
    return buckets, spread.total
