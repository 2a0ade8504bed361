"""The page in a real browser, on the real server, with a backend that says the source back at a steady pace."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, WebSocketRoute, expect

from engine.backends.echo import EchoBackend
from tests.conftest import Serve, soon
from tests.studio import BOX, Studio, a_browser, a_studio

TOKEN_SECONDS = 0.03
LONG = "The page shows every word as it comes. " * 20  # 195 tokens: 6 seconds, unless it is stopped

pytestmark = pytest.mark.timeout(60, func_only=True)  # the fixtures start a browser and a server once


@pytest.fixture(scope="module")
def backend() -> EchoBackend:
    return EchoBackend(TOKEN_SECONDS)


@pytest.fixture(scope="module")
def address(serve: Serve, backend: EchoBackend) -> str:
    return serve(backend, page=True)


@pytest.fixture(scope="module")
def address_below_a_path(serve: Serve) -> str:
    return serve(EchoBackend(), page=True, root_path="/yiwen")


@pytest.fixture(scope="module")
def address_to_stop(serve: Serve, address: str, address_below_a_path: str, address_of_one_slot: str) -> str:
    """The last to be started: it can be stopped alone."""
    return serve(EchoBackend(TOKEN_SECONDS), page=True)


@pytest.fixture(scope="module")
def address_of_one_slot(serve: Serve) -> str:
    return serve(EchoBackend(0.02, slots=1), page=True, slots=1)


@contextmanager
def crowd(address: str, readers: int) -> Iterator[None]:
    """So many others, each of whom has asked for a line that takes a fifth of a second."""
    with ThreadPoolExecutor(readers) as pool, httpx.Client(timeout=60) as client:
        asks = {"text": "A line of forty characters, or nearly so.", "source_lang": "en", "target_lang": "de"}
        coming = [pool.submit(client.post, f"{address}/translate", json=asks) for _ in range(readers)]
        soon(lambda: client.get(f"{address}/system").json()["scheduler"]["requests"] >= readers)
        yield
        assert all(answer.result().status_code == 200 for answer in coming)


@pytest.fixture(scope="module")
def chromium(address_to_stop: str) -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser


def scripted(socket: WebSocketRoute, extra: Sequence[dict[str, object]] = ()) -> Callable[[str | bytes], None]:
    """A server that says all there is to say: a wait, a frame of an old run, a segment taken back."""
    done = {
        "translation": "Taken, again.",
        "detected_source_lang": "en",
        "detection": [],
        "terms": [],
        "warnings": [],
        "changes": [],
    }
    messages = [
        {"type": "queued", "ahead": 2},
        {"type": "started", "segments": 2, "detected_source_lang": "en", "detection": []},
        {"type": "delta", "segment": 0, "text": "Gi"},
        {"type": "delta", "segment": 0, "text": "stale", "id": "r0"},
        {"type": "replace", "segment": 0, "text": "Taken,"},
        {"type": "delta", "segment": 1, "text": " again."},
        *extra,
        {"type": "done", **done, "usage": {"segments": 2, "input_tokens": 3, "output_tokens": 4, "seconds": 0.1}},
    ]

    def answer(message: str | bytes) -> None:
        asked = json.loads(message)
        for said in messages if asked["type"] == "start" else []:
            socket.send(json.dumps({"id": asked["id"], **said}))

    return answer


@pytest.fixture
def studio(window: Page, address: str) -> Iterator[Studio]:
    with a_studio(window, address) as studio:
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
    expect(studio.page.locator("#yw-status")).to_have_text(re.compile(r"Done: 15 tokens in \d\.\d s"))
    expect(studio.page.locator("#yw-guess")).to_contain_text("Detected: English")


def test_stop_freezes_the_text_and_frees_the_slot_within_200_ms(studio: Studio, backend: EchoBackend) -> None:
    studio.write(LONG)
    studio.translate()
    expect(studio.page.locator(BOX)).to_contain_text("The page shows")
    studio.page.keyboard.press("Escape")
    soon(lambda: backend.running == 0, seconds=0.2)
    frozen = studio.shown()
    expect(studio.page.locator("#yw-status")).to_contain_text("Stopped")
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
    studio.page.keyboard.press("Alt+s")
    expect(studio.page.locator(BOX)).to_have_text("A second text, in English.")
    assert studio.written() == "The first text, in English."
    assert (studio.chosen("#yw-from"), studio.chosen("#yw-to")) == ("中文 · Chinese", "English")  # the one detected
    studio.page.locator("#yw-swap").click()
    expect(studio.page.locator(BOX)).to_have_text("The first text, in English.")
    assert studio.written() == "A second text, in English."
    assert (studio.chosen("#yw-from"), studio.chosen("#yw-to")) == ("English", "中文 · Chinese")


def test_an_error_is_one_sentence_and_no_text_is_lost(studio: Studio) -> None:
    studio.write("Good morning.")
    studio.translate()
    studio.wait_done()
    studio.write(" ")
    studio.translate()
    studio.wait_done()
    studio.write("")
    studio.translate()
    error = studio.page.locator("#yw-notes .yw-error")
    expect(error).to_have_text(re.compile(r"^[A-Z][^<>{}]+\.$"))
    assert studio.shown() == " "


def test_a_language_is_found_by_any_of_its_names(studio: Studio) -> None:
    none, german = "No such language here", "Deutsch · German"
    option = studio.page.locator("#yw-to [role=option]").first
    for name in ("Deutsch", "nein", "german", "allem", "德语", "zz", "de", "qq", "DEU"):  # never the same in a row
        studio.page.locator("#yw-to input").fill(name)
        expect(option).to_have_text(none if name in ("nein", "allem", "zz", "qq") else german)
        studio.page.keyboard.press("Escape")
        assert studio.chosen("#yw-to") == "中文 · Chinese"


def test_pinned_and_recent_languages_come_first_and_outlast_the_page(studio: Studio) -> None:
    for language in ("Thai", "Polish"):
        studio.choose("#yw-to", language)
    studio.page.locator("#yw-to .yw-pin").click()
    studio.page.reload()
    expect(studio.page.locator("body")).to_have_attribute("data-ready", "true")
    assert studio.chosen("#yw-to") == "Polski · Polish"
    studio.page.locator("#yw-to input").click()
    groups = studio.page.locator("#yw-to [role=group]")
    expect(groups.nth(0)).to_have_text("Polski · Polish")
    expect(groups.nth(0)).to_have_attribute("aria-label", "Pinned")
    expect(groups.nth(1).locator("[role=option]").first).to_have_text("ไทย · Thai")


def test_choosing_the_language_of_the_other_side_turns_the_pair_round(studio: Studio) -> None:
    studio.choose("#yw-from", "English")
    studio.choose("#yw-to", "English")
    assert (studio.chosen("#yw-from"), studio.chosen("#yw-to")) == ("中文 · Chinese", "English")


def test_a_wrong_guess_is_corrected_by_one_click(studio: Studio) -> None:
    studio.write("Taxi hotel")
    guess = studio.page.locator("#yw-guess")
    expect(guess).to_contain_text("not sure")
    rather = guess.get_by_role("button", name="instead").first
    language = (rather.text_content() or "").removesuffix(" instead")
    rather.click()
    assert language in studio.chosen("#yw-from")
    expect(guess).to_be_empty()


def test_what_is_typed_is_translated_after_a_rest_and_a_long_text_is_not(studio: Studio, backend: EchoBackend) -> None:
    studio.page.locator("#yw-live").check()
    studio.page.locator("#yw-source textarea").press_sequentially("Typed slowly.", delay=20)
    studio.wait_done()
    assert studio.shown() == "Typed slowly."
    studio.page.locator("#yw-source textarea").press_sequentially(" And on.", delay=20)
    expect(studio.page.locator(BOX)).to_have_text("Typed slowly. And on.")
    studio.write("A long text. " * 200)
    expect(studio.page.locator("#yw-status")).to_contain_text("not translated while you type")
    assert backend.running == 0
    studio.page.locator("#yw-live").uncheck()


def test_characters_and_tokens_of_the_source_are_counted_against_the_limit(studio: Studio) -> None:
    studio.write("八个字的一句话。")
    expect(studio.page.locator("#yw-characters")).to_have_text("8 characters")
    expect(studio.page.locator("#yw-tokens")).to_have_text("2 of 200,000 tokens")


def test_copy_puts_the_translation_on_the_clipboard(studio: Studio) -> None:
    studio.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    studio.write("Copy me.")
    studio.translate()
    studio.wait_done()
    studio.page.keyboard.press("Control+Shift+C")
    expect(studio.page.locator("#yw-status")).to_have_text("Copied")
    assert studio.page.evaluate("navigator.clipboard.readText()") == "Copy me."


def test_the_translation_is_downloaded_as_it_stands(studio: Studio, tmp_path: Path) -> None:
    studio.page.locator("#yw-format").select_option("markdown")
    studio.write("# One\n\n*two*")
    studio.translate()
    studio.wait_done()
    with studio.page.expect_download() as coming:
        studio.page.locator("#yw-download").click()
    assert coming.value.suggested_filename == "yiwen.zh.md"
    coming.value.save_as(tmp_path / "one.md")
    assert (tmp_path / "one.md").read_text("utf-8") == "# One\n\n*two*"


def test_a_link_carries_a_short_text_and_translates_it(studio: Studio) -> None:
    studio.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    studio.choose("#yw-to", "German")
    studio.write("Carried & kept?")
    studio.page.locator("#yw-link").click()
    expect(studio.page.locator("#yw-status")).to_have_text("Copied")
    link = studio.page.evaluate("navigator.clipboard.readText()")
    studio.open(link.removeprefix(f"{studio.address}/").replace("source=auto", "source=en"))
    studio.wait_done()
    assert (studio.written(), studio.shown()) == ("Carried & kept?", "Carried & kept?")
    assert (studio.chosen("#yw-from"), studio.chosen("#yw-to")) == ("English", "Deutsch · German")
    assert "q=Carried" in studio.page.url


def test_the_history_stays_in_the_browser_and_can_be_switched_off_and_cleared(studio: Studio) -> None:
    page = studio.page
    studio.write("Worth keeping.")
    studio.translate()
    studio.wait_done()
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-ready", "true")
    page.get_by_text("History", exact=True).click()
    page.get_by_role("button", name="Worth keeping.").click()
    assert (studio.written(), studio.shown()) == ("Worth keeping.", "Worth keeping.")
    page.locator("#yw-history-on").uncheck()
    studio.write("Not this.")
    studio.translate()
    studio.wait_done()
    expect(page.get_by_role("button", name="Not this.")).to_have_count(0)
    page.locator("#yw-history-clear").click()
    expect(page.get_by_role("button", name="Worth keeping.")).to_have_count(0)
    page.locator("#yw-history-on").check()


def test_a_text_outlasts_a_reload_and_a_change_of_the_pages_language(studio: Studio) -> None:
    page = studio.page
    studio.write("Half a thought")
    page.locator("#yw-context textarea").fill("Of a letter.")
    page.locator("#yw-language").click()
    expect(page.locator("#yw-translate")).to_have_text("翻译")
    expect(page.locator("body")).to_have_attribute("data-ready", "true")
    assert studio.written() == "Half a thought"
    assert page.locator("#yw-context textarea").input_value() == "Of a letter."


def test_a_text_in_the_target_language_turns_the_target(studio: Studio) -> None:
    studio.choose("#yw-to", "English")
    studio.write("This is written in English, as anybody can see.")
    studio.translate()
    studio.wait_done()
    assert studio.chosen("#yw-to") == "中文 · Chinese"
    assert studio.shown() == studio.written()
    expect(studio.page.locator("#yw-notes")).to_be_empty()


def test_another_target_counts_for_what_is_shown_already(studio: Studio) -> None:
    studio.write("Once more, please.")
    studio.translate()
    studio.wait_done()
    studio.choose("#yw-to", "Arabic")
    expect(studio.page.locator(BOX)).to_have_attribute("lang", "ar")
    studio.wait_done()
    assert studio.shown() == "Once more, please."


def test_what_belongs_to_another_text_goes_with_it(studio: Studio) -> None:
    page = studio.page
    page.locator("#yw-live").check()
    studio.write("Soon gone, and in English.")
    studio.wait_done()
    page.locator("#yw-preview-on").check()
    studio.write("")
    expect(page.locator(BOX)).to_be_empty()
    expect(page.locator("#yw-guess")).to_be_empty()
    page.locator("#yw-versions-of").click()
    expect(page.locator("#yw-status")).to_contain_text("Translate first")
    for sign in ("#yw-download", "#yw-copy", "#yw-link", "#yw-listen"):
        page.locator(sign).click()
        expect(page.locator("#yw-status")).not_to_have_text("Copied")
    expect(page.frame_locator("#yw-preview iframe").locator("body")).to_be_empty()


def test_an_example_is_one_click_away_and_says_its_format(studio: Studio) -> None:
    studio.page.get_by_role("button", name="Markdown").click()
    studio.wait_done()
    assert studio.shown().startswith("## Opening hours")
    expect(studio.page.locator("#yw-try")).to_be_hidden()


def test_a_rendered_preview_runs_no_script_of_the_text_and_asks_nobody(studio: Studio) -> None:
    studio.page.locator("#yw-preview-on").check()
    studio.write(
        "# A title\n\n<script>parent.document.title = 'bad'; document.title = 'bad'</script>\n\n"
        "<img src=x onerror=\"parent.document.title = 'bad'\">\n\n![far](https://example.org/a.png) *soft*\n"
    )
    studio.translate()
    studio.wait_done()
    frame = studio.page.frame_locator("#yw-preview iframe")
    expect(frame.locator("h1")).to_have_text("A title")
    expect(frame.locator("em")).to_have_text("soft")
    assert studio.page.title() == "译文 Yiwen"
    studio.complaints.clear()  # the browser says that it has blocked a script and two pictures
    studio.strangers.clear()
    studio.page.locator("#yw-preview-on").uncheck()
    expect(studio.page.locator("#yw-preview")).to_be_hidden()


def test_context_is_sent_and_the_prompt_is_shown_word_for_word(studio: Studio) -> None:
    studio.page.locator("#yw-context textarea").fill("A menu of a phone.")
    studio.write("Open it. Close it again.\n\nA second paragraph.")
    studio.page.locator("#yw-seen summary").click()
    seen = studio.page.locator("#yw-seen")
    expect(seen).to_contain_text("Segment 1 of")
    expect(seen.locator("pre")).to_contain_text("A menu of a phone.")
    expect(seen.locator("pre")).to_contain_text("Open it.")
    last = studio.page.locator("#yw-seen-after")
    while last.is_enabled():
        last.click()
        studio.page.wait_for_timeout(200)
    expect(seen.locator("[data-fill=before]")).to_contain_text("Close it again.")
    studio.page.locator("#yw-clear-context").click()
    assert studio.page.locator("#yw-context textarea").input_value() == ""


def test_what_did_not_fit_of_the_context_is_said(studio: Studio) -> None:
    studio.page.locator("#yw-context textarea").fill("A sentence that says little. " * 200)
    studio.write("Short.")
    studio.page.locator("#yw-seen summary").click()
    expect(studio.page.locator("#yw-seen [data-fill=cut]")).to_have_text(re.compile(r"Its first [\d,]+ characters"))


def test_terms_are_marked_in_the_source_and_in_the_translation(studio: Studio) -> None:
    studio.page.evaluate("localStorage.setItem('yiwen-quick', JSON.stringify([{ source: 'ferry', target: '' }]))")
    studio.page.reload()
    expect(studio.page.locator("body")).to_have_attribute("data-ready", "true")
    studio.write("🚢 The ferry waits.\n\nNo ferry waits for ever.")
    studio.translate()
    studio.wait_done()
    expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_text("ferry kept 2 of 2")
    marked = studio.page.evaluate(
        "[...CSS.highlights.get('yw-term')].map((range) => [range.startContainer.parentElement.id, String(range)])"
    )
    assert sorted(marked) == [["", "ferry"], ["", "ferry"], ["yw-output-box", "ferry"], ["yw-output-box", "ferry"]]
    studio.write("Something else.")
    assert studio.page.evaluate("CSS.highlights.get('yw-term').size") == 0


def test_a_missed_term_is_listed_with_a_way_to_its_place(desk: BrowserContext, address: str) -> None:
    term = {"source": "ferry", "target": "Fähre", "count": 1, "applied": 0, "places": [], "source_places": [[6, 11]]}
    segment = {"type": "segment", "segment": 0, "source": "x", "text": "Taken,", "terms": [term], "warnings": []}
    with a_studio(desk, address) as studio:
        answer = partial(scripted, extra=[segment])
        studio.page.route_web_socket("**/ws/translate", lambda socket: socket.on_message(answer(socket)))
        studio.open()
        studio.write("🚢 The ferry waits.")
        studio.translate()
        studio.wait_done()
        missed = studio.page.locator("#yw-notes .yw-term-missed")
        expect(missed).to_contain_text("ferry → Fähre used 0 of 1")
        missed.get_by_role("button", name="Show where").click()
        field = studio.page.locator("#yw-source textarea")
        expect(field).to_be_focused()
        assert field.evaluate("(one) => one.value.slice(one.selectionStart, one.selectionEnd)") == "ferry"
        assert studio.page.evaluate("String([...CSS.highlights.get('yw-picked')][0])") == "Taken,"
        assert studio.page.evaluate("CSS.highlights.get('yw-missed').size") == 1


def test_another_version_takes_the_place_of_the_segment(studio: Studio) -> None:
    def versions(route: Route) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(json={"segment": asked[-1]["segment"], "alternatives": ["Another first. ", "A third. "]})

    asked: list[dict[str, object]] = []
    studio.page.route("**/alternatives", versions)
    studio.write("The first sentences make one segment of their own. " * 4 + "The second is alone. " * 9)
    studio.translate()
    studio.wait_done()
    studio.page.locator(BOX).focus()
    for _ in range(2):
        studio.page.keyboard.press("ArrowRight")
    segment = studio.page.evaluate("String([...CSS.highlights.get('yw-picked')][0])")
    before = studio.shown()
    studio.page.locator("#yw-versions-of").click()
    studio.page.get_by_role("button", name="Another first.").click()
    assert asked[0]["segment"] == 1
    assert studio.shown() == before.replace(segment, "Another first. ") != before


def test_a_restart_of_the_server_is_waited_out(chromium: Browser, serve: Serve, address_to_stop: str) -> None:
    """The text stays, the run begins again, and nobody presses anything."""
    with chromium.new_context(locale="en-US") as context, a_studio(context, address_to_stop) as studio:
        studio.open("?source=en&target=de")
        studio.write(LONG)
        studio.translate()
        expect(studio.page.locator(BOX)).to_contain_text("The page shows")
        port = int(address_to_stop.rsplit(":", 1)[1])
        serve.stop(last=True)
        expect(studio.page.locator("#yw-status")).to_contain_text("connection")
        with ThreadPoolExecutor(1) as pool:  # Playwright has a loop in this thread
            pool.submit(serve, EchoBackend(), page=True, port=port).result()
        studio.wait_done()
        assert studio.shown() == LONG
        studio.complaints.clear()  # of the browser, about a server that was not there


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
        expect(studio.page.locator("#yw-notes")).to_be_empty()


def test_frames_of_an_old_run_never_paint_and_a_segment_can_be_taken_back(desk: BrowserContext, address: str) -> None:
    with a_studio(desk, address) as studio:
        studio.page.route_web_socket("**/ws/translate", lambda socket: socket.on_message(scripted(socket)))
        studio.open()
        studio.write("Anything.")
        studio.translate()
        studio.wait_done()
        assert studio.shown() == "Taken, again."


def test_a_run_that_breaks_off_begins_again_by_itself(desk: BrowserContext, address: str) -> None:
    def breaks_once(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def forward(message: str | bytes) -> None:
            socket.send(message)
            if '"delta"' in str(message) and not broken:
                broken.append(message)
                socket.close()

        server.on_message(forward)

    broken: list[str | bytes] = []
    with a_studio(desk, address) as studio:
        studio.page.route_web_socket("**/ws/translate", breaks_once)
        studio.open()
        studio.write("It breaks off once, and is whole in the end.")
        studio.translate()
        studio.wait_done()
        assert broken
        assert studio.shown() == "It breaks off once, and is whole in the end."


def test_a_run_that_fails_half_way_is_not_taken_for_the_whole(desk: BrowserContext, address: str) -> None:
    failing = [{"type": "error", "code": "backend_failed", "error": "The model failed."}]
    with a_studio(desk, address) as studio:
        studio.page.route_web_socket("**/ws/translate", lambda socket: socket.on_message(scripted(socket, failing)))
        studio.open()
        studio.write("Anything.")
        studio.translate()
        expect(studio.page.locator("#yw-status")).to_contain_text("not all of it")
        expect(studio.page.locator("#yw-notes .yw-error")).to_have_text("The model failed.")
        assert studio.shown() == "Taken, again."


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/glossaries/", lambda told: told["code"]),
        ("/v1/embeddings", lambda told: told["error"]["code"]),
        ("/v2/nothing", lambda told: told["detail"]),
    ],
)
def test_nothing_below_an_address_of_ours_is_told_as_its_programs_know_it(
    address: str, path: str, said: Callable[[dict[str, Any]], str]
) -> None:
    answer = httpx.post(address + path)
    assert (answer.status_code, said(answer.json())) == (404, "not_found")


def test_the_queue_is_told_and_moves(chromium: Browser, address_of_one_slot: str) -> None:
    with chromium.new_context(locale="en-US") as context, a_studio(context, address_of_one_slot) as studio:
        studio.open()
        studio.write("Last of all.")
        with crowd(address_of_one_slot, 13):
            studio.translate()
            status = studio.page.locator("#yw-status")
            expect(status).to_have_text(re.compile(r"^(13|12|11) ahead of you$"))
            expect(status).to_have_text(re.compile(r"^\d ahead of you$"))
            studio.wait_done()
        assert studio.shown() == "Last of all."


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


def test_a_page_of_html_keeps_its_tags_whatever_the_format_is_called(studio: Studio) -> None:
    page = "<p>One <b>two</b> &amp; three.</p>"
    for choice in ("auto", "html"):
        studio.page.locator("#yw-format").select_option(choice)
        studio.write(page)
        studio.translate()
        studio.wait_done()
        assert studio.shown() == page


def test_a_target_that_is_written_from_the_right_is_painted_so(studio: Studio) -> None:
    studio.choose("#yw-to", "Arabic")
    studio.write("From the right.")
    studio.translate()
    studio.wait_done()
    box = studio.page.locator(BOX)
    assert (box.get_attribute("dir"), box.get_attribute("lang")) == ("rtl", "ar")
    assert studio.page.evaluate(f"getComputedStyle(document.querySelector('{BOX}')).textAlign") in ("start", "right")


def test_everything_is_done_by_keyboard_alone(studio: Studio) -> None:
    page = studio.page
    page.locator("#yw-from-input").focus()
    page.keyboard.type("engl")
    page.keyboard.press("Enter")
    assert studio.chosen("#yw-from") == "English"
    page.locator("#yw-source textarea").focus()
    page.keyboard.type(
        "By keys alone. And a second sentence to walk to, which is long enough for a segment of its own."
    )
    page.keyboard.press("Control+Enter")
    studio.wait_done()
    page.locator(BOX).focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("CSS.highlights.get('yw-picked').size") == 1
    page.keyboard.press("?")
    expect(page.locator("#yw-sheet")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#yw-sheet")).to_be_hidden()


def test_the_theme_and_the_language_of_the_page_can_be_chosen_and_are_kept(studio: Studio) -> None:
    page = studio.page
    page.locator("#yw-theme").click()
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    page.locator("#yw-language").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    expect(page.locator("#yw-translate")).to_have_text("翻译")
    expect(page.get_by_role("tab", name="文档")).to_be_visible()
    page.locator("#yw-language").click()
    expect(page.locator("#yw-translate")).to_have_text("Translate")
    studio.wait_ready()  # Gradio has put the words there, and nothing answers a click before our part is there too
    page.locator("#yw-theme").click()
    expect(page.locator("body")).not_to_have_class(re.compile("dark"))
