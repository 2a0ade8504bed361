"""Full and damaged disks, and the program's end, graceful or not: nothing stored is lost or torn, and all is told."""

import asyncio
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from engine import files
from engine.backends.echo import EchoBackend
from engine.documents.folder import Order
from engine.documents.store import Documents
from engine.errors import YiwenError
from engine.metrics import Metrics
from engine.scheduler import Scheduler
from engine.server import answers
from engine.server import documents as face
from engine.server.connections import AT_ONCE, Ending, Server
from engine.termbase.store import Glossaries
from engine.translator import Translator
from engine.types import Term, TranslationRequest
from tests.conftest import Serve, soon
from tests.test_slow_clients import nothing

ROOT = Path(__file__).parent.parent
ASKED = {"text": "Hello there.", "source_lang": "en", "target_lang": "fr"}
LINES = "\n".join(f"This is line {number} of a book." for number in range(80))
GLOSSARY = {"name": "Books", "source_lang": "en", "target_lang": "fr", "glossary": {"book": "livre", "line": "ligne"}}
# The program without its page, with an echo that takes its time, or fails as a lost card does
RUN = """
import functools, sys, threading, types
sys.modules["ui.blocks"] = types.SimpleNamespace(mount=lambda app, *_: app)
from engine.backends import echo
from engine.errors import DeviceLost
slow = functools.partial(echo.EchoBackend, 0.01)
def lost():
    backend = slow()
    threading.Timer(0.5, lambda: backend.fail(DeviceLost("The card is lost."))).start()
    return backend
import app
echo.EchoBackend = lost if "--lost" in sys.argv else slow
app._end(app.main([flag for flag in sys.argv[1:] if flag != "--lost"]))
"""
Program = subprocess.Popen[str]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def send(url: str, text: str = LINES) -> str:
    sent = httpx.post(f"{url}/documents", files={"file": ("book.txt", text.encode())}, data={"target_lang": "fr"})
    assert sent.status_code == 202, sent.text
    return f"{url}/documents/{sent.json()['id']}"


def done(document: str) -> bool:
    said = httpx.get(document, timeout=60).json()  # the disk is shared with other tests
    assert said["status"] != "error", said
    return bool(said["status"] == "done")


# ---------------------------------------------------------------------------------------------------------------------
# disks


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend(delay_seconds=0.01))


def test_what_a_full_disk_refuses_is_told_and_the_rest_goes_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = send(url, "A line.")
    soon(lambda: done(document))
    monkeypatch.setattr(files.os, "fsync", full)
    form = {"files": {"file": ("a.txt", b"Hello.")}, "data": {"target_lang": "fr"}}
    edited = {"text": "Une ligne."}
    refused = [
        httpx.post(f"{url}/documents", **form),  # type: ignore[arg-type]
        httpx.post(f"{url}/glossaries", json=GLOSSARY),
        httpx.patch(f"{document}/segments/0", json=edited),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (507, "not_stored")
        assert "No space left on device" in answer.json()["error"]
    assert httpx.post(f"{url}/translate", json=ASKED).status_code == 200
    assert httpx.get(f"{document}/result").text == "A line."
    monkeypatch.undo()
    assert httpx.patch(f"{document}/segments/0", json=edited).status_code == 200
    assert httpx.get(f"{document}/result").text == "Une ligne."


def test_an_upload_for_which_there_is_no_room_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(tempfile.SpooledTemporaryFile[bytes]):
        write = full  # type: ignore[assignment]

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", Full)
    large = {"files": {"file": ("a.txt", b"Hello. " * 300_000)}, "data": {"target_lang": "fr"}}
    answer = httpx.post(f"{url}/documents", **large)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (507, "not_stored")


def test_a_document_whose_disk_gets_full_ends_with_the_reason_and_goes_on_once_there_is_room(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, real = send(url), Path.open

    def opened(path: Path, *args: Any, **kwargs: Any) -> IO[Any]:
        if path.name == "segments.jsonl" and "a" in args[0]:
            full()
        return real(path, *args, **kwargs)

    soon(lambda: httpx.get(document).json()["segments_done"] > 3)
    monkeypatch.setattr(Path, "open", opened)
    soon(lambda: httpx.get(document).json()["status"] == "error")
    said = httpx.get(document, timeout=60).json()  # the disk is shared with other tests
    assert (said["code"], "No space left" in said["error"]) == ("not_stored", True)
    monkeypatch.undo()
    assert httpx.post(f"{document}/retry").status_code == 202
    soon(lambda: done(document))
    assert httpx.get(f"{document}/result").text == LINES


def test_a_document_that_cannot_be_deleted_is_told_and_stays(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = send(url, "A line.")
    soon(lambda: done(document))
    monkeypatch.setattr(Path, "rename", full)
    assert httpx.delete(document).status_code == 507
    assert httpx.get(f"{document}/result").text == "A line."
    monkeypatch.undo()
    assert httpx.delete(document).status_code == 204
    assert httpx.get(document).status_code == 404


def test_a_half_line_spoils_no_other(tmp_path: Path) -> None:
    from engine.documents.folder import Line, add_line, known_lines
    from engine.types import Segment, Translated

    parts = [Segment(index, f"Text {index}.") for index in range(3)]
    for part in parts:
        add_line(tmp_path, Line(Translated(part, text=part.text, tokens=1), "echo"), stale=False)
        with (tmp_path / "segments.jsonl").open("ab") as file:
            file.write(b'{"model": "ec')
    assert sorted(known_lines(tmp_path, parts)) == [0, 1, 2]


# ---------------------------------------------------------------------------------------------------------------------
# damage


async def shelf(path: Path) -> tuple[Documents, Glossaries]:
    translator = Translator(EchoBackend(), Scheduler(8, 64))
    documents, glossaries = Documents(translator, Metrics(), path), Glossaries(path)
    await documents.start()
    await glossaries.start()
    return documents, glossaries


async def fill(path: Path) -> None:
    """A document that is done, one edited since, one that ended in an error, one under way; and two glossaries."""
    documents, glossaries = await shelf(path)
    request = TranslationRequest("", "fr", "en", glossary=(Term("line", "ligne"),))
    jobs = [await documents.add(LINES[:400].encode(), Order(f"{name}.txt", request)) for name in "abcd"]
    while not all(job.ended for job in jobs):
        await asyncio.sleep(0.01)
    await documents.edit(jobs[1].id, 0, "Une ligne.")
    for index, name in ((2, "answer.json"), (3, "answer.json"), (3, "result")):
        (path / "documents" / jobs[index].id / name).unlink()
    (path / "documents" / jobs[2].id / "error.json").write_text('["It is wrong.", "bad_document"]')
    for name in "xy":
        await glossaries.add(name, "en", "fr", [Term(f"{name}{number}", "mot") for number in range(20)])
    await documents.close()
    await glossaries.close()


async def look(path: Path) -> int:
    """Opens all that is there as the faces do; what is wrong is a `YiwenError`, and nothing else. How much is whole."""
    documents, glossaries = await shelf(path)
    whole = 0
    try:
        for job in list(documents._jobs.values()):
            try:
                for _ in range(200):
                    if job.ended:
                        break
                    await asyncio.sleep(0.005)
                answers.DocumentAnswer.model_validate(face._answer(job))
                await documents.segments(job.id, 0, 100)
                if job.ended:
                    (await documents.result(job.id))[0].close()
                    whole += 1
            except YiwenError:
                continue
        for listed in glossaries.listed():
            try:
                whole += bool((await glossaries.get(listed.id)).terms)
            except YiwenError:
                continue
    finally:
        await documents.close()
        await glossaries.close()
    return whole


def damaged(data: bytes, dice: random.Random) -> bytes:
    kind = dice.randrange(5)
    if kind == 0:
        return data[: dice.randrange(len(data) + 1)]
    if kind == 1:
        return b""
    if kind == 2:
        return dice.choice([b"[]", b"null", b"{}", b"7", b"[" * 100_000, b'"x"', b"\xff\xfe"])
    spoilt = bytearray(data)
    for _ in range(dice.choice((1, 1, 5, 50))):
        place = dice.randrange(len(spoilt))
        spoilt[place] = spoilt[place] ^ 1 << dice.randrange(8) if kind == 3 else dice.randrange(256)
    return bytes(spoilt)


def test_whatever_file_is_damaged_the_program_starts_and_serves_the_rest(tmp_path: Path) -> None:
    good = tmp_path / "good"
    asyncio.run(fill(good))
    paths = sorted(path for path in good.rglob("*") if path.is_file() and path.name != ".lock" and path.stat().st_size)
    names = {path.name for path in paths}
    assert {"order.json", "source", "cut.jsonl", "segments.jsonl", "answer.json", "result", "error.json"} <= names
    dice = random.Random(7)
    for path in [path for path in paths for _ in range(3)]:
        bad = tmp_path / "bad"
        shutil.copytree(good, bad)
        spoilt = bad / path.relative_to(good)
        spoilt.write_bytes(damaged(path.read_bytes(), dice))
        assert asyncio.run(look(bad)) >= 4, f"{path.name}: {spoilt.read_bytes()[:300]!r}"
        shutil.rmtree(bad)


# ---------------------------------------------------------------------------------------------------------------------
# ends


def command(data: Path, *flags: str) -> list[str]:
    return [sys.executable, "-c", RUN, "--backend", "echo", "--port", "0", "--data-dir", str(data), *flags]


@contextmanager
def program(data: Path, *flags: str) -> Iterator[tuple[Program, str]]:
    with subprocess.Popen(command(data, *flags), cwd=ROOT, text=True, stderr=subprocess.PIPE) as running:
        try:
            assert running.stderr
            while "open http" not in (line := running.stderr.readline()):
                assert line
            url = line.split()[-1].rstrip("/")
            soon(lambda: _says(url, 200), seconds=45)
            yield running, url
        finally:
            running.kill()


def _says(url: str, status: int) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == status
    except httpx.TransportError:
        return False


def start_run(socket: ClientConnection, text: str) -> None:
    socket.send(json.dumps({"type": "start", "id": "r", **ASKED, "text": text}))
    while json.loads(socket.recv(9))["type"] != "delta":
        pass


def last_of(socket: ClientConnection) -> dict[str, Any]:
    while (said := json.loads(socket.recv(20)))["type"] not in ("done", "error"):
        pass
    return dict(said)


def test_asked_to_stop_it_ends_what_it_can_cuts_off_the_rest_and_goes_on_with_documents_later(tmp_path: Path) -> None:
    said: list[httpx.Response] = []
    with program(tmp_path, "--grace-seconds", "2") as (running, url):
        document = send(url, LINES * 3)
        soon(lambda: httpx.get(document).json()["segments_done"] > 5)
        fields = {**ASKED, "text": LINES * 30}
        asking = threading.Thread(target=lambda: said.append(httpx.post(f"{url}/translate", json=fields, timeout=30)))
        asking.start()
        with connect(f"ws{url[4:]}/ws/translate") as short, connect(f"ws{url[4:]}/ws/translate") as long:
            start_run(long, LINES * 30)
            start_run(short, LINES[:800])
            running.send_signal(signal.SIGTERM)
            soon(lambda: _says(url, 503))
            assert httpx.get(f"{url}/readyz").json()["status"] == "stopping"
            refused = httpx.post(f"{url}/translate", json=ASKED)
            assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
            assert refused.headers["Retry-After"] == "20"
            assert httpx.get(document).json()["status"] == "queued"
            assert last_of(short)["type"] == "done"
            assert last_of(long)["code"] == "backend_failed"
        asking.join(20)
        assert (said[0].status_code, said[0].json()["code"]) == (503, "backend_failed")
        assert running.wait(20) == 0
    with program(tmp_path) as (_, url):
        document = f"{url}/documents/{document.rpartition('/')[2]}"
        soon(lambda: done(document), seconds=30)
        assert httpx.get(f"{document}/result").text == LINES * 3


def test_a_second_wish_to_stop_is_obeyed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    server = Server(uvicorn.Config(lambda: None), Ending(60, lambda: None, lambda: True, nothing))
    server.handle_exit(signal.SIGINT, None)
    assert ended == []
    server.handle_exit(signal.SIGINT, None)
    assert ended == [AT_ONCE]


def test_a_lost_card_ends_the_program_with_a_status_of_its_own(tmp_path: Path) -> None:
    ended = subprocess.run(command(tmp_path, "--lost"), cwd=ROOT, text=True, capture_output=True, timeout=90)
    assert ended.returncode == 75
    assert ended.stderr.splitlines()[-1] == "yiwen: The card is lost."


@pytest.mark.timeout(300)  # seconds, for a disk that is slow to confirm
def test_killed_under_load_it_has_lost_nothing_that_it_had_confirmed(tmp_path: Path) -> None:
    kept = Kept()
    with program(tmp_path) as (running, url):
        load = [threading.Thread(target=kept.load, args=(url, running)) for _ in range(3)]
        for each in load:
            each.start()
        soon(lambda: len(kept.edits) > 3)
        running.kill()
        running.wait()
        for each in load:
            each.join(20)
    with program(tmp_path) as (_, url):
        kept.check(url)


class Kept:
    """What was confirmed: documents with their texts, edits, glossaries."""

    def __init__(self) -> None:
        self.documents: dict[str, str] = {}
        self.edits: dict[str, str] = {}
        self.glossaries: dict[str, int] = {}

    def load(self, url: str, running: Program) -> None:
        """Until the program is killed."""
        dice = random.Random()
        with httpx.Client(base_url=url, timeout=20) as client:
            while running.poll() is None:
                try:
                    terms = {f"term {number}": "mot" for number in range(dice.randint(1, 300))}
                    added = client.post("/glossaries", json={**GLOSSARY, "glossary": terms})
                    if added.status_code == 201:
                        self.glossaries[added.json()["id"]] = len(terms)
                    text = "\n".join(LINES.split("\n")[: dice.randint(1, 12)])
                    sent = client.post(
                        "/documents", files={"file": ("a.txt", text.encode())}, data={"target_lang": "fr"}
                    )
                    if sent.status_code == 202:
                        self.documents[sent.json()["id"]] = text
                    for document_id in dice.sample(sorted(self.documents), min(3, len(self.documents))):
                        words = f"Edit {dice.random()}."
                        if client.patch(f"/documents/{document_id}/segments/0", json={"text": words}).is_success:
                            self.edits[document_id] = words
                except httpx.TransportError:
                    return

    def check(self, url: str) -> None:
        listed = httpx.get(f"{url}/glossaries", timeout=60).json()
        found = {one["id"]: one["term_count"] for one in (listed["glossaries"] if isinstance(listed, dict) else listed)}
        assert self.glossaries.items() <= found.items()
        for document_id, text in self.documents.items():
            document = f"{url}/documents/{document_id}"
            soon(lambda document=document: done(document), seconds=90)  # type: ignore[misc]
            said = httpx.get(f"{document}/result", timeout=60).text
            first, _, rest = text.partition("\n")
            got, _, more = said.partition("\n")
            assert more == rest
            assert got == first or got.startswith("Edit ")
            if words := self.edits.get(document_id):
                assert got.startswith("Edit "), words
