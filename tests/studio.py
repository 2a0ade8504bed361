"""The studio as its reader has it: an open page in a browser, which does what a reader does and says what it saw."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update")
BOX = "#yw-output-box"


@dataclass
class Studio:
    """An open page, the address it came from, and what it should not have done."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    _heard: list[tuple[str, Callable[[Any], None]]] = field(default_factory=list)

    def watch(self) -> None:
        self.hear("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.hear("pageerror", lambda error: self.complaints.append(str(error)))
        self.hear("request", lambda request: self._asked(request.url))
        self.hear("websocket", lambda socket: self._asked(socket.url.replace("ws", "http", 1)))

    def hear(self, event: str, listener: Callable[[Any], None]) -> None:
        """As long as this is its reader's studio, and not another's in the same window."""
        self._heard.append((event, listener))
        self.page.on(event, listener)  # type: ignore[call-overload]

    def leave(self) -> None:
        """For whoever has the window next: nothing is on its way or kept, and nobody listens."""
        for event, listener in self._heard:
            self.page.remove_listener(event, listener)
        self.page.unroute_all()
        self.page.goto(f"{self.address}/robots.txt")  # the studio keeps a draft as it goes
        self.page.evaluate("localStorage.clear(); sessionStorage.clear()")

    def _asked(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.strangers.append(url)

    def open(self, query: str = "") -> None:
        self.page.goto(f"{self.address}/{query}")
        self.wait_ready()

    def wait_ready(self) -> None:
        self.page.wait_for_selector("body[data-ready=true]", state="attached", timeout=20_000)

    def write(self, text: str) -> None:
        self.page.locator("#yw-source textarea").fill(text)

    def written(self) -> str:
        return self.page.locator("#yw-source textarea").input_value()

    def choose(self, picker: str, language: str) -> None:
        self.page.locator(f"{picker} input").fill(language)
        self.page.keyboard.press("Enter")

    def chosen(self, picker: str) -> str:
        return self.page.locator(f"{picker} input").input_value()

    def translate(self) -> None:
        self.page.locator("#yw-translate").click()

    def shown(self) -> str:
        return self.page.locator(BOX).text_content() or ""

    def wait_done(self) -> None:
        expect(self.page.locator("#yw-status")).to_contain_text("Done")


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


@contextmanager
def a_studio(place: BrowserContext | Page, address: str) -> Iterator[Studio]:
    """A page not opened yet, in a window of its own or in one that is left as it was, which takes half the time. It
    fails the test if it complains on the console or asks another host for anything."""
    if isinstance(place, BrowserContext):
        with place.new_page() as page:
            yield from _watched(Studio(page, address))
    else:
        studio = Studio(place, address)
        try:
            yield from _watched(studio)
        finally:
            studio.leave()


def _watched(studio: Studio) -> Iterator[Studio]:
    studio.watch()
    yield studio
    assert studio.complaints == [], studio.complaints
    assert studio.strangers == [], studio.strangers
