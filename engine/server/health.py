"""`/healthz`, `/readyz` and `/system`: is the process up, does the model translate, what does it hold."""

import logging
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from engine.metrics import Metrics
from engine.scheduler import Scheduler
from engine.translator import Translator
from engine.types import TranslationRequest

NO_MODEL = "none"  # the precision of a backend that has none, such as echo: it may say the prompt back

log = logging.getLogger(__name__)


class SelfTest:
    """One real translation: "ready" means that the model answers, not that its file was read.

    The source is not named, so that the first user does not wait for the detector to load either.
    """

    PROMPT = "The river is wide, and the boat is old."

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self.status: Literal["loading", "ready", "failed"] = "loading"
        self.reason = "The self-test has not ended yet; ask again in a moment."

    async def run(self) -> None:
        try:
            target = next(code for code in self._translator.info.languages if code != "en")
            answer = (await self._translator.translate(TranslationRequest(self.PROMPT, target))).text
        except Exception as error:  # the background task ends here: whatever it was, the server is not ready
            log.exception("the self-test failed")
            self.status, self.reason = "failed", f"The self-test failed: {error}"
            return
        if answer.strip() in ("", self.PROMPT) and self._translator.info.precision != NO_MODEL:
            self.status, self.reason = "failed", f"The self-test failed: {self.PROMPT!r} became {answer!r}."
            log.error(self.reason)
            return
        self.status, self.reason = "ready", ""
        log.info("ready: the self-test passed")


def router(translator: Translator, scheduler: Scheduler, metrics: Metrics, self_test: SelfTest) -> APIRouter:
    api = APIRouter()

    @api.get("/healthz", summary="The process is up")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="The model is loaded and has passed its self-test; 503 until then")
    async def readyz() -> Response:
        if self_test.status == "ready":
            return JSONResponse({"status": "ready", "model": translator.info.name})
        return JSONResponse({"status": self_test.status, "reason": self_test.reason}, 503)

    @api.get("/system", summary="Model, memory, traffic and who waits")
    async def system() -> dict[str, Any]:
        traffic = asdict(metrics.snapshot())
        model = asdict(translator.info)
        return {
            "plan": {"reason": model.pop("plan"), "bytes": model.pop("planned_bytes")},
            "model": model,
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
        }

    return api
