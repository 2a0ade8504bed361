"""The studio as its reader has it: an open page in a browser, which does what a reader does and says what it saw."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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
def a_studio(context: BrowserContext, address: str) -> Iterator[Studio]:
    """A page not opened yet. It fails the test if it complains on the console or asks another host for anything."""
    with context.new_page() as page:
        studio = Studio(page, address)
        studio.watch()
        yield studio
        assert studio.complaints == [], studio.complaints
        assert studio.strangers == [], studio.strangers
