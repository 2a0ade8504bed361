"""The page in a real browser, on the real server, with a backend that says the source back at a steady pace."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, WebSocketRoute, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from engine.backends.echo import EchoBackend
from tests.conftest import Serve, soon

TOKEN_SECONDS = 0.03
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update")
LONG = "The page shows every word as it comes. " * 20  # 195 tokens: 6 seconds, unless it is stopped
BOX = "#yw-output-box"
MARKDOWN = b"# Notes *here*\r\n\r\n" + (b"The page shows every word as it comes. " * 3 + b"\r\n\r\n") * 24

pytestmark = pytest.mark.timeout(60, func_only=True)  # the fixtures start a browser and a server once


@dataclass
class Studio:
    """An open page, the address it came from, and what it should not have done."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("websocket", lambda socket: self._asked(socket.url.replace("ws", "http", 1)))

    def _asked(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.strangers.append(url)

    def open(self, query: str = "") -> None:
        self.page.goto(f"{self.address}/{query}")
        expect(self.page.locator("#yw-stop")).to_be_disabled()  # the last thing that the page does when it starts

    def write(self, text: str) -> None:
        self.page.locator("#yw-source textarea").fill(text)

    def written(self) -> str:
        return self.page.locator("#yw-source textarea").input_value()

    def choose(self, picker: str, language: str) -> None:
        self.page.locator(f"{picker} input").click()
        self.page.get_by_role("option", name=language).first.click()

    def chosen(self, picker: str) -> str:
        return self.page.locator(f"{picker} input").input_value()

    def translate(self) -> None:
        self.page.locator("#yw-translate").click()

    def shown(self) -> str:
        return self.page.locator(BOX).text_content() or ""

    def wait_done(self) -> None:
        expect(self.page.locator("#yw-status")).to_contain_text("Done")


@pytest.fixture(scope="module")
def backend() -> EchoBackend:
    return EchoBackend(TOKEN_SECONDS)


@pytest.fixture(scope="module")
def address(serve: Serve, backend: EchoBackend) -> str:
    return serve(backend, page=True)


@pytest.fixture(scope="module")
def address_below_a_path(serve: Serve) -> str:
    return serve(EchoBackend(), page=True, root_path="/yiwen")


@contextmanager
def a_browser() -> Iterator[Browser]:
    """To be started after the servers: Playwright keeps an event loop in this thread, and no other can be run beside
    it."""
    expect.set_options(timeout=20_000)  # milliseconds, for a machine with much else to do
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome") or playwright.chromium.executable_path
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except PlaywrightError as error:
            pytest.fail(f"No Chromium at {found}; run `python -m playwright install --with-deps chromium`. {error}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium(address: str, address_below_a_path: str) -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def desk(chromium: Browser) -> Iterator[BrowserContext]:
    """One for most tests, since its cache saves each of them a second."""
    with chromium.new_context(viewport={"width": 1280, "height": 844}, locale="en-US") as context:
        yield context


@contextmanager
def a_studio(context: BrowserContext, address: str) -> Iterator[Studio]:
    """A page not opened yet. It fails the test if it complains on the console or asks another host for anything."""
    with context.new_page() as page:
        studio = Studio(page, address)
        studio.watch()
        yield studio
        assert studio.complaints == []
        assert studio.strangers == []


def scripted(socket: WebSocketRoute) -> Callable[[str | bytes], None]:
    """A server that says all there is to say: a wait, a frame of an old run, a segment taken back."""
    done = {"translation": "Taken, again.", "detected_source_lang": "en", "detection": [], "terms": [], "warnings": []}
    messages = [
        {"type": "queued", "ahead": 2},
        {"type": "started", "segments": 2, "detected_source_lang": "en", "detection": []},
        {"type": "delta", "segment": 0, "text": "Gi"},
        {"type": "delta", "segment": 0, "text": "stale", "id": "r0"},
        {"type": "replace", "segment": 0, "text": "Taken,"},
        {"type": "delta", "segment": 1, "text": " again."},
        {"type": "done", **done, "usage": {"segments": 2, "input_tokens": 3, "output_tokens": 4, "seconds": 0.1}},
    ]

    def answer(message: str | bytes) -> None:
        asked = json.loads(message)
        for said in messages if asked["type"] == "start" else []:
            socket.send(json.dumps({"id": asked["id"], **said}))

    return answer


@pytest.fixture
def studio(desk: BrowserContext, address: str) -> Iterator[Studio]:
    with a_studio(desk, address) as studio:
        studio.open()
        yield studio


def test_a_translation_is_painted_while_it_comes(studio: Studio) -> None:
    studio.page.evaluate(
        """box => { window.paints = []; new MutationObserver(() => window.paints.push(box().textContent.length))
           .observe(box(), { childList: true, characterData: true, subtree: true }) }""".replace(
            "box()", f"document.querySelector('{BOX}')"
        )
    )
    text = "One word after the other, and the reader sees each of them."
    studio.write(text)
    studio.page.keyboard.press("Control+Enter")
    studio.wait_done()
    paints = [length for length in studio.page.evaluate("window.paints") if length]
    assert len(paints) >= 5
    assert paints == sorted(paints)
    assert studio.shown() == text
    box = studio.page.locator(BOX)
    expect(box).to_have_attribute("lang", "zh")
    expect(box).to_have_attribute("aria-busy", "false")
    expect(studio.page.locator("#yw-status")).to_have_text(
        re.compile(r"Done: 15 tokens in \d\.\d s · detected English")
    )


def test_stop_freezes_the_text_and_frees_the_backend_and_the_next_translation_is_whole(
    studio: Studio, backend: EchoBackend
) -> None:
    studio.write(LONG)
    studio.translate()
    expect(studio.page.locator(BOX)).to_contain_text("The page shows")
    studio.page.keyboard.press("Escape")
    frozen = studio.shown()
    expect(studio.page.locator("#yw-status")).to_contain_text("Stopped")
    soon(lambda: backend.running == 0)
    studio.page.wait_for_timeout(300)
    assert studio.shown() == frozen
    assert 0 < len(frozen) < len(LONG)
    assert studio.written() == LONG
    studio.translate()
    soon(lambda: backend.running > 0)
    studio.page.locator("#yw-stop").click()
    soon(lambda: backend.running == 0)
    studio.write("Again, from the start.")
    studio.translate()
    studio.wait_done()
    assert studio.shown() == "Again, from the start."


def test_a_new_run_replaces_the_one_under_way_which_paints_no_more(studio: Studio, backend: EchoBackend) -> None:
    cancelled = backend.cancelled
    studio.write(LONG)
    studio.translate()
    expect(studio.page.locator(BOX)).to_contain_text("The page")
    studio.write("Something else.")
    studio.translate()
    studio.wait_done()
    assert studio.shown() == "Something else."
    assert backend.cancelled > cancelled


def test_swapping_exchanges_languages_and_texts_and_twice_brings_them_back(studio: Studio) -> None:
    studio.write("The first text, in English.")
    studio.translate()
    studio.wait_done()
    studio.write("A second text, in English.")
    swap = studio.page.locator("#yw-swap")
    swap.click()
    expect(studio.page.locator(BOX)).to_have_text("A second text, in English.")
    assert studio.written() == "The first text, in English."
    assert (studio.chosen("#yw-from"), studio.chosen("#yw-to")) == ("中文 · Chinese", "English")  # the one detected
    swap.click()
    expect(studio.page.locator(BOX)).to_have_text("The first text, in English.")
    assert studio.written() == "A second text, in English."
    assert (studio.chosen("#yw-from"), studio.chosen("#yw-to")) == ("English", "中文 · Chinese")


def test_an_error_is_one_sentence_and_no_text_is_lost(studio: Studio) -> None:
    studio.write("Good morning.")
    studio.translate()
    studio.wait_done()
    studio.choose("#yw-from", "English")
    studio.choose("#yw-to", "English")
    studio.translate()
    error = studio.page.locator("#yw-notes .yw-error")
    expect(error).to_have_text(re.compile(r"^[A-Z][^<>{}]+\.$"))
    assert "Traceback" not in error.inner_text()
    assert (studio.written(), studio.shown()) == ("Good morning.", "Good morning.")


def test_terms_typed_into_the_table_are_reported_after(studio: Studio) -> None:
    studio.page.get_by_role("button", name="Terms").click()
    for column, word in enumerate(("Yiwen", "Yiwen")):
        studio.page.locator(f"#yw-terms .virtual-body [data-row='0'][data-col='{column}']").click()
        expect(studio.page.locator("#yw-terms .virtual-body textarea")).to_be_focused()
        studio.page.keyboard.insert_text(word)  # as an input method does: no key is pressed
    studio.write("Yiwen translates.")
    studio.translate()
    expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_text("Yiwen kept 1 of 1")


def test_characters_and_tokens_of_the_source_are_counted(studio: Studio) -> None:
    studio.write("八个字的一句话。")
    expect(studio.page.locator(".yw-counts")).to_contain_text("8 characters · 2 tokens")


def test_copy_puts_the_translation_on_the_clipboard(studio: Studio) -> None:
    studio.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    studio.write("Copy me.")
    studio.translate()
    studio.wait_done()
    studio.page.locator("#yw-copy").click()
    expect(studio.page.locator("#yw-status")).to_have_text("Copied")
    assert studio.page.evaluate("navigator.clipboard.readText()") == "Copy me."


def test_without_a_websocket_the_translation_comes_by_server_sent_events(desk: BrowserContext, address: str) -> None:
    def refuse(socket: WebSocketRoute) -> None:
        socket.close()

    with a_studio(desk, address) as studio:
        studio.page.route_web_socket("**/ws/translate", refuse)
        studio.open()
        studio.write("No socket, and yet it comes.")
        with studio.page.expect_request("**/translate") as asked:
            studio.translate()
        assert asked.value.method == "POST"
        studio.wait_done()
        assert studio.shown() == "No socket, and yet it comes."


def test_frames_of_an_old_run_never_paint_and_a_segment_can_be_taken_back(desk: BrowserContext, address: str) -> None:
    with a_studio(desk, address) as studio:
        studio.page.route_web_socket("**/ws/translate", lambda socket: socket.on_message(scripted(socket)))
        studio.open()
        studio.write("Anything.")
        studio.translate()
        studio.wait_done()
        assert studio.shown() == "Taken, again."


def test_the_page_works_below_a_path(desk: BrowserContext, address_below_a_path: str) -> None:
    def as_a_proxy_does(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/yiwen/", "/", 1)))

    with a_studio(desk, f"{address_below_a_path}/yiwen") as studio:
        studio.page.route("**/yiwen/**", as_a_proxy_does)
        studio.page.route_web_socket("**/yiwen/ws/translate", lambda socket: socket.on_message(scripted(socket)))
        studio.open()
        studio.write("Below a path.")
        studio.translate()
        studio.wait_done()
        assert studio.shown() == "Taken, again."


def test_a_phone_has_no_horizontal_scroll_and_a_chinese_reader_has_chinese(chromium: Browser, address: str) -> None:
    phone = chromium.new_context(viewport={"width": 390, "height": 844}, locale="zh-CN")
    with phone, a_studio(phone, address) as studio:
        studio.open("?__theme=dark")
        expect(studio.page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(studio.page.locator("#yw-translate")).to_have_text("翻译")
        for name in ("上下文", "术语"):
            studio.page.get_by_role("button", name=name, exact=False).first.click()
        studio.write("一个很长的词：" + "x" * 200)
        studio.translate()
        expect(studio.page.locator("#yw-status")).to_contain_text("完成")
        assert studio.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_page_of_html_keeps_its_tags_whatever_the_format_is_called(studio: Studio) -> None:
    page = "<p>One <b>two</b> &amp; three.</p>"
    for choice in ("auto", "html"):
        studio.page.locator("#yw-format").select_option(choice)
        studio.write(page)
        studio.translate()
        studio.wait_done()
        assert studio.shown() == page


def test_a_document_is_sent_followed_and_downloaded(studio: Studio, tmp_path: Path) -> None:
    page = studio.page
    page.get_by_text("Document", exact=True).click()
    page.locator("#yw-file").set_input_files({"name": "notes.md", "mimeType": "", "buffer": MARKDOWN})
    expect(page.locator(".yw-drop")).to_have_text("notes.md")
    page.locator("#yw-translate-document").click()
    expect(page.locator(".yw-doc")).to_contain_text("of 25 segments")
    expect(page.locator(".yw-doc")).to_contain_text("Done. Segments: 25")
    page.reload()  # and it is still there
    with page.expect_download() as coming:
        page.get_by_text("Download").click()
    assert coming.value.suggested_filename == "notes.zh.md"
    coming.value.save_as(tmp_path / "notes.md")
    assert (tmp_path / "notes.md").read_bytes() == MARKDOWN
    page.get_by_text("Remove").click()
    expect(page.locator(".yw-doc")).to_have_count(0)


def test_a_document_that_cannot_be_read_is_one_sentence(studio: Studio) -> None:
    studio.page.get_by_text("Document", exact=True).click()
    studio.page.locator("#yw-file").set_input_files({"name": "a.json", "mimeType": "", "buffer": b"{"})
    studio.page.locator("#yw-translate-document").click()
    expect(studio.page.locator(".yw-doc")).to_contain_text("The file is no valid JSON")
    studio.page.get_by_text("Remove").click()
    expect(studio.page.locator(".yw-doc")).to_have_count(0)
    studio.complaints.clear()  # the browser's own line about the status


def test_every_button_has_a_name(studio: Studio) -> None:
    studio.page.get_by_role("button", name="Terms").click()
    expect(studio.page.locator("#yw-add-row")).to_be_visible()
    names = studio.page.evaluate(
        "[...document.querySelectorAll('button')].map(b => b.ariaLabel || b.textContent.trim())"
    )
    assert len(names) > 6
    assert all(names)
    expect(studio.page.get_by_role("heading", level=1)).to_have_text("译文 Yiwen")
