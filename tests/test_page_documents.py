"""Documents on the page, in a real browser on the real server, with a backend that says the source in capitals."""

import asyncio
import base64
import io
import re
import zipfile
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docx
import httpx
import openpyxl
import polib
import pptx
import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, FilePayload, Locator, Page, expect

from engine.documents import store
from engine.errors import BackendError
from engine.types import Prompt, TokenChunk
from tests.archives import unzipped, zipped
from tests.conftest import Serve, soon
from tests.studio import Studio, a_studio
from tests.test_documents import Shouts
from tests.test_epub import PARTS

SLOW_SECONDS = 0.25
LINES = 20_000
WORD = "The river is wide."
SAID = "THE RIVER IS WIDE."
UNIT = (
    '<?xml version="1.0"?><xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2"><file original="a" '
    f'source-language="en" datatype="plaintext"><body><trans-unit id="1"><source>{WORD}</source></trans-unit></body>'
    "</file></xliff>"
)
TEXTS = {  # a file's name → what is in it
    "a.txt": WORD,
    "b.md": f"# A *title*\n\n{WORD}\n",
    "c.html": f"<p>{WORD}</p>",
    "d.srt": f"1\n00:00:01,000 --> 00:00:02,000\n{WORD}\n",
    "e.vtt": f"WEBVTT\n\n00:01.000 --> 00:02.000\n{WORD}\n",
    "f.json": f'{{"say": "{WORD}"}}',
    "g.po": f'msgid ""\nmsgstr ""\n\nmsgid "{WORD}"\nmsgstr ""\n',
    "h.xlf": UNIT,
}
UNDER_WAY = re.compile(r"Translating….* of 64 segments", re.DOTALL)
# All of those dropped on the zone at once, as from a file manager.
DROP = """(zone, files) => {
  const transfer = new DataTransfer();
  const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  for (const [name, text] of files) transfer.items.add(new File([bytes(text)], name));
  zone.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""

pytestmark = pytest.mark.timeout(60, func_only=True)  # the fixtures start a browser and a server once


class Clerk(Shouts):
    """Takes long over what is slow, and while it is `held` longer; is cut off at what is long the first time, fails at
    what is broken until mended."""

    broken = True
    held = False

    def __init__(self) -> None:
        super().__init__()
        self.cut: set[str] = set()
        self.prompts: list[str] = []

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.prompts.append(prompt.text)
        if "Slow" in prompt.source:
            await asyncio.sleep(SLOW_SECONDS)
            while self.held:
                await asyncio.sleep(SLOW_SECONDS)
        if "Broken" in prompt.source and self.broken:
            raise BackendError("The model is out for lunch; try again later.")
        cut = "Long" in prompt.source and prompt.source not in self.cut
        async for chunk in super().stream(prompt):
            yield replace(chunk, finish="length") if chunk.finish and cut else chunk
        self.cut.add(prompt.source)


@pytest.fixture(scope="module")
def clerk() -> Clerk:
    return Clerk()


@pytest.fixture(scope="module")
def address(serve: Serve, clerk: Clerk) -> str:
    return serve(clerk, page=True)


@pytest.fixture
def studio(desk: BrowserContext, address: str) -> Iterator[Studio]:
    """At its documents, of which there are none."""
    with a_studio(desk, address) as studio:
        studio.open("#documents")
        yield studio
        studio.page.evaluate("localStorage.clear()")


def send(page: Page, *files: tuple[str, str | bytes]) -> None:
    contents = [(name, text.encode() if isinstance(text, str) else text) for name, text in files]
    page.locator("#yw-file").set_input_files(
        [FilePayload(name=name, mimeType="", buffer=content) for name, content in contents]
    )


def row(page: Page, name: str) -> Locator:
    return page.locator(".yw-doc", has_text=name)


def press(page: Page, name: str, words: str) -> None:
    if words in ("Remove", "Cancel"):
        page.once("dialog", lambda dialog: dialog.accept())  # asked where a translation would be lost
    row(page, name).get_by_role("button", name=words, exact=True).click()


def done(page: Page, name: str) -> Locator:
    expect(row(page, name)).to_contain_text("Done")
    return row(page, name)


def download(page: Page, name: str, folder: Path) -> Path:
    with page.expect_download() as coming:
        done(page, name).get_by_role("link", name="Download").click()
    path = folder / coming.value.suggested_filename
    coming.value.save_as(path)
    return path


def segments(page: Page, name: str) -> Locator:
    """The rows of its segments, once it is done."""
    done(page, name)
    press(page, name, "Segments")
    expect(page.locator("#yw-seg-count")).to_contain_text("segment")
    return page.locator("#yw-segs tr[aria-rowindex]")


def office() -> dict[str, bytes]:
    def saved(document: docx.document.Document | pptx.presentation.Presentation | openpyxl.Workbook) -> bytes:
        document.save(made := io.BytesIO())
        return made.getvalue()

    letter, show, book = docx.Document(), pptx.Presentation(), openpyxl.Workbook()
    letter.add_paragraph("The ").add_run("river").bold = True
    letter.paragraphs[0].add_run(" is wide.")
    show.slides.add_slide(show.slide_layouts[5]).shapes.title.text = WORD
    book["Sheet"]["A1"] = WORD
    return {"i.docx": saved(letter), "j.pptx": saved(show), "k.xlsx": saved(book), "l.epub": zipped(PARTS)}


READ: dict[
    str, Callable[[Path], str]
] = {  # the ending of a file's name → the words in it, as another program reads them
    ".po": lambda path: polib.pofile(str(path))[0].msgstr,
    ".docx": lambda path: docx.Document(str(path)).paragraphs[0].text,
    ".pptx": lambda path: pptx.Presentation(str(path)).slides[0].shapes.title.text,
    ".xlsx": lambda path: str(openpyxl.load_workbook(path).worksheets[0]["A1"].value),
    ".epub": lambda path: unzipped(path.read_bytes())["OEBPS/text/one.xhtml"].decode(),
}


def test_files_of_every_kind_dropped_at_once_come_back_translated_in_one_zip(studio: Studio, tmp_path: Path) -> None:
    files = {**{name: text.encode() for name, text in TEXTS.items()}, **office()}
    dropped = [(name, base64.b64encode(content).decode()) for name, content in files.items()]
    studio.page.locator("#yw-doc-drop").evaluate(DROP, dropped)
    for name in files:
        done(studio.page, name)
    with studio.page.expect_download() as coming:
        studio.page.get_by_role("button", name="Download all as a zip").click()
    coming.value.save_as(tmp_path / "all.zip")
    zipfile.ZipFile(tmp_path / "all.zip").extractall(tmp_path)
    for name in files:
        path = tmp_path / name.replace(".", ".zh.")
        expected = "IT WAS <em>COLD</em>" if path.suffix == ".epub" else SAID
        assert expected in READ.get(path.suffix, Path.read_text)(path)


def test_what_a_file_is_translated_with_is_said_before(studio: Studio, clerk: Clerk) -> None:
    studio.choose("#yw-to", "French")
    studio.page.get_by_role("tab", name="Text").click()
    studio.page.locator("#yw-context textarea").fill("A walk along the water.")
    studio.page.get_by_role("tab", name="Documents").click()
    expect(studio.page.locator("#yw-doc-plan")).to_contain_text("Detect language → French · with your context")
    send(studio.page, ("walk.txt", WORD))
    expect(done(studio.page, "walk.txt")).to_contain_text("French · 1 of 1 segments")
    assert "A walk along the water." in clerk.prompts[-1]


def test_a_refused_file_is_one_sentence_and_the_others_go_on(studio: Studio) -> None:
    send(studio.page, ("one.txt", WORD), ("two.json", "{"), ("three.tiff", "x"), ("four.txt", WORD))
    expect(row(studio.page, "two.json")).to_contain_text("The file is no valid JSON")
    expect(row(studio.page, "three.tiff")).to_contain_text("Files of the kind .tiff are not translated here")
    done(studio.page, "one.txt")
    done(studio.page, "four.txt")
    press(studio.page, "two.json", "Remove")
    expect(row(studio.page, "two.json")).to_have_count(0)
    studio.complaints.clear()  # the browser's own lines about the status


def test_a_file_that_could_not_be_sent_is_kept_and_sent_again(studio: Studio) -> None:
    studio.page.route("**/documents", lambda route: route.abort())
    send(studio.page, ("kept.txt", WORD))
    expect(row(studio.page, "kept.txt")).to_contain_text("The server cannot be reached")
    studio.page.unroute("**/documents")
    press(studio.page, "kept.txt", "Try again")
    done(studio.page, "kept.txt")
    studio.complaints.clear()


def test_a_page_opened_again_goes_on_with_a_document_under_way(
    studio: Studio, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clerk, "held", True)
    send(studio.page, ("long.txt", "".join(f"Slow {number}.\n\n" for number in range(64))))
    expect(row(studio.page, "long.txt")).to_contain_text(UNDER_WAY)
    studio.page.reload()
    expect(row(studio.page, "long.txt")).to_contain_text(UNDER_WAY)
    clerk.held = False
    press(studio.page, "long.txt", "Segments")
    expect(studio.page.locator("#yw-seg-count")).to_have_text("64 segments")
    last = studio.page.get_by_label("Translation of segment 64")
    studio.page.locator("#yw-segs .yw-scroller").evaluate("one => one.scrollTo(0, one.scrollHeight)")
    expect(last).to_have_value("SLOW 63.")  # it comes by itself
    expect(done(studio.page, "long.txt")).to_contain_text("64 of 64 segments")


def test_a_document_that_is_cancelled_takes_no_time_of_the_model(studio: Studio, clerk: Clerk) -> None:
    send(studio.page, ("long.txt", "".join(f"Slow {number}.\n\n" for number in range(400))))
    expect(row(studio.page, "long.txt")).to_contain_text("Translating…")
    press(studio.page, "long.txt", "Cancel")
    expect(row(studio.page, "long.txt")).to_have_count(0)
    soon(lambda: clerk.running == 0)
    studio.complaints.clear()  # it may just have been asked after


def test_a_segment_edited_by_hand_is_in_the_download_and_a_refused_edit_keeps_its_words(
    studio: Studio, tmp_path: Path
) -> None:
    send(studio.page, ("notes.md", "A **bold** word.\n\nThe end.\n"))
    first, second = segments(studio.page, "notes.md").all()
    words = first.locator("textarea")
    expect(words).to_have_value("A <s1>BOLD</s1> WORD.")
    expect(words).to_have_attribute("lang", "zh")
    words.fill("Ein Wort.")
    words.press("Control+ArrowDown")
    expect(second.locator("textarea")).to_be_focused()
    expect(first).to_contain_text("The text lacks <s1>…</s1>")
    expect(words).to_have_value("Ein Wort.")
    words.fill("Ein <s1>fettes</s1> Wort.")
    words.press("Control+Enter")
    expect(first).to_contain_text("Edited by hand")
    expect(row(studio.page, "notes.md")).to_contain_text("1 edited")
    assert download(studio.page, "notes.md", tmp_path).read_text() == "Ein **fettes** Wort.\n\nTHE END.\n"
    studio.complaints.clear()


def test_segments_with_warnings_are_found_and_one_is_translated_again(studio: Studio) -> None:
    send(studio.page, ("some.txt", "".join(f"{word} is the tale.\n\n" for word in ("First", "Long", "Last"))))
    rows = segments(studio.page, "some.txt")
    expect(rows).to_have_count(3)
    studio.page.locator("#yw-seg-find").fill("last")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("Last is the tale.")
    studio.page.locator("#yw-seg-find").fill("")
    studio.page.locator("#yw-seg-only").select_option("With warnings")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("its end may be missing")
    rows.get_by_role("button", name="Translate again").click()
    expect(rows).not_to_contain_text("its end may be missing")
    expect(row(studio.page, "some.txt")).not_to_contain_text("with warnings")


def test_a_document_that_failed_goes_on_where_it_stood(
    studio: Studio, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", ())
    send(studio.page, ("half.txt", "Good.\n\nBroken.\n"))
    expect(row(studio.page, "half.txt")).to_contain_text("The model is out for lunch")
    clerk.broken = False
    press(studio.page, "half.txt", "Translate failed segments again")
    expect(done(studio.page, "half.txt")).to_contain_text("2 of 2 segments")


def test_the_last_of_twenty_thousand_segments_is_a_scroll_away(studio: Studio) -> None:
    send(studio.page, ("book.txt", "".join(f"Line {number}.\n\n" for number in range(1, LINES + 1))))
    expect(row(studio.page, "book.txt")).to_contain_text("of 20,000 segments")
    press(studio.page, "book.txt", "Segments")
    expect(studio.page.locator("#yw-seg-count")).to_have_text("20,000 segments")
    studio.page.locator("#yw-segs .yw-scroller").evaluate("one => one.scrollTo(0, one.scrollHeight)")
    expect(studio.page.locator("#yw-segs").get_by_text("Line 20000.", exact=True).first).to_be_visible()
    assert studio.page.locator("#yw-segs tr").count() < 100
    press(studio.page, "book.txt", "Cancel")
    expect(row(studio.page, "book.txt")).to_have_count(0)
    studio.complaints.clear()


def test_all_that_is_done_goes_at_once_when_the_reader_agrees(studio: Studio) -> None:
    send(studio.page, ("one.txt", WORD), ("two.md", WORD), ("three.json", "{"))
    done(studio.page, "one.txt"), done(studio.page, "two.md")
    sentences: list[str] = []

    def agree(dialog: Dialog) -> None:
        sentences.append(dialog.message)
        dialog.accept()

    studio.page.once("dialog", agree)
    studio.page.get_by_role("button", name="Remove all that are done").click()
    expect(studio.page.locator(".yw-doc")).to_have_count(1)  # the refused one stays
    assert sentences == ["Remove all documents that are done? Their translations are deleted."]
    assert studio.page.evaluate("localStorage.getItem('yiwen-documents')") == "[]"
    studio.complaints.clear()


def test_what_the_server_no_longer_has_goes_with_a_sentence(studio: Studio) -> None:
    send(studio.page, ("old.txt", WORD))
    done(studio.page, "old.txt")
    for document in studio.page.evaluate("JSON.parse(localStorage.getItem('yiwen-documents'))"):
        assert httpx.delete(f"{studio.address}/documents/{document}").status_code == 204
    studio.page.reload()
    expect(studio.page.locator("#yw-doc-note")).to_contain_text("There is no such document")
    expect(studio.page.locator(".yw-doc")).to_have_count(0)
    studio.complaints.clear()


def test_two_windows_show_the_documents_of_both(studio: Studio, desk: BrowserContext) -> None:
    with a_studio(desk, studio.address) as other:
        other.open("#documents")
        send(studio.page, ("mine.txt", WORD))
        done(other.page, "mine.txt")
        send(other.page, ("yours.txt", WORD))
        done(studio.page, "yours.txt")
        press(other.page, "mine.txt", "Remove")
        expect(row(studio.page, "mine.txt")).to_have_count(0)
        assert len(studio.page.evaluate("JSON.parse(localStorage.getItem('yiwen-documents'))")) == 1


def test_on_a_phone_in_chinese_the_source_stands_above_its_translation(chromium: Browser, address: str) -> None:
    phone = chromium.new_context(viewport={"width": 390, "height": 844}, locale="zh-CN")
    with phone, a_studio(phone, address) as studio:
        studio.open("#documents")
        expect(studio.page.locator("#yw-doc-drop")).to_contain_text("将文件拖到这里")
        send(studio.page, ("x" * 120 + ".txt", "La rivière est large."))
        expect(studio.page.locator(".yw-doc")).to_contain_text("已完成")
        studio.page.get_by_role("button", name="分段").click()
        source, result = studio.page.locator(".yw-seg-source"), studio.page.get_by_label("第 1 段的译文")
        expect(result).to_have_value("LA RIVIÈRE EST LARGE.")
        above, below = source.bounding_box(), result.bounding_box()
        assert above
        assert below
        assert above["y"] + above["height"] <= below["y"] + 1
        assert studio.page.evaluate("document.documentElement.scrollWidth") <= 390
