"""The Terms tab in a real browser on the real server, and terms in a translation, with a backend that says the source
back."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, WebSocket, WebSocketRoute, expect

from engine.backends.echo import EchoBackend
from tests.axe import violations
from tests.conftest import Serve
from tests.studio import Studio, a_studio

CSV = b"en,zh\ntram,tram\nstop,\n"  # an echo has a term where its target is its source, or is to be kept
BAD_ROWS = b",nothing\ntram,train\n" + b"x" * 300 + b",too long\n"
TEXT = "🚋 The tram is at the stop 🚏. The tram leaves 😀 now."
PICKER = "#yw-glossary"
SAID = "#yw-terms-said li"

pytestmark = pytest.mark.timeout(60, func_only=True)  # the fixtures start a browser and a server once


@pytest.fixture(scope="module")
def address(serve: Serve) -> str:
    return serve(EchoBackend(), page=True)


@pytest.fixture
def asked(window: Page) -> Iterator[list[dict[str, Any]]]:
    """What the page asks for on its sockets, from its first on."""
    messages: list[dict[str, Any]] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: messages.append(json.loads(frame)))

    window.on("websocket", listen)
    yield messages
    window.remove_listener("websocket", listen)


@pytest.fixture
def studio(window: Page, address: str, asked: list[dict[str, Any]]) -> Iterator[Studio]:
    """At its terms, English to Chinese, and nothing left from a test before."""
    for kept in httpx.get(f"{address}/glossaries").json():
        httpx.delete(f"{address}/glossaries/{kept['id']}")
    with a_studio(window, address) as studio:
        studio.open("?source=en&target=zh")
        look(studio, "Terms")
        yield studio


def look(studio: Studio, tab: str) -> None:
    studio.page.get_by_role("tab", name=tab).click()


def again(studio: Studio) -> None:
    """The page, opened anew."""
    studio.open("?source=en&target=zh")
    look(studio, "Terms")


def send(studio: Studio, *files: tuple[str, bytes]) -> None:
    sent = [{"name": name, "mimeType": "", "buffer": data} for name, data in files]
    studio.page.locator("#yw-glossary-file").set_input_files(sent)  # type: ignore[arg-type]


def send_well(studio: Studio, data: bytes = CSV, name: str = "trams.csv") -> str:
    """The glossary's id, once it is chosen and its terms are there."""
    before = studio.page.locator(PICKER).input_value()
    send(studio, (name, data))
    expect(studio.page.locator(PICKER)).not_to_have_value(before)
    expect(cell(studio, 0, "Term")).to_be_editable()
    return studio.page.locator(PICKER).input_value()


def cell(studio: Studio, row: int, name: str) -> Locator:
    return studio.page.locator("#yw-terms-table tbody tr[aria-rowindex]").nth(row).get_by_label(name)


def shown(studio: Studio) -> list[tuple[str, str]]:
    """The terms that are in the page, as they are written there."""
    pairs: list[list[str]] = studio.page.evaluate(
        "[...document.querySelectorAll('#yw-terms-table tbody tr[aria-rowindex]')].map(row =>"
        " [...row.querySelectorAll('input:not([type])')].map(input => input.value))"
    )
    return [(source, target) for source, target in pairs]


def stored(address: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the server keeps: name, terms."""
    ids = [glossary["id"] for glossary in httpx.get(f"{address}/glossaries").json()]
    wholes = [httpx.get(f"{address}/glossaries/{glossary_id}").json() for glossary_id in ids]
    return [(whole["name"], [(term["source"], term["target"]) for term in whole["terms"]]) for whole in wholes]


def said(studio: Studio, *sentences: str | re.Pattern[str]) -> None:
    expect(studio.page.locator(SAID)).to_have_text(list(sentences))


def press(studio: Studio, name: str) -> None:
    studio.page.get_by_role("button", name=name, exact=True).click()


def save(studio: Studio) -> None:
    press(studio, "Save")
    expect(studio.page.locator("#yw-terms-unsaved")).to_be_empty()


def take_in(studio: Studio, link: Locator, folder: Path) -> str:
    """The name of the file, which is downloaded by the link and then imported."""
    with studio.page.expect_download() as coming:
        link.click()
    name = coming.value.suggested_filename
    coming.value.save_as(folder / name)
    send(studio, (name, (folder / name).read_bytes()))
    return name


def answer_dialogs(studio: Studio, *yes: bool) -> list[str]:
    """What the page asks from now on; it is answered in turn, and the last answer holds."""
    questions: list[str] = []

    def answer(dialog: Dialog) -> None:
        questions.append(dialog.message)
        dialog.accept() if yes[min(len(questions), len(yes)) - 1] else dialog.dismiss()

    studio.hear("dialog", answer)
    return questions


def translate(studio: Studio, text: str = TEXT) -> None:
    look(studio, "Text")
    studio.write(text)
    studio.translate()
    studio.wait_done()


def marked(studio: Studio) -> list[str]:
    words: list[str] = studio.page.evaluate(
        "[...(CSS.highlights.get('yw-term') ?? [])]"
        ".filter(range => document.getElementById('yw-output-box').contains(range.startContainer)).map(String).sort()"
    )
    return words


def answering(**done: Any) -> Callable[[WebSocketRoute], None]:
    """A server that answers everything with `done`."""
    usage = {"segments": 1, "input_tokens": 3, "output_tokens": 4, "seconds": 0.1}
    whole = {"translation": "So.", "detected_source_lang": "fr", "detection": [], "terms": [], "warnings": [], **done}

    def answer(socket: WebSocketRoute, message: str | bytes) -> None:
        if (request := json.loads(message))["type"] == "start":
            started = {"type": "started", "segments": 1, "detected_source_lang": "fr", "detection": []}
            for told in (started, {"type": "done", "usage": usage, "changes": [], **whole}):
                socket.send(json.dumps({"id": request["id"], **told}))

    return lambda socket: socket.on_message(lambda message: answer(socket, message))


def test_marks_stand_behind_their_words_down_to_an_empty_last_line(desk: BrowserContext, address: str) -> None:
    place = {"source": "tram", "target": "tram", "count": 1, "used": 1, "places": [[0, 2]], "source_places": [[0, 4]]}
    with a_studio(desk, address) as studio:
        studio.page.route_web_socket("**/ws/translate", answering(terms=[place]))
        studio.open("?source=en&target=zh")
        translate(studio, "tram\n" * 60)
        ends = studio.page.evaluate(
            "[...document.querySelectorAll('#yw-source textarea, .yw-mirror')].map(each => each.scrollHeight)"
        )
    assert len(ends) == 2
    assert ends[0] == ends[1]


def test_an_imported_glossary_is_chosen_and_used_and_its_terms_are_marked(studio: Studio) -> None:
    send_well(studio)
    said(studio, "trams: English → Chinese, terms stored: 2")
    expect(studio.page.locator(f"{PICKER} option:checked")).to_have_text("trams · English → Chinese · 2")
    assert shown(studio) == [("tram", "tram"), ("stop", "")]
    translate(studio)
    expect(studio.page.locator("#yw-uses")).to_have_text("Terms: trams (2)")
    used = studio.page.locator("#yw-notes .yw-term-used")
    expect(used).to_have_text([re.compile("^tram kept 2 of 2"), re.compile("^stop kept 1 of 1")])
    assert studio.shown() == TEXT
    assert marked(studio) == ["stop", "tram", "tram"]


def test_a_swap_takes_the_marks_away(studio: Studio) -> None:
    send_well(studio)
    translate(studio)
    assert marked(studio) == ["stop", "tram", "tram"]
    studio.page.locator("#yw-swap").click()
    expect(studio.page.locator("#yw-notes li")).to_have_count(0)
    assert marked(studio) == []


def test_marks_stand_right_where_segments_meet(studio: Studio) -> None:
    send_well(studio)
    translate(studio, "tram\n\n" * 40 + "🚋tram")
    expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_text(re.compile("^tram kept 41 of 41"))
    assert marked(studio) == ["tram"] * 41


def test_rows_that_cannot_be_used_are_told_by_number_and_the_others_are_kept(studio: Studio) -> None:
    send_well(studio, CSV + BAD_ROWS)
    rows = [re.compile(f"^Row {row}: .+\\.$") for row in (4, 5, 6)]
    said(studio, "trams: English → Chinese, terms stored: 2; rows left out or doubtful: 3", *rows)


def test_of_many_bad_rows_the_first_fifty_are_told(studio: Studio) -> None:
    send_well(studio, CSV + b",nothing\n" * 60)
    expect(studio.page.locator(SAID)).to_have_count(52)
    expect(studio.page.locator(SAID).last).to_have_text("And 10 more.")


def test_several_files_come_at_once_and_each_is_told_of(studio: Studio, address: str) -> None:
    send(studio, ("a.csv", CSV), ("b.csv", b""), ("c.tsv", b"boat\tboat\n"))
    said(
        studio,
        "a: English → Chinese, terms stored: 2",
        re.compile("^b.csv: The file is empty"),
        "c: English → Chinese, terms stored: 1",
    )
    expect(studio.page.locator(f"{PICKER} option:checked")).to_have_text("c · English → Chinese · 1")
    assert [name for name, _ in stored(address)] == ["a", "c"]
    studio.complaints.clear()  # the browser's own line about the status


def test_a_file_that_is_no_glossary_is_one_sentence_and_the_choice_stays(studio: Studio) -> None:
    glossary_id = send_well(studio)
    image = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
    send(studio, ("a.csv", image), ("a.xlsx", b"PK\x03\x04"), ("b.csv", b"tram\nstop\n"))
    patterns = [
        rf"^{name}: (?=[A-Z])[^<>{{}}]*{sentence}[^<>{{}}]*\.$"
        for name, sentence in (("a.csv", "This is a PNG"), ("a.xlsx", "damaged"), ("b.csv", "column"))
    ]
    said(studio, *map(re.compile, patterns))
    expect(studio.page.locator(PICKER)).to_have_value(glossary_id)
    studio.complaints.clear()  # the browser's own line about the status


def test_a_file_that_does_not_say_its_languages_needs_them_to_be_chosen(studio: Studio) -> None:
    studio.choose("#yw-from", "Detect language")
    send(studio, ("trams.csv", b"tram,tram\n"))
    said(studio, re.compile("^trams.csv: The languages of these terms are not known: choose them"))
    studio.complaints.clear()  # the browser's own line about the status


def test_edits_wait_for_save_and_outlast_the_page(studio: Studio, address: str) -> None:
    send_well(studio)
    cell(studio, 0, "Translation").fill("streetcar")
    expect(studio.page.locator("#yw-terms-unsaved")).to_have_text("Unsaved changes")
    expect(studio.page.locator("#yw-uses")).to_have_text("Terms: trams (2), without your unsaved changes")
    assert stored(address) == [("trams", [("tram", "tram"), ("stop", "")])]
    save(studio)
    assert stored(address) == [("trams", [("tram", "streetcar"), ("stop", "")])]
    again(studio)
    expect(cell(studio, 0, "Translation")).to_have_value("streetcar")


def test_what_save_leaves_out_is_told_and_stays_to_be_mended(studio: Studio, address: str) -> None:
    send_well(studio)
    cell(studio, 1, "Term").fill("Tram")
    press(studio, "Save")
    left_out = "trams: English → Chinese, terms stored: 1; rows left out or doubtful: 1"
    said(studio, left_out, re.compile("^Row 2: “Tram” "))
    expect(studio.page.locator("#yw-terms-unsaved")).to_have_text("Unsaved changes")
    cell(studio, 1, "Term").fill("Halt")
    save(studio)
    said(studio, "trams: English → Chinese, terms stored: 2")
    assert stored(address) == [("trams", [("tram", "tram"), ("Halt", "")])]


def test_nobody_leaves_unsaved_changes_unasked(studio: Studio) -> None:
    glossary_id = send_well(studio)
    cell(studio, 0, "Term").fill("streetcar")
    questions = answer_dialogs(studio, False, True)
    studio.page.locator(PICKER).select_option("")
    expect(studio.page.locator(PICKER)).to_have_value(glossary_id)
    assert shown(studio)[0] == ("streetcar", "tram")
    studio.page.locator(PICKER).select_option("")
    expect(studio.page.locator("#yw-terms-count")).to_have_text("Terms: 0")
    assert questions == ["The changes to this glossary are not saved. Leave it without them?"] * 2


def test_a_delete_is_seen_and_waits_for_save(studio: Studio, address: str) -> None:
    send_well(studio)
    cell(studio, 0, "Delete").click()
    expect(cell(studio, 0, "Delete")).to_be_focused()
    assert shown(studio) == [("stop", "")]
    assert stored(address) == [("trams", [("tram", "tram"), ("stop", "")])]
    save(studio)
    assert stored(address) == [("trams", [("stop", "")])]


def test_a_rename_keeps_everything_else(studio: Studio, address: str) -> None:
    terms = [{"source": "=Tram", "target": "电车", "case": True, "note": 'a "note", long'}, {"source": "1.50"}]
    pair = {"source_lang": "en", "target_lang": "zh"}
    one = httpx.post(f"{address}/glossaries", json={"name": "Trams", "terms": terms, **pair}).headers["Location"]
    before = httpx.get(f"{address}{one}").json()
    again(studio)
    studio.page.locator(PICKER).select_option(label="Trams · English → Chinese · 2")
    expect(studio.page.locator("#yw-terms-name")).to_have_value("Trams")
    studio.page.locator("#yw-terms-name").fill("Trams of Berlin")
    save(studio)
    expect(studio.page.locator(f"{PICKER} option:checked")).to_have_text("Trams of Berlin · English → Chinese · 2")
    assert httpx.get(f"{address}{one}").json() == {**before, "name": "Trams of Berlin"}


def test_a_glossary_that_is_deleted_while_it_is_edited_is_stored_anew(studio: Studio, address: str) -> None:
    httpx.delete(f"{address}/glossaries/{send_well(studio)}")
    cell(studio, 0, "Translation").fill("streetcar")
    save(studio)
    assert stored(address) == [("trams", [("tram", "streetcar"), ("stop", "")])]
    expect(studio.page.locator(PICKER)).to_have_value(httpx.get(f"{address}/glossaries").json()[0]["id"])
    studio.complaints.clear()  # the browser's own line about the status


def test_quick_terms_outlast_the_page_and_go_along(studio: Studio, asked: list[dict[str, Any]]) -> None:
    press(studio, "Add a term")
    expect(cell(studio, 0, "Term")).to_be_focused()
    studio.page.keyboard.insert_text("tram 😀")  # as an input method does: no key is pressed
    expect(cell(studio, 0, "Keep as is")).to_be_checked()
    again(studio)
    assert shown(studio) == [("tram 😀", "")]
    translate(studio, "The tram 😀 leaves.")
    expect(studio.page.locator("#yw-notes .yw-term-used")).to_have_text(re.compile("^tram 😀 kept 1 of 1"))
    expect(studio.page.locator("#yw-uses")).to_have_text("Terms: Quick terms (1)")
    assert (asked[-1]["glossary"], asked[-1]["glossary_id"]) == ([{"source": "tram 😀", "target": ""}], "")


def test_quick_terms_become_a_glossary_of_the_pair_above(studio: Studio, address: str) -> None:
    press(studio, "Add a term")
    studio.page.keyboard.type("tram")
    press(studio, "Save as a glossary…")
    studio.page.get_by_role("dialog").get_by_label("Name").fill("Trams")
    studio.page.keyboard.press("Enter")
    said(studio, "Trams: English → Chinese, terms stored: 1")
    expect(studio.page.locator(f"{PICKER} option:checked")).to_have_text("Trams · English → Chinese · 1")
    assert stored(address) == [("Trams", [("tram", "")])]


def test_of_quick_terms_there_are_five_hundred_at_most(studio: Studio) -> None:
    studio.page.evaluate(
        "localStorage.setItem('yiwen-quick', JSON.stringify(Array(500).fill({ source: 'a', target: 'b' })))"
    )
    again(studio)
    press(studio, "Add a term")
    said(studio, "There are 500 quick terms, the most there may be; save them as a glossary to add more.")
    expect(studio.page.locator("#yw-terms-count")).to_have_text("Terms: 500")


def test_keep_as_is_empties_the_translation_and_gives_it_back(studio: Studio) -> None:
    send_well(studio)
    cell(studio, 0, "Keep as is").check()
    expect(cell(studio, 0, "Translation")).to_have_value("")
    cell(studio, 0, "Keep as is").uncheck()
    expect(cell(studio, 0, "Translation")).to_have_value("tram")
    expect(cell(studio, 1, "Keep as is")).to_be_checked()
    cell(studio, 1, "Translation").fill("站")
    expect(cell(studio, 1, "Keep as is")).not_to_be_checked()


def test_both_columns_are_searched_in_any_letter_case(studio: Studio) -> None:
    send_well(studio, b"en,zh\nTram,Bahn\nstop,HALT\nrail,gleis\n")
    for words, pairs in (("tra", [("Tram", "Bahn")]), ("halt", [("stop", "HALT")]), ("zz", [])):
        studio.page.locator("#yw-terms-search").fill(words)
        expect(studio.page.locator("#yw-terms-count")).to_have_text(f"Found: {len(pairs)} of 3")
        assert shown(studio) == pairs


def test_of_five_thousand_terms_those_in_sight_are_in_the_page_and_all_can_be_edited(
    studio: Studio, address: str
) -> None:
    send_well(studio, b"en,zh\n" + b"".join(b"term %d,word %d\n" % (number, number) for number in range(5_000)))
    assert len(shown(studio)) < 60
    studio.page.locator("#yw-terms-table .yw-scroller").evaluate("box => box.scrollTop = box.scrollHeight")
    last = studio.page.locator("#yw-terms-table tr[aria-rowindex='5001']").get_by_label("Translation")
    last.fill("the last one")
    save(studio)
    assert stored(address)[0][1][-1] == ("term 4999", "the last one")


def test_terms_are_written_by_keyboard_alone(studio: Studio, address: str) -> None:
    page = studio.page
    send_well(studio)
    page.get_by_role("button", name="Add a term").press("Enter")
    page.keyboard.type("rail")
    page.keyboard.press("Tab")
    page.keyboard.type("gleis")
    page.keyboard.press("Enter")
    expect(cell(studio, 1, "Translation")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.type("halt")
    page.keyboard.press("ArrowUp")
    expect(cell(studio, 1, "Translation")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # delete
    cell(studio, 1, "Term").press("Enter")  # in the last row: another is added
    expect(cell(studio, 0, "Term")).to_be_focused()
    assert len(shown(studio)) == 3
    page.locator("#yw-terms-save").press("Enter")
    expect(page.locator("#yw-terms-unsaved")).to_be_empty()
    assert stored(address) == [("trams", [("rail", "gleis"), ("stop", "halt")])]


def test_a_download_comes_in_again_in_place_of_what_it_was_made_of(
    studio: Studio, address: str, tmp_path: Path
) -> None:
    glossary_id = send_well(studio)
    questions = answer_dialogs(studio, True)
    for kind in ("CSV", "TSV", "JSON", "TBX"):
        name = take_in(studio, studio.page.get_by_role("link", name=kind).last, tmp_path)
        assert name == f"trams.{kind.lower()}"
        said(studio, "trams: English → Chinese, terms stored: 2")
        assert shown(studio) == [("tram", "tram"), ("stop", "")]
        assert stored(address) == [("trams", [("tram", "tram"), ("stop", "")])]
        expect(studio.page.locator(PICKER)).to_have_value(glossary_id)
    assert questions == ["There is a glossary trams already, English → Chinese, with 2 terms. Replace it?"] * 4


def test_one_file_twice_is_two_glossaries_where_that_is_meant(studio: Studio, address: str) -> None:
    send_well(studio)
    answer_dialogs(studio, False)
    send_well(studio, b"en,zh\nboat,boat\n")
    assert stored(address) == [("trams", [("tram", "tram"), ("stop", "")]), ("trams", [("boat", "boat")])]


def test_each_template_can_be_imported(studio: Studio, address: str, tmp_path: Path) -> None:
    answer_dialogs(studio, False)
    for number, kind in enumerate(("CSV", "TSV", "XLSX", "JSON", "TBX"), 1):
        take_in(studio, studio.page.get_by_role("link", name=kind).first, tmp_path)
        expect(studio.page.locator(f"{PICKER} option")).to_have_count(1 + number)
        said(studio, "glossary-template: English → Chinese, terms stored: 3")
    assert [terms[1] for _, terms in stored(address)] == [("Variobahn", "")] * 5


def test_a_removed_glossary_is_gone_and_not_used(studio: Studio, address: str) -> None:
    send_well(studio)
    questions = answer_dialogs(studio, True)
    press(studio, "Remove this glossary")
    expect(studio.page.locator(f"{PICKER} option")).to_have_text(["Quick terms"])
    expect(studio.page.locator(PICKER)).to_be_focused()
    assert questions == ["Remove the glossary trams from the server? Its terms: 2"]
    assert stored(address) == []
    expect(studio.page.locator("#yw-uses")).to_be_empty()


def test_a_choice_is_kept_over_a_reload_and_counts_before_the_page_has_its_list(
    studio: Studio, asked: list[dict[str, Any]]
) -> None:
    glossary_id = send_well(studio)
    studio.page.route("**/glossaries", lambda route: route.abort())
    again(studio)
    said(studio, re.compile("^The server cannot be reached"))
    expect(studio.page.locator(PICKER)).to_have_value(glossary_id)
    translate(studio)
    assert asked[-1]["glossary_id"] == glossary_id
    studio.complaints.clear()  # the browser's own line about the request


def test_a_glossary_of_another_pair_is_not_sent_and_both_tabs_say_so(
    studio: Studio, asked: list[dict[str, Any]]
) -> None:
    send_well(studio)
    studio.choose("#yw-to", "French")
    sentence = "No terms: trams is for English → Chinese"
    for line in ("#yw-terms-use", "#yw-uses"):
        expect(studio.page.locator(line)).to_have_text(sentence)
    translate(studio)
    assert asked[-1]["glossary_id"] == ""
    assert studio.shown() == TEXT
    studio.choose("#yw-to", "Chinese")
    expect(studio.page.locator("#yw-uses")).to_have_text("Terms: trams (2)")


def test_a_glossary_that_was_deleted_elsewhere_is_said_and_forgotten(studio: Studio, address: str) -> None:
    httpx.delete(f"{address}/glossaries/{send_well(studio)}")
    look(studio, "Text")
    studio.write(TEXT)
    studio.translate()
    expect(studio.page.locator("#yw-notes .yw-error")).to_have_text(re.compile("^There is no such glossary"))
    gone = "The glossary trams is no longer there, so it is not used."
    said(studio, gone)
    studio.translate()
    studio.wait_done()
    assert studio.shown() == TEXT
    again(studio)
    expect(studio.page.locator(PICKER)).to_have_value("")
    said(studio)


def test_a_chosen_glossary_counts_for_documents(studio: Studio, address: str) -> None:
    send_well(studio)
    look(studio, "Documents")
    studio.page.locator("#yw-file").set_input_files({"name": "notes.txt", "mimeType": "", "buffer": b"The tram."})
    expect(studio.page.locator(".yw-doc").first).to_contain_text("Done")
    ids: list[str] = studio.page.evaluate("JSON.parse(localStorage.getItem('yiwen-documents'))")
    assert [term["source"] for term in httpx.get(f"{address}/documents/{ids[0]}").json()["terms"]] == ["tram"]


def test_the_language_named_last_is_the_hint_for_the_next_text(studio: Studio, asked: list[dict[str, Any]]) -> None:
    studio.choose("#yw-from", "French")
    studio.choose("#yw-from", "Detect language")
    translate(studio, "Taxi, Marathon")
    expect(studio.page.locator("#yw-guess")).to_contain_text("French")
    assert (asked[-1]["source_lang"], asked[-1]["source_hint"]) == ("", "fr")


def test_of_a_thousand_terms_thirty_are_noted(desk: BrowserContext, address: str) -> None:
    terms = [{"source": f"a{number}", "target": "b", "count": 1, "applied": 1, "places": []} for number in range(999)]
    with a_studio(desk, address) as studio:
        studio.page.route_web_socket("**/ws/translate", answering(terms=terms))
        studio.open()
        studio.write("Anything.")
        studio.translate()
        notes = studio.page.locator("#yw-notes li")
        expect(notes).to_have_count(31)
        expect(notes.last).to_have_text("And 969 more.")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_everything_about_terms_fits_and_can_be_read(chromium: Browser, address: str, width: int, scheme: str) -> None:
    screen = chromium.new_context(viewport={"width": width, "height": 844}, locale="zh-CN", color_scheme=scheme)
    with screen, a_studio(screen, address) as studio:
        studio.open("?source=en&target=zh")
        look(studio, "术语")
        send(studio, (f"{'很长的名字' * 28}.csv", CSV + BAD_ROWS))
        expect(studio.page.locator(SAID).nth(1)).to_have_text("第 4 行：原文术语是空的，请填写，或删去这一行。")
        cell(studio, 0, "译文").fill("有" * 200)
        assert studio.page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(studio.page) == []
