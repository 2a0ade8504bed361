"""`/healthz` and `/readyz`: is the process up, does the model translate; at the start, and whenever somebody asks who
has not been told of it for a while."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from itertools import islice

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from engine.errors import Loading, Overloaded
from engine.metrics import Metrics
from engine.progress import Progress
from engine.translator import Translator
from engine.types import LoadState, ModelInfo, TranslationRequest

NO_MODEL = "none"  # the precision of a backend that has none, such as echo: it may say the prompt back
SENTENCES = {
    "en": "The river is wide, and the boat is old.",
    "zh": "河很宽，船很旧。",
    "de": "Der Fluss ist breit, und das Boot ist alt.",
    "fr": "La rivière est large et le bateau est vieux.",
    "es": "El río es ancho y el barco es viejo.",
    "ja": "川は広く、船は古い。",
}
MOST_SENTENCES = 3
SILENT_SECONDS = 60.0  # after which it is tried whether the model still answers …
PATIENCE_SECONDS = 60.0  # … and how long it is waited for: a large model on a CPU reads a long prompt meanwhile
RETRY_SECONDS = 5.0  # between two tries of a model that does not answer

log = logging.getLogger(__name__)


class SelfTest:
    """Real translations: "ready" means that the model answers, not that its file was read.

    At the start of each of three directions one; later, when nothing has come from the model for a while and somebody
    wants to know, one in the background. A model that says nothing then is not ready any more, until it answers again.
    """

    def __init__(
        self,
        translator: Translator,
        metrics: Metrics,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`progress` is that of the loading, of which this is the last step."""
        self._translator, self._metrics, self._progress, self._clock = translator, metrics, progress, clock
        self._answered = clock()
        self._trouble = ""  # why the model that was ready is so no more
        self._trying: asyncio.Task[None] | None = None
        self._tries = 0
        self._next = 0.0  # before that there is no other

    def state(self) -> LoadState:
        state = self._progress.state()
        if state.status == "ready" and self._trouble:
            return LoadState("failed", "", 1.0, None, self._trouble)
        return state

    def look(self) -> LoadState:
        """The state; and where it was not seen lately that the model answers, it is tried beside."""
        wanted = self._trouble or self._silent_seconds() >= SILENT_SECONDS
        if wanted and self._clock() >= self._next and self._progress.state().status == "ready":
            self._next = math.inf
            self._trying = asyncio.create_task(self._try())
        return self.state()

    async def run(self) -> None:
        """The last step of the loading."""
        progress = self._progress
        progress.report("test")
        try:
            info = self._translator.info
            for number, (source, target) in enumerate(directions(info)):
                # Of the first the source is not named, so that the first user does not wait for the detector to load
                if trouble := await self._trouble_with(source, target, named=number > 0):
                    progress.fail(trouble)
                    log.error(trouble)
                    return
        except Overloaded:  # a model that comes again finds many waiting for it
            await asyncio.sleep(RETRY_SECONDS)
            return await self.run()
        except Exception as error:  # the background task ends here: whatever it was, the server is not ready
            log.exception("the self-test failed")
            progress.fail(f"The self-test failed: {error}")
            return
        self._answered, self._trouble = self._clock(), ""
        progress.end()
        log.info("ready: the self-test passed")

    async def close(self) -> None:
        if self._trying:
            self._trying.cancel()
            await asyncio.gather(self._trying, return_exceptions=True)

    async def _try(self) -> None:
        """One direction after the other, a try each."""
        was, trouble = self._trouble, ""
        try:
            known = directions(self._translator.info)
            source, target = known[self._tries % len(known)]
            self._tries += 1
            async with asyncio.timeout(PATIENCE_SECONDS):
                trouble = await self._trouble_with(source, target)
            if not trouble:
                self._answered = self._clock()
        except Loading:
            return  # the loading's own state says so
        except (TimeoutError, Overloaded):  # it waits behind others: the model is well as long as these get something
            silent = self._silent_seconds()
            if SILENT_SECONDS <= silent < SILENT_SECONDS + PATIENCE_SECONDS:
                return
            if silent >= SILENT_SECONDS:
                trouble = f"The model has said nothing for {silent:.0f} s; if it stays so, restart the program."
        except Exception as error:  # the background task ends here: whatever it was, the model does not answer
            trouble = f"The self-test failed: {error}"
        finally:
            self._next = self._clock() + RETRY_SECONDS
        self._trouble = trouble
        if trouble and not was:
            log.error(trouble)
        elif was and not trouble:
            log.info("ready again: the model answers")

    async def _trouble_with(self, source: str, target: str, *, named: bool = True) -> str:
        """What is amiss with the answer, if anything."""
        sentence = SENTENCES[source]
        named = named and source in self._translator.info.languages
        asked = TranslationRequest(sentence, target, source if named else None)
        answer = (await self._translator.translate(asked)).text
        if answer.strip() in ("", sentence) and self._translator.info.precision != NO_MODEL:
            return f"The self-test failed: {sentence!r} became {answer!r}."
        return ""

    def _silent_seconds(self) -> float:
        """Since it was seen last that the model answers, in a test or to anybody."""
        return min(self._clock() - self._answered, self._metrics.silent_seconds())


def directions(info: ModelInfo) -> list[tuple[str, str]]:
    """Those that are tested, as the model learnt them. One is enough where no model answers."""
    spoken = [code for code in SENTENCES if code in info.languages]
    found = []
    for source in spoken:
        known = (code for code in (*spoken, *info.languages) if code != source and info.hub in (None, source, code))
        found += [(source, target) for target in islice(known, 1)]
    found = found or [("en", info.languages[0])]
    return found[: 1 if info.precision == NO_MODEL else MOST_SENTENCES]


def router(translator: Translator, self_test: SelfTest) -> APIRouter:
    api = APIRouter()

    @api.get("/healthz", summary="The process is up")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", summary="The model is loaded and has passed its self-test; 503 until then")
    async def readyz() -> Response:
        state = self_test.look()
        if state.status == "ready":
            return JSONResponse({"status": "ready", "model": translator.info.name})
        return JSONResponse({"status": state.status, "reason": state.reason}, 503)

    return api
