"""Pictures of the studio: each tab, both widths, light and dark, English and Chinese. `python -m tests.screenshots OUT`

It starts the program with the model that ships and uses it in Chromium, as a reader would.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect

from tests.conftest import soon
from tests.studio import a_browser
from tests.test_app import start

WIDTHS = {1440: 900, 390: 844}
TERMS = b"source,target\nferry,\xe6\xb8\xa1\xe8\xbd\xae\nvillage,\xe6\x9d\x91\xe5\xba\x84\nYiwen,\n"
TEXTS = {
    "en": (
        "en",
        "zh",
        "# The last ferry\n\nThe river is wide here, and the *ferry* only runs until seven. "
        "If we miss it, we sleep in the village.\n\n- Bring **warm** clothes.\n- Yiwen translates the [timetable](https://example.org).\n",
    ),
    "zh": (
        "zh",
        "en",
        "# 末班渡轮\n\n这里的河很宽，*渡轮*只开到七点。如果错过了，我们就在村庄里过夜。\n\n- 请带**保暖**的衣服。\n",
    ),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with studio() as address, a_browser() as browser:
        for language, theme, width in product(TEXTS, ("light", "dark"), WIDTHS):
            for tab, page in tabs(browser, address, language, theme, width):
                path = folder / f"{tab}-{width}-{theme}-{language}.png"
                page.screenshot(path=path)
                print(path)


@contextmanager
def studio() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as data, start("--port", "0", "--data-dir", data) as program:
        assert program.stderr
        address = next(line for line in program.stderr if "open http" in line).split()[-1].rstrip("/")
        soon(lambda: httpx.get(f"{address}/readyz").status_code == 200, seconds=60)
        for source, target in (("en", "zh"), ("zh", "en")):
            fields = {"name": "Travel", "source_lang": source, "target_lang": target}
            httpx.post(f"{address}/glossaries", data=fields, files={"file": ("travel.csv", TERMS)}).raise_for_status()
        try:
            yield address
        finally:
            program.terminate()


def tabs(browser: Browser, address: str, language: str, theme: str, width: int) -> Iterator[tuple[str, Page]]:
    locale = {"en": "en-US", "zh": "zh-CN"}[language]
    source, target, text = TEXTS[language]
    with browser.new_context(
        viewport={"width": width, "height": WIDTHS[width]},
        color_scheme=theme,  # type: ignore[arg-type]
        locale=locale,
    ) as context:
        page = context.new_page()
        page.goto(f"{address}/?source={source}&target={target}")
        expect(page.locator("body")).to_have_attribute("data-ready", "true")
        page.get_by_role("tab").nth(1).click()
        page.locator("#yw-glossary").select_option(index=1)
        yield "terms", page
        page.get_by_role("tab").nth(0).click()
        page.locator("#yw-source textarea").fill(text)
        page.keyboard.press("Control+Enter")
        expect(page.locator("#yw-status")).to_contain_text("Done" if language == "en" else "完成")
        page.locator("#yw-output-box").click()
        yield "text", page
        page.get_by_role("tab").nth(2).click()
        page.locator("#yw-file").set_input_files({"name": "ferry.md", "mimeType": "", "buffer": text.encode()})
        expect(page.locator(".yw-doc").first).to_contain_text("ferry.md")
        page.wait_for_timeout(3000)
        yield "documents", page
        page.get_by_role("tab").nth(3).click()
        page.wait_for_timeout(2500)
        yield "system", page


if __name__ == "__main__":
    main(Path(sys.argv[1]))
