"""`/system`: model, memory, traffic and who waits. What is measured was sampled before; nothing is measured here."""

import platform
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from engine.balance import UNEVEN_LOAD, UNEVEN_MEMORY, Gap, load_gap, memory_gap
from engine.devices import Member, Sampler
from engine.errors import YiwenError
from engine.metrics import Held, Metrics
from engine.scheduler import Scheduler
from engine.server import answers
from engine.server.questions import JsonObject
from engine.translator import Translator
from engine.types import LoadState, ModelInfo

LIBRARIES = ("torch", "gradio", "openvino", "onnxruntime")


def sampler_of(translator: Translator, metrics: Metrics) -> Sampler:
    def device() -> str:
        info = _model(translator)
        return info.device if info else ""

    return Sampler(metrics, device, replicas=translator.replicas)


def router(
    translator: Translator,
    scheduler: Scheduler,
    metrics: Metrics,
    sampler: Sampler,
    state: Callable[[], LoadState],
    provider: str | None = None,
) -> APIRouter:
    """`provider`: as in the config. `sampler` runs as long as the app that the router is included in."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        sampler.start()
        try:
            yield
        finally:
            sampler.stop()

    api = APIRouter(lifespan=lifespan)
    libraries = _libraries()

    @api.get(
        "/system",
        summary="Model, memory, traffic and who waits",
        description="Memory is sampled every two seconds; `history` is the last minute of it.",
        responses={200: {"model": answers.SystemAnswer}},
    )
    async def system(request: Request) -> Response:
        sample = sampler.latest
        held = sample.held if sample else metrics.held()  # before the first sample, a moment after the start
        traffic = asdict(metrics.snapshot(held))
        standings = sampler.standings()
        gaps = {"memory": memory_gap(standings), "load": load_gap(standings)}
        info = _model(translator)
        described = asdict(info) if info else None
        return JSONResponse(
            {
                "state": asdict(state()),
                "plan": {"reason": described.pop("plan"), "bytes": described.pop("planned_bytes")}
                if described
                else None,
                "model": described,
                "provider": provider,
                "devices": [asdict(each) for each in sample.devices] if sample else [],
                "replicas": [asdict(each) for each in sample.members] if sample else [],
                "total": asdict(total) if sample and (total := sample.total) else None,
                "balance": {name: asdict(gap) if gap else None for name, gap in gaps.items()},
                "warnings": _warnings(sample.members if sample else (), **gaps),
                "history": [
                    {
                        "ago": round(ago, 1),
                        "used_bytes": past.used_bytes,
                        "tokens_per_second": round(past.tokens_per_second, 1),
                    }
                    for ago, past in sampler.history()
                ],
                "cache": _cache(held),
                "memory_bytes": traffic.pop("memory"),
                "pages": traffic.pop("pages"),
                "scheduler": {
                    "slots": scheduler.slots,
                    "in_use": scheduler.slots - scheduler.free,
                    "waiting_segments": scheduler.waiting,
                    "requests": scheduler.requests,
                    "max_requests": scheduler.max_requests,
                },
                "traffic": traffic,
                "versions": {"yiwen": request.app.version, **libraries, "cuda": _cuda()},
            }
        )

    return api


def _model(translator: Translator) -> ModelInfo | None:
    try:
        return translator.info
    except YiwenError:  # it is loading, or that failed
        return None


def _cache(held: Held) -> JsonObject | None:
    pages = held.pages
    if pages is None:
        return None
    return {
        "hit_rate": None if held.hit_rate is None else round(held.hit_rate, 4),
        "pages_used": pages.used,
        "pages_free": pages.free,
        "preempted": pages.preempted,
    }


def _warnings(members: Sequence[Member], memory: Gap | None, load: Gap | None) -> list[str]:
    """No figure in them moves, for a page may read them aloud whenever they change."""
    said = []
    if any(member.state == "ready" for member in members):
        said += [
            f"{member.name} is being loaded again; the others translate meanwhile."
            if member.state == "loading"
            else f"{member.name} is out of service; the others translate in its stead."
            for member in members
            if member.state != "ready"
        ]
    if memory and memory.uneven:
        least = f"{memory.least} has over {UNEVEN_MEMORY:.0%} less memory in use than {memory.most}"
        on_cards = memory.most.startswith("cuda")
        said.append(f"{least}; look whether another program runs there." if on_cards else f"{least}.")
    if load and load.uneven:
        less = f"{load.least} had over {UNEVEN_LOAD:.0%} less to do"
        said.append(f"For half a minute {load.most} has been full while {less}.")
    return said


def _libraries() -> Mapping[str, str | None]:
    """Read from what is installed: to import them takes seconds."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {"python": platform.python_version(), **{name: installed(name) for name in LIBRARIES}}


def _cuda() -> str | None:
    """What torch was built for, once it is imported; None where it was built without."""
    found: str | None = getattr(sys.modules.get("torch.version"), "cuda", None)
    return found
