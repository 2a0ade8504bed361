"""The login page, as its reader has it: in two languages, by night, on a phone, without scripts."""

import pytest
from playwright.sync_api import Browser, expect

from engine.backends.echo import EchoBackend
from engine.config import Config
from tests.axe import violations
from tests.conftest import Serve
from tests.studio import BOX

KEY = "correct-horse-battery"

pytestmark = pytest.mark.timeout(60, func_only=True)


@pytest.fixture(scope="module")
def address(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> str:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"anna:{KEY}\n")
    return serve(EchoBackend(), page=True, config=Config(api_keys=str(keys)))


def test_a_reader_signs_in_works_and_signs_out(chromium: Browser, address: str) -> None:
    with chromium.new_context(locale="en-US") as context, context.new_page() as page:
        page.goto(f"{address}/?source=en&target=de&q=Hello.")
        page.get_by_label("Your key").fill("a wrong key, and a long one")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not known here")
        assert violations(page) == []
        page.get_by_label("Your key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("body")).to_have_attribute("data-ready", "true")
        expect(page.locator(BOX)).to_have_text("Hello.")
        wrong: list[object] = []
        page.on("pageerror", lambda error: wrong.append(error))
        context.clear_cookies()
        page.locator("#yw-source textarea").fill("Hello again.")
        expect(page.locator("#yw-signed-out")).to_contain_text("Sign in again")
        expect(page.locator("#yw-meter")).not_to_contain_text("No connection")
        assert wrong == []
        with context.expect_page() as opened:
            page.locator("#yw-signed-out a").click()
        opened.value.get_by_label("Your key").fill(KEY)
        opened.value.get_by_role("button").click()
        expect(opened.value.locator("body")).to_have_attribute("data-ready", "true")
        expect(page.locator("#yw-signed-out")).to_be_hidden()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Your key")).to_be_visible()


def test_it_needs_no_script_and_fits_a_phone_at_night_in_chinese(chromium: Browser, address: str) -> None:
    looks = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "locale": "zh-CN"}
    with chromium.new_context(java_script_enabled=False, **looks) as context, context.new_page() as page:  # type: ignore[arg-type]
        page.goto(address)
        page.get_by_label("您的密钥").fill("a wrong key, and a long one")
        page.get_by_role("button", name="登录").click()
        expect(page.get_by_role("alert")).to_contain_text("密钥无效")
        box = page.locator("main").bounding_box()
        assert box
        assert (box["x"] >= 0, box["x"] + box["width"] <= 390) == (True, True)
        page.get_by_label("您的密钥").fill(KEY)
        page.get_by_role("button").click()
        expect(page).to_have_url(f"{address}/")
