"""The page of the API: read in a browser that can reach nobody but us."""

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from engine.backends.echo import EchoBackend
from tests.conftest import Serve
from tests.studio import a_browser


@pytest.fixture(scope="module")
def address(serve: Serve) -> str:
    return serve(EchoBackend(), root_path="/yiwen")


@pytest.fixture(scope="module")
def chromium(address: str) -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser


def test_the_api_can_be_read_and_tried_below_a_path_and_without_a_network(chromium: Browser, address: str) -> None:
    complaints, strangers = list[str](), list[str]()

    def as_a_proxy_does(route: Route) -> None:
        if not route.request.url.startswith(f"{address}/yiwen/"):
            strangers.append(route.request.url)
            return route.abort()
        return route.fulfill(response=route.fetch(url=route.request.url.replace("/yiwen/", "/", 1)))

    with chromium.new_page() as page:
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.route("**/*", as_a_proxy_does)
        page.goto(f"{address}/yiwen/docs")
        page.get_by_role("button", name="Translate a text, or a list of texts").click()
        expect(page.get_by_text("target_lang").first).to_be_visible()
        page.get_by_role("button", name="The process is up").click()
        page.get_by_role("button", name="Try it out").last.click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table")).to_contain_text("200")
    assert (complaints, strangers) == ([], [])


def test_the_page_of_the_api_allows_no_other_host(address: str) -> None:
    answer = httpx.get(f"{address}/docs")
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "//" not in answer.text
