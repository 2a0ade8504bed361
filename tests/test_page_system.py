"""The meter, the loading bar and the System tab: what they say of a server, in words, and how rarely they ask it."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.backends import late
from engine.backends.echo import EchoBackend
from engine.backends.pool import Pool
from engine.backends.process import ProcessBackend
from engine.config import Config
from engine.progress import Progress
from tests.axe import violations
from tests.conftest import Serve, soon
from tests.studio import Studio, a_studio

GB = 10**9
PARTS = {"weights": 5.4, "kv_used": 1.9, "kv_free": 6.3, "workspace": 1.1, "other": 1.2, "free": 8.1}
FULL = PARTS | {"other": 8.3, "free": 1.0}
TENCENT = "Tencent HY Community License: not granted in the EU, the UK and South Korea; not affiliated with Tencent"
LOADING = {"status": "loading", "stage": "weights", "done": 0.42, "seconds_left": 12.4, "reason": "Still loading: 42%."}
FAILED = LOADING | {"status": "failed", "seconds_left": None, "reason": "The weights do not fit; use a smaller model."}
HIDE = "hidden => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden }); "
HIDE += "document.dispatchEvent(new Event('visibilitychange')); }"
HASTE = "times => { window.later ??= setTimeout; window.setTimeout = (act, ms) => later(act, ms / times); }"
READY = "() => { import('./studio/system.js').then(({ ready }) => ready()).then(() => (window.isReady = true)); }"
CHANGES = (
    "() => { window.said = []; new MutationObserver(() => said.push(document.querySelector('.yw-alarm').textContent))"
)
CHANGES += ".observe(document.querySelector('.yw-alarm'), { childList: true, subtree: true, characterData: true }) }"

Answer = dict[str, Any]

pytestmark = [
    pytest.mark.timeout(60, func_only=True),
    # of gradio, which adds up its queue with pandas
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]


def card(parts: dict[str, float] = PARTS, *, number: int = 0, ours: bool = True, limit: int | None = None) -> Answer:
    sizes = {part: int(size * GB) for part, size in parts.items()}
    total, free = sum(sizes.values()), sizes["free"]
    return {
        "device": f"cuda:{number}",
        "name": "NVIDIA L4",
        "total_bytes": total,
        "used_bytes": total - free,
        "limit_bytes": limit,
        "ours": ours,
        "full": free < 0.1 * total,
        "parts": sizes,
    }


def system(*cards: Answer, state: Answer | None = None, model: str = "HY-MT1.5-7B") -> Answer:
    """An answer of /system: of a card at work, or of a model that is not there yet."""
    about = {
        "name": model,
        "family": "hy-mt1.5",
        "precision": "gptq-int4",
        "device": "cuda:0",
        "kernel": "W4A16",
        "languages": ["en", "zh", "ja"],
        "max_context_tokens": 8192,
        "segment_tokens": 512,
        "licence": TENCENT,
    }
    ready = {"status": "ready", "stage": "", "done": 1.0, "seconds_left": 0.0, "reason": ""}
    latency = {"count": 9, "median_seconds": 0.182, "p95_seconds": 1.42}
    return {
        "state": state or ready,
        "model": None if state else about,
        "plan": None if state else {"reason": "It fits.", "bytes": {"weights": 5.5 * GB, "kv": 8.2 * GB}},
        "devices": cards or [card()],
        "history": [{"ago": 58.0 - 2 * n, "used_bytes": 8 * GB, "tokens_per_second": 20.0 * n} for n in range(30)],
        "cache": {"hit_rate": 0.3124, "pages_used": 1200, "pages_free": 3900, "preempted": 2},
        "scheduler": {"slots": 64, "in_use": 37, "waiting_segments": 12, "requests": 9, "max_requests": 256},
        "traffic": {
            "finished": 1210,
            "cancelled": 9,
            "errors": {"text_too_long": 3, "overloaded": 1},
            "input_tokens": 812_345,
            "output_tokens": 798_765,
            "tokens_per_second": 612.4,
            "first_text": latency,
            "whole": latency,
        },
        "memory_bytes": {"process": 2 * GB, "weights": 5.4 * GB, "kv_total": 8.2 * GB, "workspace": None},
        "versions": {"yiwen": "1", "python": "3.11.9", "torch": "2.13.0", "cuda": None},
    }


class Stand:
    """Stands before a server and answers /system in its place, while there is an answer to give. Not in the browser,
    which keeps nothing of what it fetches where somebody looks at its requests: then a page takes twice as long."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.asked = 0

    def before(self, settings: uvicorn.Config) -> uvicorn.Server:
        server: ASGIApp = settings.app  # type: ignore[assignment]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if self.answer is None or scope["type"] != "http" or scope["path"] != "/system":
                return await server(scope, receive, send)
            self.asked += 1
            await JSONResponse(self.answer)(scope, receive, send)

        settings.app = app
        return uvicorn.Server(settings)


@pytest.fixture(scope="module")
def stand() -> Stand:
    return Stand()


@pytest.fixture(scope="module")
def backend() -> EchoBackend:
    return EchoBackend(0.02, slots=2)


@pytest.fixture(scope="module")
def address(serve: Serve, backend: EchoBackend, stand: Stand) -> str:
    return serve(backend, page=True, slots=2, serving=stand.before)  # a benchmark of one and of two streams


@pytest.fixture(scope="module", autouse=True)  # before there is a browser
def processes(serve: Serve, tiny_checkpoint: Path) -> Iterator[str]:
    """The address of two that work as one; who dies comes again after all is seen."""
    config = Config(model=str(tiny_checkpoint), backend="echo")
    loads = [(name, partial(ProcessBackend.load, config, name=name)) for name in ("cpu#1", "cpu#2")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(late, "PAUSE_SECONDS", 60.0)
        yield serve(Pool.load(loads, Progress()), page=True)


class Scripted:
    """A page whose server answers /system with `answer`, or is out of reach while that is None."""

    def __init__(self, studio: Studio, stand: Stand) -> None:
        self.studio, self.page, self._stand, self._refused = studio, studio.page, stand, 0

    @property
    def asked(self) -> int:
        return self._stand.asked + self._refused

    @property
    def answer(self) -> Answer | None:
        return self._stand.answer

    @answer.setter
    def answer(self, answer: Answer | None) -> None:
        is_back = self.answer is None and answer is not None
        if answer is None:
            self.page.route("**/system", self._refuse)
        self._stand.answer = answer  # while it is refused or answered here: what stands behind is never asked
        if is_back:
            self.page.unroute("**/system", self._refuse)

    def _refuse(self, route: Route) -> None:
        self._refused += 1
        route.abort()

    def asked_again(self, times: int = 2) -> None:
        """At once, since a page asks when it comes into sight."""
        until = self.asked + times
        while self.asked < until:
            self.page.evaluate(HIDE, False)
            self.page.wait_for_timeout(50)


Opening = Callable[..., AbstractContextManager[Scripted]]


@pytest.fixture
def scripted(stand: Stand, window: Page, address: str) -> Iterator[Opening]:
    """Opens a page whose server answers so; in the window of most tests, or in a new one of these."""

    @contextmanager
    def opened(answer: Answer, among: BrowserContext | None = None) -> Iterator[Scripted]:
        stand.answer = answer
        with a_studio(among or window, address) as studio:
            studio.open()
            yield Scripted(studio, stand)

    yield opened
    stand.answer = None


@pytest.fixture
def studio(window: Page, address: str) -> Iterator[Studio]:
    with a_studio(window, address) as studio:
        studio.open()
        yield studio


def words(page: Page, place: str) -> str:
    return " ".join(page.locator(place).inner_text().split())


def look_at_the_tab(page: Page, name: str = "System") -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_the_meter_says_model_memory_speed_and_who_waits(scripted: Opening) -> None:
    with scripted(system()) as it:
        meter = it.page.get_by_role("group", name="Machine and model")
        expect(meter).to_contain_text("HY-MT1.5-7B")
        said = words(it.page, "#yw-meter")
        for figure in ("gptq-int4", "NVIDIA L4", "15.9 GB / 24.0 GB", "612 tok/s", "37 running", "12 waiting"):
            assert figure in said
        assert "cache hits 31%" in said
        parts = [meter.locator(f".yw-bar [data-part=part_{part}]") for part in PARTS]
        assert [part.get_attribute("title") for part in parts] == [
            "Weights: 5.4 GB",
            "KV cache, used: 1.9 GB",
            "KV cache, reserved: 6.3 GB",
            "Workspace: 1.1 GB",
            "Other: 1.2 GB",
            "Free: 8.1 GB",
        ]
        widths = [part.bounding_box()["width"] for part in parts]  # type: ignore[index]
        assert widths == pytest.approx([120 * size / 24 for size in PARTS.values()], abs=1)
        expect(meter.get_by_role("img", name="580 at most")).to_be_visible()
        assert meter.bounding_box()["height"] < 30  # type: ignore[index]
        expect(meter.locator(".yw-legend")).to_contain_text("Workspace")  # for who hears the page


def test_the_tab_has_a_legend_of_each_card_and_what_was_planned_beside_what_is(scripted: Opening) -> None:
    cards = (
        card(limit=20 * GB),
        card({"weights": 0, "kv_used": 0, "kv_free": 0, "workspace": 0, "other": 2, "free": 22}),
    )
    cards[1].update(device="cuda:1", ours=False)
    with scripted(system(*cards)) as it:
        look_at_the_tab(it.page)
        devices = it.page.locator(".yw-system .yw-device")
        expect(devices).to_have_count(2)
        first, other = (" ".join(said.split()) for said in devices.all_inner_texts())
        assert first.startswith("NVIDIA L4 cuda:0 15.9 GB / 24.0 GB Weights 5.4 GB KV cache, used 1.9 GB")
        assert first.endswith("Limit (--max-vram-gb) 20.0 GB")
        assert other.startswith("NVIDIA L4 cuda:1 2.0 GB / 24.0 GB")
        assert "Limit" not in other
        bar = devices.first.locator(".yw-bar").bounding_box()
        tick = devices.first.locator(".yw-bar [data-part=part_limit]").bounding_box()
        assert (tick["x"] - bar["x"]) / bar["width"] == pytest.approx(20 / 24, abs=0.01)  # type: ignore[index]
        said = words(it.page, ".yw-system >> nth=0")
        for fact in ("It fits.", "Weights 5.5 GB 5.4 GB", "Workspace – –", "Languages 3", "Requests finished 1,210"):
            assert fact in said
        for fact in ("text_too_long 3 · overloaded 1", "To the first text 0.18 s 1.42 s", "Pages free 3,900", "CUDA –"):
            assert fact in said


def several(*states: str, warnings: tuple[str, ...] = ()) -> Answer:
    """Of cards with a model on each; one that has failed is seen no more."""
    cards = [card(number=number) for number, state in enumerate(states) if state != "failed"]
    replicas = [
        {
            **{"name": f"cuda:{number}", "devices": [f"cuda:{number}"], "state": state},
            "reason": ""
            if state == "ready"
            else "The model's process ended (signal 9) and is started again; "
            "try again in a few seconds. This is attempt 1.",
            **{"tokens": 21_400, "segments": 37, "slots": 64, "total_bytes": None, "used_bytes": None, "parts": None},
        }
        for number, state in enumerate(states)
    ]
    parts = {part: len(cards) * size for part, size in cards[0]["parts"].items()}
    sums = {key: len(cards) * cards[0][key] for key in ("total_bytes", "used_bytes")}
    total = cards[0] | {"device": "cuda:0,cuda:1", "name": f"{len(cards)} × NVIDIA L4", "parts": parts} | sums
    return system(*cards) | {"replicas": replicas, "total": total, "warnings": list(warnings)}


def test_of_several_cards_the_line_is_one_and_each_has_its_bar_and_what_it_is_at(scripted: Opening) -> None:
    away = "cuda:3 is being loaded again; the others translate meanwhile."
    with scripted(several("ready", "loading", "ready", "failed", warnings=(away,))) as it:
        meter = it.page.locator("#yw-meter")
        expect(meter.locator(".yw-bar")).to_have_count(1)
        assert "3 × NVIDIA L4 47.7 GB / 72.0 GB" in words(it.page, "#yw-meter")
        expect(meter.get_by_role("status")).to_have_text(away)
        look_at_the_tab(it.page)
        devices = it.page.locator(".yw-system .yw-device")
        expect(devices).to_have_count(4)
        said = [" ".join(each.split()) for each in devices.all_inner_texts()]
        assert said[0].startswith("NVIDIA L4 cuda:0 15.9 GB / 24.0 GB Segments under way: 37 of 64; tokens: 21,400 W")
        assert "cuda:1 15.9 GB / 24.0 GB Loading. The model's process ended (signal 9)" in said[1]
        assert said[3].startswith("cuda:3 Out of service. The model's process")
        assert [devices.nth(number).locator(".yw-bar").is_visible() for number in range(4)] == [True, True, True, False]
        it.answer = several("ready", "ready") | {"devices": [card(FULL, number=0), card(number=1)]}
        it.asked_again()
        expect(meter.get_by_role("status")).to_have_text("NVIDIA L4 (cuda:0): over 90% of its memory is in use.")


def test_a_licence_of_tencent_is_told_with_who_provides_the_service(scripted: Opening, address: str) -> None:
    with scripted(system()) as it:
        provider = it.page.locator("#yw-provider")
        expect(provider).to_contain_text(TENCENT)
        expect(provider).to_contain_text(f"Provided by whoever runs {address.removeprefix('http://')}; Tencent is not")
        it.answer = system() | {"provider": "Example Works Ltd."}
        it.asked_again()
        expect(provider).to_contain_text("Provided by Example Works Ltd.; Tencent is not affiliated with it")
        expect(it.page.locator(".yw-system [data-as=provider]")).to_contain_text("Provided by Example Works Ltd.;")


def test_a_model_without_such_a_licence_is_told_with_its_provider_alone(scripted: Opening) -> None:
    answer = system() | {"provider": "Example Works Ltd."}
    answer["model"]["licence"] = "Apache-2.0; trained on free text"
    with scripted(answer) as it:
        expect(it.page.locator("#yw-provider")).to_contain_text("Provided by Example Works Ltd.")
        assert "Tencent" not in words(it.page, "#yw-provider")


def test_a_full_card_is_told_once_in_words(scripted: Opening) -> None:
    with scripted(system()) as it:
        alarm = it.page.locator("#yw-meter").get_by_role("status")
        expect(alarm).to_be_hidden()
        it.page.evaluate(CHANGES)
        it.answer = system(card(FULL))
        it.asked_again()
        expect(alarm).to_have_text("NVIDIA L4: over 90% of its memory is in use.")
        it.asked_again()
        assert len(it.page.evaluate("window.said")) == 1


def test_while_the_model_loads_its_stage_and_time_are_shown_and_the_page_can_be_used(scripted: Opening) -> None:
    with scripted(system(state=LOADING)) as it:
        bar = it.page.locator("#yw-loading")
        expect(bar).to_contain_text("Loading the model: reading its weights")
        assert words(it.page, "#yw-loading").endswith("42% · 13 s left")
        expect(bar.get_by_role("progressbar", name="Loading the model")).to_have_js_property("value", 0.42)
        it.studio.write("Meanwhile.")
        assert it.studio.written() == "Meanwhile."
        it.page.evaluate(READY)
        it.asked_again()
        assert it.page.evaluate("window.isReady") is None
        it.answer = system()
        it.asked_again()
        expect(bar).to_be_hidden()
        expect(it.page.locator("#yw-meter")).to_contain_text("HY-MT1.5-7B")
        it.page.wait_for_function("window.isReady")


def test_a_model_that_cannot_be_loaded_is_one_sentence(scripted: Opening) -> None:
    with scripted(system(state=FAILED)) as it:
        expect(it.page.locator("#yw-loading")).to_be_visible()
        assert words(it.page, "#yw-loading") == FAILED["reason"]
        it.answer = None  # the program has ended, and the reason is still there to be read
        it.asked_again(1)
        expect(it.page.locator("#yw-meter")).to_contain_text("No connection")
        assert words(it.page, "#yw-loading") == FAILED["reason"]
        it.studio.complaints.clear()  # the browser's own lines about what was not reached


def test_a_server_that_comes_back_with_another_model_is_shown_anew(scripted: Opening) -> None:
    with scripted(system()) as it:
        expect(it.page.locator("#yw-meter")).to_contain_text("HY-MT1.5-7B")
        it.answer = None
        it.asked_again(1)
        expect(it.page.locator("#yw-meter")).to_contain_text("No connection to the server; trying again.")
        it.answer = system(model="Hy-MT2-7B")
        it.asked_again(1)
        for place in ("#yw-meter", "#yw-provider"):
            expect(it.page.locator(place)).to_contain_text("Hy-MT2-7B")
        expect(it.page.locator("#yw-meter")).not_to_contain_text("No connection")
        it.studio.complaints.clear()


def test_a_hidden_page_asks_for_nothing_and_goes_on_at_once_when_it_is_seen(scripted: Opening) -> None:
    with scripted(system()) as it:
        it.page.evaluate(HASTE, 5)
        it.asked_again()  # and so it knows no other pauses any more
        it.page.evaluate(HIDE, True)
        it.page.wait_for_timeout(100)  # for what is under way
        before = it.asked
        it.page.wait_for_timeout(1_000)
        assert it.asked == before
        it.page.evaluate(HASTE, 1)
        it.page.evaluate(HIDE, False)
        it.page.wait_for_timeout(300)
        assert it.asked == before + 1
        soon(lambda: it.asked == before + 2)


def test_no_question_is_asked_before_the_last_is_answered(window: Page, address: str) -> None:
    held: list[Route] = []
    with a_studio(window, address) as studio:
        studio.page.route("**/system", lambda route: held.append(route))
        studio.open()
        for _ in range(3):
            studio.page.evaluate(HIDE, False)
            studio.page.wait_for_timeout(250)  # all together longer than its pause
        assert len(held) == 1
        held[0].fulfill(json=system())
        expect(studio.page.locator("#yw-meter")).to_contain_text("HY-MT1.5-7B")
        held.clear()


def test_the_figures_are_those_of_the_server(studio: Studio, address: str) -> None:
    studio.write("Counted, and shown. ")
    studio.translate()
    studio.wait_done()
    look_at_the_tab(studio.page)
    tab = studio.page.locator(".yw-system").first
    expect(tab).to_contain_text("Name echo", use_inner_text=True)
    soon(lambda: "Requests finished 1" in words(studio.page, ".yw-system >> nth=0"))
    said = words(studio.page, ".yw-system >> nth=0")
    for fact in ("Languages 38", "Segments at once, at most 2", "Segments running 0", "Tokens out 5", "Gradio 6."):
        assert fact in said
    assert re.search(r"\d [MG]B / \d", words(studio.page, "#yw-meter"))


def test_a_benchmark_is_told_and_drawn_and_a_second_is_refused_in_words(
    studio: Studio, desk: BrowserContext, address: str, backend: EchoBackend
) -> None:
    with a_studio(desk, address) as second:
        second.open()
        look_at_the_tab(second.page)
        look_at_the_tab(studio.page)
        studio.page.locator("#yw-bench-start").click()
        soon(lambda: backend.running > 0)
        second.page.locator("#yw-bench-start").click()
        expect(second.page.get_by_text("A benchmark is running already")).to_be_visible()
    points = studio.page.locator("#yw-points tbody tr")
    expect(points).to_have_count(2)
    expect(studio.page.get_by_text("Measured.")).to_be_visible()
    expect(points.nth(1)).to_contain_text("tok/s")
    for plot in ("#yw-bench-rate", "#yw-bench-first"):
        expect(studio.page.locator(f"{plot} [role=graphics-document]")).to_be_visible()


def test_a_benchmark_is_stopped_when_asked_and_when_its_reader_leaves(
    studio: Studio, desk: BrowserContext, address: str, backend: EchoBackend
) -> None:
    look_at_the_tab(studio.page)
    start, stop = studio.page.locator("#yw-bench-start"), studio.page.locator("#yw-bench-stop")
    start.click()
    soon(lambda: backend.running > 0)
    stop.click()
    soon(lambda: backend.running == 0)
    expect(studio.page.get_by_text("Stopped.", exact=True).last).to_be_visible()
    expect(start).to_be_enabled()
    expect(stop).to_be_disabled()
    with a_studio(desk, address) as second:
        second.open()
        look_at_the_tab(second.page)
        second.page.locator("#yw-bench-start").click()
        soon(lambda: backend.running > 0)
    soon(lambda: backend.running == 0)


def test_a_phone_in_chinese_has_the_device_its_bar_and_the_speed_and_does_not_scroll_sideways(
    chromium: Browser, scripted: Opening
) -> None:
    phone = chromium.new_context(viewport={"width": 390, "height": 844}, locale="zh-CN", color_scheme="dark")
    with phone, scripted(system(card(FULL), card(number=1, ours=False)), phone) as it:
        expect(it.page.locator("#yw-meter")).to_contain_text("NVIDIA L4：内存使用率超过 90%。")
        seen = it.page.locator("#yw-meter > :visible:not(.yw-devices)").all_inner_texts()
        assert [" ".join(each.split()) for each in seen] == ["612 词元/秒", "NVIDIA L4：内存使用率超过 90%。"]
        expect(it.page.locator("#yw-meter .yw-bar").first).to_be_visible()
        expect(it.page.locator("#yw-meter .yw-bar").last).to_be_hidden()  # of the card that is not ours
        for answer, said in ((system(state=LOADING), "正在加载模型：读取权重"), (system(), "加载方式与原因")):
            it.answer = answer
            it.asked_again()
            look_at_the_tab(it.page, "系统")
            expect(it.page.get_by_text(said)).to_be_visible()
            assert it.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_on_a_phone_in_chinese_several_cards_fit_and_what_is_amiss_is_told_in_words(
    chromium: Browser, scripted: Opening
) -> None:
    phone = chromium.new_context(viewport={"width": 390, "height": 844}, locale="zh-CN", color_scheme="dark")
    uneven = "cuda:1 has over 10% less memory in use than cuda:0; look whether another program runs there."
    full = "For half a minute cuda:0 has been full while cuda:1 had over 25% less to do."
    with phone, scripted(several("ready", "loading", "ready", warnings=(uneven, full)), phone) as it:
        alarm = it.page.locator("#yw-meter").get_by_role("status")
        expect(alarm).to_contain_text("cuda:1 的已用内存比 cuda:0 少 10% 以上，请检查后者是否还运行着其他程序。")
        expect(alarm).to_contain_text("半分钟以来 cuda:0 一直满负荷，而 cuda:1 的任务量少 25% 以上。")
        look_at_the_tab(it.page, "系统")
        devices = it.page.locator(".yw-system .yw-device")
        expect(devices.nth(0)).to_contain_text("进行中的分段：37/64；词元：21,400")
        expect(devices.nth(1)).to_contain_text("正在加载。 模型进程已结束（signal 9），正在重新启动")
        assert it.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(it.page) == []


def test_processes_on_the_cpu_have_bars_of_their_own_and_one_that_dies_is_told(processes: str, window: Page) -> None:
    with a_studio(window, processes) as studio:
        studio.open()
        look_at_the_tab(studio.page)
        members = studio.page.locator(".yw-system .yw-members .yw-device")
        expect(members).to_have_count(2)
        said = words(studio.page, ".yw-system .yw-members .yw-device >> nth=1")
        assert re.match(r"cpu#2 \d+ MB / .* GB Segments under way: 0 of \d; tokens: 0 Weights", said)
        expect(members.nth(1).locator(".yw-bar")).to_be_visible()
        next(each for each in psutil.Process().children() if "engine.backends.worker" in each.cmdline()).kill()
        expect(members.filter(has_text="Loading. The model's process ended (signal 9)")).to_have_count(1)
        alarm = studio.page.locator("#yw-meter").get_by_role("status")
        expect(alarm).to_contain_text(re.compile(r"cpu#\d is being loaded again; the others translate meanwhile\."))
