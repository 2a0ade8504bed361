"""What people translate is theirs: no word of it is in the log, whatever its level and whatever fails."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from engine import translator
from engine.backends.echo import EchoBackend
from engine.documents import store
from engine.log import MOMENT_SECONDS, Formatter, Together
from engine.types import Prompt, TokenChunk
from tests.conftest import Serve, soon

ROOT = Path(__file__).parents[1]
WORD = "Quetzalcoatlus"
TEXT = f"The {WORD} flies. It eats <b>fish</b>."
ASKED = {"source_lang": "en", "target_lang": "fr"}


class Quotes(EchoBackend):
    """Fails as a library may: with what it was given in its message."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        yield TokenChunk(prompt.source[:3])
        raise ValueError(f"no such thing as {prompt.source!r}")


@contextmanager
def listening() -> Iterator[io.StringIO]:
    """All that is logged, as the program writes it. A server that is started later would shut us out."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(Formatter())
    loggers = [logging.getLogger(), logging.getLogger("uvicorn")]  # the second keeps its own to itself in tests
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
    loggers[0].setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def ask_all_ways(url: str) -> None:
    glossary = {WORD: "Quetzal"}
    for kind in ("text", "html", "markdown"):
        sent = {**ASKED, "text": TEXT, "format": kind, "context": f"About {WORD}.", "glossary": glossary}
        httpx.post(f"{url}/translate", json=sent)
    httpx.post(f"{url}/translate", content=f'{{"text": "{WORD}'.encode(), headers={"Content-Type": "application/json"})
    httpx.post(f"{url}/translate", json={"text": TEXT, "target_lang": WORD})
    httpx.post(f"{url}/detect", json={"text": TEXT})
    with connect(f"ws{url[4:]}/ws/translate") as socket:
        socket.send(json.dumps({"type": "start", "id": "r", "text": TEXT, **ASKED}))
        while json.loads(socket.recv(9))["type"] not in ("done", "error"):
            pass
    for name in ("a.txt", f"{WORD}.docx"):  # the second is no such file
        sent_file = httpx.post(f"{url}/documents", files={"file": (name, TEXT.encode())}, data=ASKED)
    sent_file = httpx.post(f"{url}/documents", files={"file": ("a.html", TEXT.encode())}, data=ASKED)
    document = sent_file.json().get("id")
    if document:
        soon(lambda: httpx.get(f"{url}/documents/{document}").json()["status"] in ("done", "error"))


def test_no_word_of_a_text_is_logged_while_it_is_translated(serve: Serve) -> None:
    url = serve(EchoBackend())
    with listening() as log:
        ask_all_ways(url)
    assert "DEBUG" in log.getvalue()
    assert WORD not in log.getvalue()


def test_no_word_of_a_text_is_logged_when_the_model_fails_over_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", (0.01,))
    url = serve(Quotes())
    with listening() as log:
        ask_all_ways(url)
    assert "a document is tried again" in log.getvalue()
    assert WORD not in log.getvalue()


def test_a_mistake_of_ours_is_logged_with_its_place_and_without_the_text(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(EchoBackend())

    def prepare(request: object, *_: object) -> None:
        raise KeyError(TEXT)

    monkeypatch.setattr(translator, "prepare", prepare)
    with listening() as log:
        ask_all_ways(url)
    said = log.getvalue()
    for place in ("a run failed", "a document failed", "Exception in ASGI application"):
        assert place in said
    assert "in prepare" in said
    assert "KeyError\n" in said
    assert WORD not in said


def test_what_the_machine_says_is_logged_with_what_led_to_it() -> None:
    try:
        try:
            raise KeyError(WORD)
        except KeyError as error:
            raise RuntimeError("CUDA error: an illegal memory access") from error
    except RuntimeError as error:
        said = Formatter().formatException((RuntimeError, error, error.__traceback__))
    assert said.endswith("RuntimeError: CUDA error: an illegal memory access")
    assert "KeyError\nwhich led to\n" in said
    assert WORD not in said


def logged(form: str, said: str) -> list[str]:
    """The lines of a program that logs this."""
    program = f"import logging, warnings\nfrom engine.log import request_id, start\nstart('info', {form!r})\n{said}"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stderr.splitlines()


def test_a_line_of_text_has_its_fields_and_request_at_its_end() -> None:
    said = "request_id.set('r1')\nfields = {'route': '/a/{b}', 'client': 'two words\\n', 'none': None}\n"
    said += "logging.getLogger('x').info('answered', extra={'fields': fields})"
    line = logged("text", said)[0]
    assert line.endswith(r'INFO x: answered route=/a/{b} client="two words\n" request=r1')


def test_as_json_a_line_is_an_object_with_the_time_in_utc() -> None:
    word = f"{WORD[:7]}' '{WORD[7:]}"  # later Pythons quote the program's own line
    said = "try:\n    {}['" + word + "']\nexcept KeyError:\n    logging.getLogger('x').exception('oh\\nno')"
    (line,) = logged("json", said)
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"]) == ("error", "x", "oh\nno")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["time"])
    assert abs(datetime.fromisoformat(told["time"]).timestamp() - time.time()) < 60
    assert told["traceback"].endswith("\nKeyError")
    assert WORD not in line


def test_a_process_names_itself_in_each_of_its_lines_where_it_has_a_name() -> None:
    said = "start('info', FORM, {'device': 'cuda:1'})\nlogging.getLogger('x').info('oh', extra={'fields': {'n': 1}})"
    program = f"import logging\nfrom engine.log import start\n{said}"
    lines = [
        subprocess.run(
            [sys.executable, "-c", program.replace("FORM", repr(form))], cwd=ROOT, capture_output=True, check=True
        ).stderr.decode()
        for form in ("text", "json")
    ]
    assert lines[0].endswith("x: oh n=1 device=cuda:1\n")
    assert json.loads(lines[1])["device"] == "cuda:1"


def test_a_warning_is_a_line_and_quotes_nothing_but_what_a_programmer_wrote() -> None:
    said = f"warnings.warn('{WORD}', UserWarning)\nwarnings.warn('use that instead', FutureWarning)"
    lines = logged("text", said)
    assert [re.sub(r"^\S+ \S+ ", "", line) for line in lines] == [
        "WARNING py.warnings: UserWarning at <string>:4",
        "WARNING py.warnings: FutureWarning at <string>:5: use that instead",
    ]


class Writes(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def write(self, said: str) -> int:
        self.said.append(said)
        return len(said)


def test_what_is_said_within_a_moment_is_written_at_once_and_nothing_waits_behind_a_warning() -> None:
    written = Writes()
    logger = logging.Logger("of this test")
    logger.addHandler(Together(written))

    async def work() -> None:
        for number in range(3):
            logger.info("line %d", number)
        assert written.said == []
        await asyncio.sleep(5 * MOMENT_SECONDS)
        assert written.said == ["line 0\nline 1\nline 2\n"]
        logger.info("line 3")
        logger.warning("line 4")
        assert written.said[1:] == ["line 3\nline 4\n"]
        logger.info("line 5")

    asyncio.run(work())
    assert len(written.said) == 2
    logger.info("line 6")  # no loop would write it later, nor what an ended one has left
    assert written.said[2:] == ["line 5\nline 6\n"]
