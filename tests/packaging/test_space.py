"""In a Space of Hugging Face: with its variables, asked by its name, and in a frame of its site."""

from collections.abc import Iterator

import httpx
import pytest
import yaml
from playwright.sync_api import Route, expect

from engine.config import Config
from tests.packaging.dockerfile import ROOT, stages
from tests.running import running
from tests.studio import BOX, a_browser
from ui.blocks import _data

HOST = "anna-yiwen.hf.space"
VARIABLES = {"SPACE_ID": "anna/yiwen", "SPACE_HOST": HOST, "SYSTEM": "spaces", "GRADIO_SSR_MODE": "True"}
HUB = "https://huggingface.co"
HARDWARE = {"cpu-basic", "cpu-upgrade", "t4-small", "t4-medium", "l4x1", "l4x4", "a10g-small", "a10g-large"}
LOCAL = "local-network-access"  # what a browser asks before a page of another host shows one of this machine


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        with running(tmp_path_factory.mktemp("space"), "--backend", "echo", "--host", "0.0.0.0") as server:
            yield server.url


@pytest.fixture(scope="module")
def front_matter() -> dict[str, object]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---\n")[1])


def test_in_a_space_the_hub_may_frame_the_page_and_its_proxies_are_believed_unless_said_otherwise() -> None:
    there = Config.load([], VARIABLES)
    assert there.allowed_origins == (HUB, f"https://{HOST}")
    assert there.trusted_proxies == ("10.0.0.0/8",)
    assert Config.load(["--allowed-origins", "https://a.example"], VARIABLES).allowed_origins == ("https://a.example",)
    assert Config.load([], {}).allowed_origins == ()


def test_its_page_may_ask_whichever_name_its_proxy_passes_on(space: str) -> None:
    asks = {"text": "Hello.", "source_lang": "en", "target_lang": "de"}
    for host in (HOST, "10.0.0.7:7860"):
        answer = httpx.post(f"{space}/translate", json=asks, headers={"Host": host, "Origin": f"https://{HOST}"})
        assert answer.status_code == 200
    stranger = httpx.post(f"{space}/translate", json=asks, headers={"Host": HOST, "Origin": "https://evil.example"})
    assert stranger.status_code == 403


def test_the_studio_works_in_a_frame_of_the_hub(space: str) -> None:
    framed = f'<iframe src="{space}/?source=en&target=de" width="1200" height="800" allow="{LOCAL}"></iframe>'
    complaints: list[str] = []
    asked: list[str] = []
    with a_browser() as browser, browser.new_context(locale="en-US", permissions=[LOCAL]) as context:
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.route(f"{HUB}/**", lambda route: route.fulfill(content_type="text/html", body=framed))
        page.goto(f"{HUB}/spaces/anna/yiwen")
        studio = page.frame_locator("iframe").first
        studio.locator("body[data-ready=true]").wait_for(state="attached", timeout=20_000)
        expect(studio.locator("#yw-private")).to_have_text("Your text stays on this machine.")
        studio.locator("#yw-source textarea").fill("The cat sleeps.")
        studio.locator("#yw-translate").click()
        expect(studio.locator(BOX)).to_contain_text("The cat sleeps.")
        page.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith((space, HUB, "data:", "blob:"))] == []


@pytest.mark.parametrize(
    ("remote", "said"),
    [
        (False, f"Your text goes to {HOST} and no further."),
        (True, f"Your text goes to the model's server by way of {HOST}."),
    ],
)
def test_its_page_says_where_a_text_goes(space: str, remote: bool, said: str) -> None:
    elsewhere = '"goesTo": "private_elsewhere"'
    assert elsewhere in _data(Config(remote_url=("http://gpu1:8000",)))

    def pass_on(route: Route) -> None:
        answer = route.fetch(url=route.request.url.replace(f"http://{HOST}", space))
        text = answer.body().replace(b'"goesTo": null', elsewhere.encode()) if remote else answer.body()
        route.fulfill(response=answer, body=text)

    with a_browser() as browser, browser.new_context(locale="en-US") as context:
        page = context.new_page()
        page.route(f"http://{HOST}/**", pass_on)
        page.goto(f"http://{HOST}/")
        expect(page.locator("#yw-private")).to_have_text(said, timeout=20_000)
        page.close()


def test_the_readme_describes_a_space_that_the_image_serves(front_matter: dict[str, object]) -> None:
    image = stages((ROOT / "Dockerfile").read_text())["gpu"]
    assert (front_matter["sdk"], front_matter["app_port"]) == ("docker", int(image.last("EXPOSE").value))
    assert front_matter["license"] == "apache-2.0"
    assert front_matter["suggested_hardware"] in HARDWARE
    assert len(str(front_matter["short_description"])) <= 60
