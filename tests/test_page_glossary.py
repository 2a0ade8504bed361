"""Glossaries and terms on the page, in a real browser on the real server, with a backend that says the source back."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, WebSocket, WebSocketRoute, expect

from engine.backends.echo import EchoBackend
from tests.conftest import Serve
from tests.test_page import Studio, a_browser, a_studio

CSV = b"en,zh\ntram,tram\nstop,\n"  # an echo has a term where its target is its source, or is to be kept
BAD_ROWS = b",nothing\ntram,train\n" + b"x" * 300 + b",too long\n"
TEXT = "🚋 The tram is at the stop 🚏. The tram leaves 😀 now."
PICKER = "#yw-glossary"
# Of each element with words of its own: what they are, if their colour stands out from what is behind them too little.
FAINT = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0.05);
  const behind = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return (parts(colour)[3] ?? 1) || !element.parentElement ? colour : behind(element.parentElement);
  };
  const faint = (element) => {
    const [first, second] = [light(getComputedStyle(element).color), light(behind(element))];
    return Math.max(first, second) / Math.min(first, second) < 4.5;
  };
  const spoken = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll("body *:not(:disabled)")]
    .filter((element) => spoken(element) && element.checkVisibility() && faint(element))
    .map((element) => element.textContent);
}"""

pytestmark = pytest.mark.timeout(60, func_only=True)  # the fixtures start a browser and a server once


@pytest.fixture(scope="module")
def address(serve: Serve) -> str:
    return serve(EchoBackend(), page=True)


@pytest.fixture(scope="module")
def chromium(address: str) -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def desk(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context(viewport={"width": 1280, "height": 844}, locale="en-US") as context:
        yield context


@pytest.fixture
def studio(desk: BrowserContext, address: str) -> Iterator[Studio]:
    """With its terms open, and nothing left from a test before."""
    for kept in httpx.get(f"{address}/glossaries").json():
        httpx.delete(f"{address}/glossaries/{kept['id']}")
    with a_studio(desk, address) as studio:
        studio.open()
        studio.page.get_by_role("button", name="Terms").click()
        yield studio
        studio.page.evaluate("localStorage.clear()")


def send(studio: Studio, data: bytes = CSV, name: str = "trams.csv") -> None:
    studio.page.locator("#yw-glossary-file").set_input_files({"name": name, "mimeType": "", "buffer": data})


def send_well(studio: Studio, data: bytes = CSV) -> str:
    """The glossary's id, once it is chosen."""
    send(studio, data)
    expect(studio.page.locator(PICKER)).to_have_value(re.compile(".+"))
    return studio.page.locator(PICKER).input_value()


def said(studio: Studio, sentence: str | re.Pattern[str]) -> None:
    expect(studio.page.locator(".yw-glossary-said")).to_have_text(sentence)


def asked(studio: Studio) -> list[dict[str, Any]]:
    """What the page asks for on its socket from now on; the page is opened for that."""
    messages: list[dict[str, Any]] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: messages.append(json.loads(frame)))

    studio.page.on("websocket", listen)
    studio.open()
    return messages


def marked(studio: Studio) -> list[str]:
    words: list[str] = studio.page.evaluate("[...(CSS.highlights.get('yw-term') ?? [])].map(String).sort()")
    return words


def answering(**done: Any) -> Callable[[WebSocketRoute], None]:
    """A server that answers everything with `done`."""
    usage = {"segments": 1, "input_tokens": 3, "output_tokens": 4, "seconds": 0.1}
    whole = {"translation": "So.", "detected_source_lang": "fr", "detection": [], "terms": [], "warnings": [], **done}

    def answer(socket: WebSocketRoute, message: str | bytes) -> None:
        if (request := json.loads(message))["type"] == "start":
            started = {"type": "started", "segments": 1, "detected_source_lang": "fr", "detection": []}
            for told in (started, {"type": "done", "usage": usage, **whole}):
                socket.send(json.dumps({"id": request["id"], **told}))

    return lambda socket: socket.on_message(lambda message: answer(socket, message))


def test_an_imported_glossary_is_chosen_and_used_and_its_terms_are_marked(studio: Studio) -> None:
    send(studio)
    said(studio, "trams is ready. Terms: 2")
    expect(studio.page.locator(f"{PICKER} option:checked")).to_have_text("trams · English → Chinese · 2")
    studio.write(TEXT)
    studio.translate()
    expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_text(["tram kept 2 of 2", "stop kept 1 of 1"])
    assert studio.shown() == TEXT
    assert marked(studio) == ["stop", "tram", "tram"]


def test_the_next_translation_begins_without_marks_and_a_swap_takes_them_away(studio: Studio) -> None:
    send_well(studio)
    studio.write(TEXT)
    studio.translate()
    expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_count(2)
    studio.page.locator("#yw-swap").click()
    expect(studio.page.locator("#yw-notes li")).to_have_count(0)
    assert marked(studio) == []


def test_marks_stand_right_where_segments_meet(studio: Studio) -> None:
    text = "tram\n\n" * 40 + "🚋tram"
    send_well(studio)
    studio.write(text)
    studio.translate()
    expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_text("tram kept 41 of 41")
    assert marked(studio) == ["tram"] * 41


def test_rows_that_cannot_be_used_are_told_and_the_others_are_kept(studio: Studio) -> None:
    send_well(studio, CSV + BAD_ROWS)
    said(studio, "trams is ready. Terms: 2")
    report = studio.page.locator("#yw-glossaries details")
    expect(report.locator("summary")).to_have_text("Rows left out or doubtful: 3")
    report.locator("summary").click()
    expect(report.locator("li")).to_have_text([re.compile(f"^Row {row}: .+\\.$") for row in (4, 5, 6)])


def test_of_many_bad_rows_the_first_are_told(studio: Studio) -> None:
    send_well(studio, CSV + b",nothing\n" * 50)
    told = studio.page.locator("#yw-glossaries details li")
    expect(told).to_have_count(21)
    expect(told.last).to_have_text("And 30 more.")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "This is a PNG"),
        ("a.xlsx", b"PK\x03\x04", "damaged"),
        ("a.csv", b"tram\nstop\n", "column"),
        ("a.csv", b"", "The file is empty"),
    ],
)
def test_a_file_that_is_no_glossary_is_one_sentence_and_the_choice_stays(
    studio: Studio, name: str, data: bytes, sentence: str
) -> None:
    glossary_id = send_well(studio)
    send(studio, data, name)
    said(studio, re.compile(rf"^(?=[A-Z])[^<>{{}}]*{sentence}[^<>{{}}]*\.$"))
    expect(studio.page.locator(PICKER)).to_have_value(glossary_id)
    studio.complaints.clear()  # the browser's own line about the status


def test_a_choice_is_kept_over_a_reload_and_can_be_seen(studio: Studio) -> None:
    glossary_id = send_well(studio)
    studio.page.reload()
    expect(studio.page.locator(PICKER)).to_be_visible()
    expect(studio.page.locator(PICKER)).to_have_value(glossary_id)
    studio.page.locator(PICKER).select_option(label="No glossary")
    studio.open()
    studio.page.get_by_role("button", name="Terms").click()
    expect(studio.page.locator(f"{PICKER} option")).to_have_count(2)
    expect(studio.page.locator(PICKER)).to_have_value("")


def test_a_choice_counts_before_the_page_has_its_list(studio: Studio) -> None:
    glossary_id = send_well(studio)
    studio.page.route("**/glossaries", lambda route: route.abort())
    messages = asked(studio)
    said(studio, re.compile("^The server cannot be reached"))
    studio.write(TEXT)
    studio.translate()
    studio.wait_done()
    assert messages[-1]["glossary_id"] == glossary_id
    studio.complaints.clear()  # the browser's own line about the request


def test_a_glossary_is_downloaded(studio: Studio, tmp_path: Path) -> None:
    send_well(studio)
    with studio.page.expect_download() as coming:
        studio.page.get_by_role("link", name="Download").click()
    assert coming.value.suggested_filename == "trams.csv"
    coming.value.save_as(tmp_path / "trams.csv")
    assert [line.split(",")[:2] for line in (tmp_path / "trams.csv").read_text("utf-8-sig").splitlines()[1:]] == [
        ["tram", "tram"],
        ["stop", ""],
    ]


def test_a_removed_glossary_is_gone_and_not_used(studio: Studio, address: str) -> None:
    messages = asked(studio)
    studio.page.get_by_role("button", name="Terms").click()
    send_well(studio)
    asked_for = list[str]()
    studio.page.on("dialog", lambda dialog: (asked_for.append(dialog.message), dialog.accept()))
    studio.page.get_by_role("button", name="Remove").click()
    expect(studio.page.locator(f"{PICKER} option")).to_have_text(["No glossary"])
    assert asked_for == ["Remove the glossary trams from the server?"]
    expect(studio.page.locator(PICKER)).to_be_focused()
    said(studio, "")
    assert httpx.get(f"{address}/glossaries").json() == []
    studio.write(TEXT)
    studio.translate()
    studio.wait_done()
    assert messages[-1]["glossary_id"] == ""


def test_a_glossary_of_another_pair_is_told_by_the_server_and_no_text_is_lost(studio: Studio) -> None:
    send_well(studio)
    studio.choose("#yw-to", "French")
    studio.write(TEXT)
    studio.translate()
    expect(studio.page.locator("#yw-notes .yw-error")).to_have_text(
        re.compile("^The glossary 'trams' is from English to Chinese, and the request to French;")
    )
    assert studio.written() == TEXT


def test_a_glossary_that_was_deleted_elsewhere_is_asked_for_once(studio: Studio, address: str) -> None:
    httpx.delete(f"{address}/glossaries/{send_well(studio)}")
    studio.write(TEXT)
    studio.translate()
    expect(studio.page.locator("#yw-notes .yw-error")).to_have_text(re.compile("^There is no such glossary"))
    said(studio, "The glossary that was chosen is no longer there, so none is used.")
    studio.translate()
    studio.wait_done()
    assert studio.shown() == TEXT


def test_a_glossary_that_was_deleted_before_the_page_came_is_forgotten(studio: Studio, address: str) -> None:
    httpx.delete(f"{address}/glossaries/{send_well(studio)}")
    studio.open()
    said(studio, "The glossary that was chosen is no longer there, so none is used.")
    studio.open()
    expect(studio.page.locator(PICKER)).to_have_count(0)


def test_a_document_with_a_deleted_glossary_says_so(studio: Studio, address: str) -> None:
    httpx.delete(f"{address}/glossaries/{send_well(studio)}")
    studio.page.get_by_text("Document", exact=True).click()
    document = {"name": "notes.txt", "mimeType": "", "buffer": b"The tram."}
    studio.page.locator("#yw-file").set_input_files(document)
    studio.page.locator("#yw-translate-document").click()
    expect(studio.page.locator(".yw-doc-said")).to_have_text(re.compile("^There is no such glossary"))
    said(studio, "The glossary that was chosen is no longer there, so none is used.")
    studio.page.locator("#yw-file").set_input_files(document)
    studio.page.locator("#yw-translate-document").click()
    expect(studio.page.locator(".yw-doc").first).to_contain_text("Done")
    studio.complaints.clear()  # the browser's own line about the status


def test_a_term_without_a_translation_is_kept_as_it_is(studio: Studio) -> None:
    messages = asked(studio)
    studio.page.get_by_role("button", name="Terms").click()
    expect(studio.page.locator(".yw-hint")).to_have_text("Leave the translation empty to keep a term as it is.")
    studio.page.locator("#yw-terms .virtual-body [data-row='0'][data-col='0']").click()
    expect(studio.page.locator("#yw-terms .virtual-body textarea")).to_be_focused()
    studio.page.keyboard.insert_text("tram 😀")
    studio.write("The tram 😀 leaves.")
    studio.translate()
    expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_text("tram 😀 kept 1 of 1")
    assert messages[-1]["glossary"] == {"tram 😀": ""}


def test_of_a_thousand_terms_thirty_are_noted_the_missed_ones_first(desk: BrowserContext, address: str) -> None:
    terms = [{"source": f"a{number}", "target": "b", "count": 1, "applied": 1, "places": []} for number in range(999)]
    terms.append({"source": "missed", "target": "b", "count": 1, "applied": 0, "places": []})
    with a_studio(desk, address) as studio:
        studio.page.route_web_socket("**/ws/translate", answering(terms=terms))
        studio.open()
        studio.write("Anything.")
        studio.translate()
        notes = studio.page.locator("#yw-notes li")
        expect(notes).to_have_count(32)
        expect(notes.first).to_have_text("missed → b used 0 of 1")
        expect(notes.last).to_have_text("And 969 more.")


def test_the_language_named_last_is_the_hint_for_the_next_text(studio: Studio) -> None:
    messages = asked(studio)
    studio.choose("#yw-from", "French")
    studio.choose("#yw-from", "Detect language")
    studio.write("Taxi, Marathon")
    studio.translate()
    expect(studio.page.locator("#yw-status")).to_contain_text("taken for French")
    assert (messages[-1]["source_lang"], messages[-1]["source_hint"]) == ("auto", "fr")


@pytest.mark.parametrize(
    ("locale", "taken", "sentence"),
    [
        ("en-US", "taken for French", "The language is not certain: German 51% or Catalan 20%. "),
        ("zh-CN", "按法语处理", "原文的语言不能确定：德语 51% 或 Catalan 20%。"),
    ],
)
def test_a_language_that_is_not_certain_is_said_in_the_readers(
    chromium: Browser, address: str, locale: str, taken: str, sentence: str
) -> None:
    detection = [{"lang": "de", "score": 0.512}, {"lang": "Catalan", "score": 0.2}]
    doubt = {"code": "uncertain_language", "message": "The text may be German.", "segment": None}
    with chromium.new_context(locale=locale) as context, a_studio(context, address) as studio:
        studio.page.route_web_socket("**/ws/translate", answering(detection=detection, warnings=[doubt]))
        studio.open()
        studio.write("Taxi")
        studio.translate()
        expect(studio.page.locator("#yw-status")).to_contain_text(taken)
        expect(studio.page.locator("#yw-notes .yw-warning")).to_contain_text(sentence)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_everything_about_terms_fits_and_can_be_read(chromium: Browser, address: str, width: int, scheme: str) -> None:
    screen = chromium.new_context(viewport={"width": width, "height": 844}, locale="zh-CN", color_scheme=scheme)
    with screen, a_studio(screen, address) as studio:
        studio.open()
        studio.choose("#yw-to", "Chinese")
        studio.page.get_by_role("button", name="术语").click()
        send(studio, CSV + BAD_ROWS, f"{'很长的名字' * 28}.csv")
        studio.page.locator("#yw-glossaries summary").click()
        studio.write("Taxi tram")
        studio.translate()
        expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_text("tram 已保留 1/1")
        assert studio.page.evaluate(FAINT) == []
        assert studio.page.evaluate("document.documentElement.scrollWidth") <= width
        inside = studio.page.locator("#yw-glossaries [data-testid='accordion-content']")
        assert inside.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_terms_can_be_used_by_keyboard_and_are_named_for_screen_readers(studio: Studio) -> None:
    send_well(studio)
    page = studio.page
    expect(page.get_by_role("combobox", name="Glossary", exact=True)).to_have_id("yw-glossary")
    expect(page.get_by_label("Import a glossary")).to_have_id("yw-glossary-file")
    expect(page.locator(".yw-glossary-said")).to_have_attribute("role", "status")
    page.locator("#yw-add-row").focus()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        seen = "getComputedStyle(document.activeElement.closest('.yw-drop') ?? document.activeElement).outlineWidth"
        assert page.evaluate(seen) == "2px"
    assert reached == ["Download", "Remove", "yw-glossary", "yw-glossary-file"]
