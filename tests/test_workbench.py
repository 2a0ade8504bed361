"""A document's segments over a real socket: looked at, mended by hand, translated again, and packed with others."""

import asyncio
import io
import json
import shutil
import time
import zipfile
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import IO, Any
from xml.etree import ElementTree

import httpx
import polib
import pytest

from engine.backends.echo import EchoBackend
from engine.documents import read as reader
from engine.documents import store
from engine.documents.file import Options
from engine.documents.pace import Pace
from engine.documents.read import KINDS, read
from engine.errors import BackendError
from engine.files import write_whole
from engine.markup import markdown_writing
from engine.markup.verify import skeleton, unordered
from engine.types import Prompt, TokenChunk
from tests.archives import zipped
from tests.conftest import Serve, soon
from tests.test_documents import SLOW, Shouts, ended, send, status_of, translated
from tests.test_epub import PARTS
from tests.test_office import a_report, a_workbook, slides
from tests.test_xliff import NEW

PAGE = b'<p>The <b>river</b> is <img src="b.png"> wide.</p>\n<p>See <img src="a.png"/> here.</p>'
TEXT = b"One.\n\nTwo.\n\nThree.\n"


class Odd(Shouts):
    """Says nothing to what is `silent`, fails where `broken`, and says each time it is asked which time that was."""

    silent: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    waits = 0.0  # seconds before it answers

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        if any(word in prompt.source for word in self.broken):
            raise BackendError("The card is busy.")
        if any(word in prompt.source for word in self.silent):
            yield TokenChunk("", 0, "stop")
            return
        async for chunk in super().stream(prompt):
            await asyncio.sleep(self.waits)
            if chunk.finish:
                yield TokenChunk(f" ({self.asked})")
            yield chunk


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(Shouts())


def done(url: str, name: str, data: bytes, **fields: Any) -> str:
    """The id of a document that is translated."""
    answer = send(url, name, data, **fields)
    assert answer.status_code == 202, answer.text
    assert ended(url, answer.json()["id"])["status"] == "done"
    return str(answer.json()["id"])


def listed(url: str, document_id: str, **asked: Any) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/documents/{document_id}/segments", params=asked, timeout=20)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["segments"]
    return found


def edit(url: str, document_id: str, index: object, text: object) -> httpx.Response:
    return httpx.patch(f"{url}/documents/{document_id}/segments/{index}", json={"text": text}, timeout=20)


def retry(url: str, document_id: str, index: int | None = None) -> httpx.Response:
    place = "" if index is None else f"/segments/{index}"
    return httpx.post(f"{url}/documents/{document_id}{place}/retry", timeout=20)


def result(url: str, document_id: str) -> bytes:
    answer = httpx.get(f"{url}/documents/{document_id}/result", timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.content


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# ---------------------------------------------------------------------------------------------------------------------
# looked at


def test_a_document_says_what_it_is(url: str) -> None:
    status = status_of(url, done(url, "Page.HTML", PAGE))
    assert (status["kind"], status["size_bytes"]) == ("html", len(PAGE))
    assert abs(status["created"] - time.time()) < 60
    assert (status["segments_warned"], status["edited"]) == (0, 0)
    assert (status["tokens_per_second"], status["seconds_left"]) == (0, None)


def test_segments_show_their_marks_and_what_those_stand_for(url: str) -> None:
    first, second = listed(url, done(url, "page.html", PAGE))
    assert first == {
        "index": 0,
        "source": "The <s1>river</s1> is <s2></s2> wide.",
        "text": "THE <s1>RIVER</s1> IS <s2></s2> WIDE.",
        "warnings": [],
        "edited": False,
        "marks": {"<s1>": "<b>", "<s2></s2>": '<img src="b.png">'},
    }
    assert second["marks"] == {"<s1></s1>": '<img src="a.png"/>'}


def test_segments_come_page_by_page_and_by_their_words(url: str) -> None:
    document_id = done(url, "a.txt", b"\n".join(b"This is line %d." % number for number in range(12)))
    answer = httpx.get(f"{url}/documents/{document_id}/segments", params={"from": 9, "count": 2}).json()
    assert (answer["total"], [one["index"] for one in answer["segments"]]) == (12, [9, 10])
    assert listed(url, document_id, **{"from": 100}) == []
    assert [one["index"] for one in listed(url, document_id, q="LiNe 1")] == [1, 10, 11]
    assert listed(url, document_id, only="warnings") == []
    assert [one["index"] for one in listed(url, done(url, "b.html", PAGE), q="the river is")] == [0]


@pytest.mark.parametrize(
    "asked",
    [
        *({"from": said} for said in ("-1", "x", "00", "0" * 10 + "1", "1" * 11, "٣", "1\n")),
        *({"count": said} for said in ("0", "501", "01")),
        {"only": "done"},
        {"q": "a" * 1001},
    ],
)
def test_a_page_that_cannot_be_is_refused_in_a_sentence(url: str, asked: dict[str, str]) -> None:
    answer = httpx.get(f"{url}/documents/{done(url, 'a.txt', TEXT)}/segments", params=asked)
    assert code_of(answer) == (422, "invalid_request")
    assert answer.json()["error"].startswith(next(iter(asked)))


def test_all_warnings_are_reachable_though_the_answer_tells_a_hundred(serve: Serve) -> None:
    backend = Odd()
    backend.silent = ("bad",)
    url = serve(backend)
    lines = ["A good line.", "A bad line."] * 120
    document_id = done(url, "a.txt", "\n".join(lines).encode())
    status = status_of(url, document_id)
    assert (status["segments_warned"], len(status["warnings"])) == (120, 101)
    assert status["warnings"][-1]["message"] == "There are 20 more warnings like these."
    found = listed(url, document_id, only="warnings", count=500)
    assert [one["index"] for one in found] == list(range(1, 240, 2))
    assert {one["warnings"][0]["code"] for one in found} == {"empty"}


def test_a_book_is_listed_while_it_is_translated_and_mended_where_it_has_a_text(serve: Serve) -> None:
    url = serve(EchoBackend(delay_seconds=SLOW, segment_tokens=8))
    text = "\n".join(f"This is line {number} of it." for number in range(20_000))
    document_id = send(url, "book.txt", text.encode()).json()["id"]
    soon(lambda: status_of(url, document_id)["segments_done"] > 2, seconds=20)
    first, *_, last = listed(url, document_id, count=500)
    assert (first["text"], last["text"]) == ("This is line 0 of it.", None)
    (last,) = listed(url, document_id, **{"from": 19_999})
    assert (last["source"], last["text"]) == ("This is line 19999 of it.", None)
    assert [one["index"] for one in listed(url, document_id, q="line 1234 ")] == [1234]
    assert edit(url, document_id, 0, "By hand.").json()["edited"]
    assert code_of(edit(url, document_id, 19_999, "By hand.")) == (409, "document_not_ready")
    assert code_of(retry(url, document_id)) == (409, "document_not_ready")
    soon(lambda: status_of(url, document_id)["seconds_left"] is not None)
    status = status_of(url, document_id)
    assert status["tokens_per_second"] > 10
    assert 10 < status["seconds_left"] < 100_000
    assert (status["segments_total"], status["edited"]) == (20_000, 1)
    assert httpx.delete(f"{url}/documents/{document_id}").status_code == 204


def test_pace_is_told_of_the_last_seconds() -> None:
    clock = [0.0]
    pace = Pace(lambda: clock[0])
    pace.add(5, 10)
    assert pace.seconds_left(100) is None
    for clock[0] in range(1, 21):
        pace.add(tokens=30, work=10)
    assert pace.tokens_per_second() == pytest.approx(30, rel=0.15)
    assert pace.seconds_left(100) == pytest.approx(10, rel=0.1)
    clock[0] = 200.0
    assert (pace.tokens_per_second(), pace.seconds_left(100)) == (0, None)


# ---------------------------------------------------------------------------------------------------------------------
# by hand


def test_what_is_edited_stands_in_the_result_at_once(url: str) -> None:
    document_id = done(url, "page.html", PAGE)
    answer = edit(url, document_id, 0, "  Large de <s2></s2> est <s1>la rivière</s1>. ")
    assert answer.status_code == 200, answer.text
    assert answer.json() == listed(url, document_id)[0]
    assert (answer.json()["edited"], answer.json()["text"]) == (True, "Large de <s2></s2> est <s1>la rivière</s1>.")
    assert listed(url, document_id, only="edited") == [answer.json()]
    assert '<p>Large de <img src="b.png"> est <b>la rivière</b>.</p>'.encode() in result(url, document_id)
    assert status_of(url, document_id)["edited"] == 1
    edit(url, document_id, 0, "Once <s1>more</s1> & <s2></s2>.")
    assert b'<p>Once <b>more</b> &amp; <img src="b.png">.</p>' in result(url, document_id)


BAD = [
    ("   ", "The text is empty"),
    ("\u200b\u00ad \u2060\u3164", "The text is empty"),
    ("Wide is the <s1>river</s1>.", "The text lacks <s2></s2>"),
    ("Wide is <s2></s2> the river.", "The text lacks <s1>…</s1>"),
    ("Wide <s2></s2><s1>river.", "must each be there once"),
    ("<s1>Wide</s1> <s1>river</s1> <s2></s2>.", "must each be there once"),
    ("Wide <s1></s1>river <s2></s2>.", "around words"),
    ("Wide <s1>the <s2></s2> river</s1>", "lie in each other as they do in the source"),
    ("Wide <s1>river</s1> <s2></s2> <s7>.", "The text has <s7>, which its source has not"),
    ("Wide <s1>river</s1> <s2></s2> </ S 1>.", "The text has </ S 1>, which"),
    ("Wide\n<s1>river</s1> <s2></s2>.", "one line of text"),
    ("Wide \0<s1>river</s1> <s2></s2>.", "U+0000"),
    ("Wide \ud800<s1>river</s1> <s2></s2>.", "Half a character"),
    (7, "text must be a string"),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_a_text_that_does_not_fit_is_refused_in_a_sentence_and_the_old_one_stays(
    url: str, text: object, said: str
) -> None:
    document_id = done(url, "page.html", PAGE)
    body = json.dumps({"text": text})
    answer = httpx.patch(f"{url}/documents/{document_id}/segments/0", content=body)
    assert code_of(answer) == (422, "invalid_request")
    assert said in answer.json()["error"]
    assert listed(url, document_id)[0]["text"] == "THE <s1>RIVER</s1> IS <s2></s2> WIDE."


@pytest.mark.parametrize("index", ["2", "99999999999", "x", "-1"])
def test_a_segment_that_is_not_there_is_not_found(url: str, index: str) -> None:
    document_id = done(url, "page.html", PAGE)
    for answer in (
        edit(url, document_id, index, "x"),
        httpx.post(f"{url}/documents/{document_id}/segments/{index}/retry"),
    ):
        assert code_of(answer) in [(404, "no_such_segment"), (422, "invalid_request")]
    assert code_of(edit(url, "x", 0, "x")) == (404, "no_such_document")
    assert code_of(edit(url, document_id, 0, "x" * 20_001)) == (413, "text_too_long")
    assert code_of(edit(url, document_id, 0, "x" * 500_000)) == (413, "text_too_long")


def test_a_text_that_would_break_the_structure_is_refused(url: str) -> None:
    document_id = done(url, "a.md", b"| a b | c |\n|---|---|\n| d e | f |\n\nA [link here](x) and text.\n")
    segments = listed(url, document_id)
    for one in segments:
        answer = edit(url, document_id, one["index"], one["text"].replace("T", "| `` <!-- <b> T"))
        if answer.status_code != 200:
            assert "cannot be written with this text and the structure" in answer.json()["error"]
    kept = result(url, document_id).decode()
    source = "| a b | c |\n|---|---|\n| d e | f |\n\nA [link here](x) and text.\n"
    assert unordered(skeleton("markdown", kept)) == unordered(skeleton("markdown", source))


@pytest.mark.parametrize("reach", [60_000, 0])
def test_what_could_not_be_written_is_listed_with_its_source_and_mended_by_hand(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, reach: int
) -> None:
    real = markdown_writing.write
    monkeypatch.setattr(
        markdown_writing, "write", lambda block, text: block.source if "BAD" in text else real(block, text)
    )
    monkeypatch.setattr(reader, "WHOLE_CHARACTERS", reach)
    monkeypatch.setattr(reader, "BLOCKS_AROUND", 1)
    url = serve(Shouts())
    source = b'# A head\n\nA *good* line. And [a link](x "A title").\n\nA bad line. Another.\n\n- The end\n'
    document_id = done(url, "a.md", source)
    (warning,) = status_of(url, document_id)["warnings"]
    assert (warning["code"], warning["segment"]) == ("source_kept", None)
    (kept,) = listed(url, document_id, only="warnings")
    assert (kept["text"], kept["warnings"][0]["code"]) == ("A bad line. Another.", "source_kept")
    assert b"\n\nA bad line. Another.\n\n" in result(url, document_id)
    assert retry(url, document_id, kept["index"]).json()["warnings"][0]["code"] == "source_kept"
    refused = edit(url, document_id, kept["index"], "BAD AS BEFORE.")
    assert code_of(refused) == (422, "invalid_request")
    assert "cannot be written with this text" in refused.json()["error"]
    for one in listed(url, document_id):
        assert edit(url, document_id, one["index"], f"{one['text']} ({one['index']})").status_code == 200
    assert result(url, document_id).decode() == (
        '# A HEAD (0)\n\nA *GOOD* LINE. AND [A LINK](x "A TITLE (1)"). (2)\n\n'
        "A bad line. Another. (3)\n\n- THE END (4)\n"
    )
    assert status_of(url, document_id)["warnings"] == []


def test_an_edit_clears_warnings_and_the_answer_keeps_step(serve: Serve) -> None:
    backend = Odd()
    backend.silent = ("bad",)
    url = serve(backend)
    document_id = done(url, "a.txt", b"A good river.\nA bad river.\n", glossary='{"river": "FLEUVE"}')
    before = status_of(url, document_id)
    assert {warning["code"] for warning in before["warnings"]} == {"empty", "term_missed"}
    assert (before["terms"][0]["count"], before["terms"][0]["applied"], before["segments_warned"]) == (1, 0, 2)
    edited = edit(url, document_id, 1, "Un mauvais fleuve.").json()
    assert (edited["warnings"], edited["edited"]) == ([], True)
    after = status_of(url, document_id)
    assert [warning["segment"] for warning in after["warnings"]] == [0]
    assert (after["terms"][0]["count"], after["terms"][0]["applied"], after["segments_warned"]) == (2, 1, 1)
    assert after["usage"]["output_tokens"] == before["usage"]["output_tokens"]


def test_edits_outlive_the_program(serve: Serve, tmp_path: Path) -> None:
    url = serve(Shouts(), data_dir=tmp_path)
    document_id = done(url, "a.txt", TEXT)
    edit(url, document_id, 1, "Zwei.")
    result(url, document_id)
    edit(url, document_id, 2, "Drei.")
    serve.stop(last=True)
    (lines,) = tmp_path.glob("documents/*/segments.jsonl")
    with lines.open("a") as torn:  # as a kill would leave it
        torn.write('{"model": "", "segm')
    backend = Shouts()
    url = serve(backend, data_dir=tmp_path)
    soon(lambda: status_of(url, document_id)["edited"] == 2)
    assert result(url, document_id) == b"ONE.\n\nZwei.\n\nDrei.\n"
    assert [one["edited"] for one in listed(url, document_id)] == [False, True, True]
    assert edit(url, document_id, 0, "Eins.").status_code == 200
    assert retry(url, document_id, 1).json()["text"] == "TWO."
    assert result(url, document_id) == b"Eins.\n\nTWO.\n\nDrei.\n"
    assert backend.asked == 2  # and the self-test


def test_what_was_edited_is_never_asked_for_again(serve: Serve, tmp_path: Path) -> None:
    url = serve(Shouts(delay_seconds=SLOW), data_dir=tmp_path)
    document_id = send(url, "book.txt", b"This is a line of it.\n" * 100).json()["id"]
    soon(lambda: status_of(url, document_id)["segments_done"] > 10)
    assert edit(url, document_id, 3, "By hand.").status_code == 200
    serve.stop(last=True)
    backend = Shouts()
    backend.info = replace(backend.info, name="other")
    url = serve(backend, data_dir=tmp_path)
    assert ended(url, document_id)["model"] == "other"
    assert backend.asked == 100  # all but one, and the self-test
    assert result(url, document_id).split(b"\n")[3] == b"By hand."


def test_a_document_that_another_model_would_cut_otherwise_can_still_be_mended(serve: Serve, tmp_path: Path) -> None:
    url = serve(Shouts(segment_tokens=200), data_dir=tmp_path)
    document_id = done(url, "a.txt", b"One is here. Two is there. Three is gone.\n")
    serve.stop(last=True)
    url = serve(Shouts(segment_tokens=4), data_dir=tmp_path)
    assert len(listed(url, document_id)) == 1
    assert edit(url, document_id, 0, "All in one.").status_code == 200
    assert result(url, document_id) == b"All in one.\n"


# ---------------------------------------------------------------------------------------------------------------------
# translated again


def test_a_segment_is_translated_again_and_the_result_has_it(serve: Serve) -> None:
    url = serve(Odd())
    document_id = done(url, "page.html", PAGE)
    before = listed(url, document_id)[0]
    tokens = status_of(url, document_id)["usage"]["output_tokens"]
    after = retry(url, document_id, 0).json()
    assert (after["index"], after["source"], after["edited"]) == (0, before["source"], False)
    assert after["text"] != before["text"]
    assert after["text"].split(" (")[1].encode() in result(url, document_id)
    assert status_of(url, document_id)["usage"]["output_tokens"] > tokens


def test_what_failed_is_retried_and_what_was_edited_is_not(serve: Serve) -> None:
    backend = Odd()
    backend.silent = ("bad",)
    url = serve(backend)
    document_id = done(url, "a.txt", b"Good one.\nBad bad one.\nA bad two.\n")
    assert edit(url, document_id, 2, "By hand.").status_code == 200
    good = listed(url, document_id)[0]
    backend.silent = ()
    asked = backend.asked
    answer = retry(url, document_id)
    assert (answer.status_code, answer.json()["id"]) == (202, document_id)
    status = ended(url, document_id)
    assert (status["status"], status["warnings"], backend.asked) == ("done", [], asked + 1)
    first, second, third = listed(url, document_id)
    assert (first, third["text"]) == (good, "By hand.")
    assert second["text"].startswith("BAD BAD ONE.")
    assert result(url, document_id).startswith(first["text"].encode() + b"\nBAD BAD ONE.")
    assert retry(url, document_id).json()["status"] == "done"  # nothing is left to be retried


@pytest.mark.parametrize("cut", ["kept", "gone", "torn"])
def test_what_failed_is_retried_after_a_restart(serve: Serve, tmp_path: Path, cut: str) -> None:
    backend = Odd()
    backend.silent = ("Two",)
    url = serve(backend, data_dir=tmp_path)
    document_id = done(url, "a.txt", TEXT, glossary='{"Two": "DEUX"}')
    serve.stop(last=True)
    path = tmp_path / "documents" / document_id / "cut.jsonl"
    if cut == "gone":  # as an older Yiwen has left it
        path.unlink()
    elif cut == "torn":
        path.write_bytes(path.read_bytes()[:-20])
    url = serve(Shouts(), data_dir=tmp_path)
    assert retry(url, document_id).status_code == 202
    assert ended(url, document_id)["terms"][0]["count"] == 1
    assert [one["text"][:4] for one in listed(url, document_id)] == ["ONE.", "TWO.", "THRE"]


def test_a_document_in_error_goes_on_where_it_stood(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", ())
    backend = Odd(slots=1)
    backend.broken = ("Three",)
    url = serve(backend, slots=1, data_dir=tmp_path)
    document_id = send(url, "a.txt", TEXT).json()["id"]
    assert ended(url, document_id)["status"] == "error"
    assert [one["text"] is None for one in listed(url, document_id)] == [False, False, True]
    assert edit(url, document_id, 1, "Zwei.").status_code == 200
    for path in (f"{document_id}/result", f"zip?id={document_id}"):
        answer = httpx.get(f"{url}/documents/{path}")
        assert code_of(answer) == (409, "document_not_ready")
        assert answer.json()["error"] == "'a.txt' was not translated: The card is busy."
    serve.stop(last=True)
    backend = Odd()
    url = serve(backend, data_dir=tmp_path)
    soon(lambda: status_of(url, document_id)["edited"] == 1)
    assert retry(url, document_id).status_code == 202
    assert ended(url, document_id)["status"] == "done"
    assert backend.asked == 2  # and the self-test
    assert result(url, document_id).split(b"\n")[2] == b"Zwei."


def test_a_retry_that_fails_leaves_all_as_it_was_and_says_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", ())
    backend = Odd()
    backend.silent = ("bad",)
    url = serve(backend)
    document_id = done(url, "a.txt", b"Good one.\nA bad one.\n")
    before = result(url, document_id)
    backend.broken = ("bad",)
    assert code_of(retry(url, document_id, 1)) == (503, "backend_failed")
    retry(url, document_id)
    soon(lambda: status_of(url, document_id).get("error") == "The card is busy.")
    assert (status_of(url, document_id)["status"], result(url, document_id)) == ("done", before)


@pytest.mark.parametrize("index", [0, None])
def test_deleting_ends_a_retry(serve: Serve, index: int | None) -> None:
    backend = Odd()
    backend.silent = ("One",)
    url = serve(backend)
    document_id = done(url, "a.txt", TEXT)
    backend.silent, backend.waits = (), 5
    with ThreadPoolExecutor(1) as asking:
        answer = asking.submit(retry, url, document_id, index)
        soon(lambda: backend.running > 0)
        assert httpx.delete(f"{url}/documents/{document_id}").status_code == 204
        assert answer.result().status_code == (202 if index is None else 404)
    soon(lambda: backend.running == 0)


# ---------------------------------------------------------------------------------------------------------------------
# every kind


SUBTITLES = (
    b"1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>One</i> two.\r\n\r\n2\r\n00:00:03,000 --> 00:00:04,000\r\nThree.\r\n"
)
FILES = {
    "a.txt": TEXT,
    "b.md": b"# One *two*\n\n- A list of %s\n- [A link](x)\n",
    "c.html": PAGE,
    "d.srt": SUBTITLES,
    "e.vtt": b"WEBVTT\n\n" + SUBTITLES.replace(b",000", b".000").replace(b"\r\n", b"\n"),
    "f.json": b'{"id": "a b", "say": "One {x} two"}',
    "g.po": b'msgid ""\nmsgstr ""\n\nmsgid "One %s"\nmsgstr ""\n',
    "h.xlf": NEW.encode(),
    "i.docx": a_report(),
    "j.pptx": slides(),
    "k.xlsx": a_workbook(),
    "l.epub": zipped(PARTS),
}
HOSTILE = '"q" & <b> ]]> \\n {{x}} %d --> `c` *e* | é译.'


def words_of(name: str, data: bytes) -> str:
    """What another reader, or ours, reads in a file."""
    match name.rpartition(".")[2]:
        case "po":
            return "\n".join(entry.msgstr for entry in polib.pofile(data.decode()))
        case "xlf":
            return "".join(ElementTree.fromstring(data).itertext())
        case "json":
            return "\n".join(json.loads(data).values())
    return "\n".join(block.text for block in read(name, data, Options()).blocks)


@pytest.mark.parametrize("name", FILES)
def test_a_result_with_a_text_by_hand_is_a_file_of_its_kind(url: str, name: str) -> None:
    document_id = done(url, name, FILES[name], retranslate="true")
    segments = listed(url, document_id, count=500)
    one = max(segments, key=lambda each: len(each["marks"]))
    answer = edit(url, document_id, one["index"], f"{one['text']} Byhand {HOSTILE}")
    if answer.status_code != 200:  # Markdown, where that would be markup
        assert "cannot be written" in answer.json()["error"]
        answer = edit(url, document_id, one["index"], f"{one['text']} Byhand")
    assert answer.status_code == 200, answer.text
    data = result(url, document_id)
    assert "Byhand" in words_of(name, data)
    if name not in ("g.po", "h.xlf"):
        blocks = [len(read(name, each, Options()).blocks) for each in (FILES[name], data)]
        assert blocks[0] == blocks[1]


def test_every_family_of_kinds_is_mended_here() -> None:
    assert {name[1:] for name in FILES} >= set(KINDS) - {
        *(".markdown", ".htm", ".pot", ".xliff", ".docm", ".pptm", ".xlsm")
    }


# ---------------------------------------------------------------------------------------------------------------------
# zips


def test_results_are_packed_under_names_of_their_own(url: str) -> None:
    ids = [done(url, name, TEXT) for name in ("a.txt", "A.TXT", "a.txt")]
    edit(url, ids[2], 0, "Eins.")
    answer = httpx.get(f"{url}/documents/zip", params={"id": [*ids, ids[0]]})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/zip")
    assert "translations.zip" in answer.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.namelist() == ["a.fr.txt", "A.fr (2).TXT", "a.fr (3).txt"]
        assert packed.read("a.fr (3).txt") == b"Eins.\n\nTWO.\n\nTHREE.\n"
        assert packed.testzip() is None


def test_a_result_is_whole_while_it_is_edited_and_deleted(url: str) -> None:
    document_id = done(url, "a.txt", b"\n" * 30_000 + b"The end.\n")
    address = f"{url}/documents/{document_id}"

    def get() -> httpx.Response:
        answer = httpx.get(f"{address}/result", timeout=20)
        time.sleep(0.01)
        return answer

    with ThreadPoolExecutor(6) as asking:
        answers = []
        for number in range(30):
            asking.submit(edit, url, document_id, 0, "The end." * (number % 7 + 1))
            answers += [asking.submit(get) for _ in range(3)]
        answers[50].result()
        assert httpx.delete(address).status_code == 204
    for answer in (each.result() for each in answers):
        assert answer.status_code in (200, 404)
        assert answer.content.lower().endswith(b"end.\n") or answer.json()["code"] == "no_such_document"


def test_a_full_disk_is_told_everywhere(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = serve(Shouts(), data_dir=tmp_path)
    document_id = done(url, "a.txt", TEXT)
    edit(url, document_id, 0, "Eins.")
    full, write = set[str](), write_whole

    def refuses(path: Path, data: bytes) -> None:
        if path.name in full:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr("engine.documents.folder.write_whole", refuses)
    full |= {"source"}
    refused = send(url, "b.txt", TEXT)
    assert code_of(refused) == (507, "not_stored")
    assert "(No space left on device)" in refused.json()["error"]
    assert [path.name for path in tmp_path.glob("documents/*/")] == [document_id]
    full |= {"result"}
    assert code_of(httpx.get(f"{url}/documents/{document_id}/result")) == (507, "not_stored")
    full -= {"source"}
    other = send(url, "b.txt", b"12\n").json()["id"]
    assert ended(url, other)["code"] == "not_stored"
    full |= {"cut.jsonl", "error.json"}
    failed = send(url, "c.txt", TEXT).json()["id"]
    assert (ended(url, failed)["status"], status_of(url, failed)["code"]) == ("error", "not_stored")
    full.clear()
    assert result(url, document_id) == b"Eins.\n\nTWO.\n\nTHREE.\n"
    assert result(url, other) == b"12\n"
    monkeypatch.setattr(shutil, "copyfileobj", lambda *_: refuses(tmp_path / "zip", b""))
    full |= {"zip"}
    assert code_of(httpx.get(f"{url}/documents/zip", params={"id": document_id})) == (507, "not_stored")


def test_who_leaves_stops_the_zip_and_the_retry(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, packing, copied = Odd(), Barrier(2), shutil.copyfileobj
    url = serve(backend)
    document_id = done(url, "a.txt", TEXT)
    ended_with = list[Exception]()

    def copy(source: IO[bytes], target: IO[bytes]) -> None:
        packing.wait(9)
        soon(lambda: source.closed)
        try:
            copied(source, target)
        except ValueError as error:
            ended_with.append(error)
            raise

    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as asking:
        patched.setattr(shutil, "copyfileobj", copy)
        left = asking.submit(httpx.get, f"{url}/documents/zip", params={"id": document_id}, timeout=1)
        packing.wait(9)
        assert isinstance(left.exception(), httpx.ReadTimeout)
        soon(lambda: bool(ended_with))
    assert httpx.get(f"{url}/documents/zip", params={"id": document_id}).status_code == 200
    backend.waits = 5
    cancelled, before = backend.cancelled, listed(url, document_id)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/documents/{document_id}/segments/0/retry", timeout=0.5)
    soon(lambda: backend.running == 0 and backend.cancelled > cancelled)
    assert listed(url, document_id) == before


def test_a_zip_of_what_is_not_there_is_refused(url: str, serve: Serve) -> None:
    assert code_of(httpx.get(f"{url}/documents/zip")) == (422, "invalid_request")
    assert code_of(httpx.get(f"{url}/documents/zip", params={"id": ["x"]})) == (404, "no_such_document")
    many = {"id": [str(number) for number in range(101)]}
    assert code_of(httpx.get(f"{url}/documents/zip", params=many)) == (422, "invalid_request")
    slow = serve(EchoBackend(delay_seconds=5), tested=False)
    early = send(slow, "a.txt", TEXT).json()["id"]
    answer = httpx.get(f"{slow}/documents/zip", params={"id": [early]})
    assert code_of(answer) == (409, "document_not_ready")
    assert "'a.txt' is not ready" in answer.json()["error"]


def test_a_document_of_no_words_has_no_segments(url: str) -> None:
    document_id = done(url, "a.txt", b"12\n")
    assert httpx.get(f"{url}/documents/{document_id}/segments").json() == {"total": 0, "segments": []}
    assert code_of(edit(url, document_id, 0, "x")) == (404, "no_such_segment")
    assert translated(url, "a.txt", b"12\n").content == b"12\n"


def test_a_document_in_its_target_already_stays_as_it_is(url: str) -> None:
    french = b"Le chat dort sur la chaise. Il est tard, et la nuit tombe.\n\nLa porte est ouverte depuis hier.\n"
    document_id = done(url, "a.md", french, source_lang="auto")
    assert [warning["code"] for warning in status_of(url, document_id)["warnings"]] == ["same_language"]
    assert result(url, document_id) == french
    assert listed(url, document_id) == []
    assert retry(url, document_id).json()["status"] == "done"
