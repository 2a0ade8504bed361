"""Pictures of the studio: each tab, both widths, light and dark, English and Chinese. `python -m tests.screenshots OUT`

It starts the program with the model that ships and uses it in Chromium, as a reader would. With --readme it takes only
those that README shows: `python -m tests.screenshots assets/screenshots --readme`.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, FilePayload, FloatRect, Page, expect

from tests.conftest import soon
from tests.studio import a_browser
from tests.test_app import start

WIDTHS = {1440: 900, 390: 844}
TEXTS = {
    "en": (
        "en",
        "zh",
        "# Change the language\n\nOpen the *settings* and choose a language. The change takes effect after you restart "
        "the application.\n\n- Click the **Save** button.\n- Yiwen shows the [help page](https://example.org).\n",
    ),
    "zh": (
        "zh",
        "en",
        "# 更改语言\n\n打开*设置*，然后选择一种语言。重新启动应用程序后，更改将生效。\n\n- 单击**保存**按钮。\n",
    ),
}
NAMES = {"en": "Software", "zh": "软件"}  # of glossaries
TERMS = {
    "en": "source,target\nsettings,设置\nSave,保存\nYiwen,\n",
    "zh": "source,target\n设置,Settings\n保存,Save\n",
}
CONTEXT = {  # and a text without marks, whose prompts have room for it
    "en": (
        "A walk along a river, in spring.",
        "The snow has melted, and the water is high.\n\nWe sat down near the bank.",
    ),
    "zh": ("春天沿着河散步。", "雪化了，水很高。\n\n我们在岸边坐下。"),
}
CUES = {
    "en": ("Where are the settings?", "Open the menu."),
    "zh": ("设置在哪里？", "打开菜单。"),
}
README = {
    *(
        f"{tab}-1440-light-{language}"
        for tab in ("text", "terms", "context", "documents", "system")
        for language in TEXTS
    ),
    "text-390-dark-zh",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("out", type=Path)
    parser.add_argument("--readme", action="store_true", help="only those that README shows")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with studio() as address, a_browser() as browser:
        for language, theme, width in product(TEXTS, ("light", "dark"), WIDTHS):
            if arguments.readme and not any(name.endswith(f"-{width}-{theme}-{language}") for name in README):
                continue
            for tab, page in tabs(browser, address, language, theme, width):
                name = f"{tab}-{width}-{theme}-{language}"
                if arguments.readme and name not in README:
                    continue
                path = arguments.out / f"{name}.png"
                page.screenshot(path=path, clip=_upto_footer(page, width))
                Image.open(path).quantize(96).save(path, optimize=True)
                print(path, flush=True)


def _upto_footer(page: Page, width: int) -> FloatRect:
    """Of what is in view, without the empty space below the page."""
    end = page.locator(".yw-footer").bounding_box()
    height = min(WIDTHS[width], end["y"] + end["height"] + 8) if end else WIDTHS[width]
    return {"x": 0, "y": 0, "width": width, "height": height}


@contextmanager
def studio() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as data, start("--port", "0", "--data-dir", data) as program:
        assert program.stderr
        try:
            address = next(line for line in program.stderr if "open http" in line).split()[-1].rstrip("/")
            soon(lambda: httpx.get(f"{address}/readyz").status_code == 200, seconds=120, every_seconds=0.2)
            for language, (source, target, _) in TEXTS.items():
                fields = {"name": NAMES[language], "source_lang": source, "target_lang": target}
                files = {"file": ("terms.csv", TERMS[language].encode())}
                httpx.post(f"{address}/glossaries", data=fields, files=files).raise_for_status()
            yield address
        finally:
            program.terminate()


def tabs(browser: Browser, address: str, language: str, theme: str, width: int) -> Iterator[tuple[str, Page]]:
    """The same page again and again, each time at another tab or part of one."""
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
        own = page.locator("#yw-glossary option", has_text=NAMES[language]).get_attribute("value")
        page.locator("#yw-glossary").select_option(own)
        expect(page.locator("#yw-panel-terms tr[aria-rowindex]").first).to_be_visible()
        yield "terms", page
        page.get_by_role("tab").nth(0).click()
        page.locator("#yw-source textarea").fill(text)
        page.keyboard.press("Control+Enter")
        done = "Done" if language == "en" else "完成"
        expect(page.locator("#yw-status")).to_contain_text(done)
        page.locator("#yw-output-box").click()
        yield "text", page
        context_text, plain = CONTEXT[language]
        page.locator("#yw-context textarea").fill(context_text)
        page.locator("#yw-source textarea").fill(plain)
        page.keyboard.press("Control+Enter")
        expect(page.locator("#yw-status")).to_contain_text(done)
        page.locator("#yw-seen summary").click()
        expect(page.locator("#yw-seen pre")).to_contain_text(context_text)
        page.locator("#yw-seen-after").click()
        expect(page.locator("#yw-seen pre")).to_contain_text(plain.splitlines()[-1])
        page.locator("#yw-context").evaluate("(box) => scrollTo(0, box.getBoundingClientRect().top + scrollY - 420)")
        page.wait_for_timeout(500)
        yield "context", page
        page.get_by_role("tab").nth(2).click()
        cues = "\n".join(
            f"{number}\n00:00:0{number},000 --> 00:00:0{number},900\n{cue}\n"
            for number, cue in enumerate(CUES[language], 1)
        )
        files = {"settings.md": text, "menu.srt": cues}
        page.locator("#yw-file").set_input_files(
            [FilePayload(name=name, mimeType="", buffer=content.encode()) for name, content in files.items()]
        )
        for name in files:
            expect(page.locator(".yw-doc", has_text=name)).to_contain_text(done)
        page.locator(".yw-doc", has_text="settings.md").get_by_role("button").first.click()
        expect(page.locator("#yw-segs tr[aria-rowindex]").first).to_be_visible()
        page.wait_for_timeout(500)
        page.evaluate("scrollTo(0, 0)")
        yield "documents", page
        page.get_by_role("tab").nth(3).click()
        page.wait_for_timeout(2500)
        page.evaluate("scrollTo(0, 0)")
        yield "system", page


if __name__ == "__main__":
    main()
