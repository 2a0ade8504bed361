"""`/healthz` and `/readyz`: is the process up, does the model translate."""

import logging

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from engine.progress import Progress
from engine.translator import Translator
from engine.types import LoadState, TranslationRequest

NO_MODEL = "none"  # the precision of a backend that has none, such as echo: it may say the prompt back

log = logging.getLogger(__name__)


class SelfTest:
    """One real translation: "ready" means that the model answers, not that its file was read.

    The source is not named, so that the first user does not wait for the detector to load either.
    """

    PROMPT = "The river is wide, and the boat is old."

    def __init__(self, translator: Translator, progress: Progress) -> None:
        """`progress` is that of the loading, of which this is the last step."""
        self._translator, self._progress = translator, progress

    def state(self) -> LoadState:
        return self._progress.state()

    async def run(self) -> None:
        self._progress.report("test")
        try:
            target = next(code for code in self._translator.info.languages if code != "en")
            answer = (await self._translator.translate(TranslationRequest(self.PROMPT, target))).text
        except Exception as error:  # the background task ends here: whatever it was, the server is not ready
            log.exception("the self-test failed")
            self._progress.fail(f"The self-test failed: {error}")
            return
        if answer.strip() in ("", self.PROMPT) and self._translator.info.precision != NO_MODEL:
            self._progress.fail(f"The self-test failed: {self.PROMPT!r} became {answer!r}.")
            log.error(self.state().reason)
            return
        self._progress.end()
        log.info("ready: the self-test passed")


def router(translator: Translator, self_test: SelfTest) -> APIRouter:
    api = APIRouter()

    @api.get("/healthz", summary="The process is up")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="The model is loaded and has passed its self-test; 503 until then")
    async def readyz() -> Response:
        state = self_test.state()
        if state.status == "ready":
            return JSONResponse({"status": "ready", "model": translator.info.name})
        return JSONResponse({"status": state.status, "reason": state.reason}, 503)

    return api
