"""Every word of the page is there in both languages, and every word that is asked for is there."""

import re
from pathlib import Path

import pytest

from ui import i18n
from ui.i18n import PAGE

UI = Path(i18n.__file__).parent
TEMPLATES = sorted((UI / "templates").glob("*.html"))
SOURCES = [*sorted((UI / "static").glob("*.js")), *TEMPLATES, *sorted(UI.glob("*.py"))]
HAN = re.compile(r"[\u4e00-\u9fff]")
SAME = {"format_html", "format_markdown", "format_xml", "glossary_option", "other_language"}  # names, and figures alone
VALUE = re.compile(r"\{\w+\}")
KEYED = re.compile(r'data-(?:say|name)="(\w+)"|\b(?:say|sayCount|button)\(\s*"(\w+)"')


@pytest.mark.parametrize("words", [i18n._LABELS, i18n._PAGE], ids=["labels", "page"])
def test_no_word_lacks_a_language(words: dict[str, tuple[str, str]]) -> None:
    assert len(words) > 5
    lacking = [key for key, (english, chinese) in words.items() if not english.strip() or not chinese.strip()]
    assert lacking == []
    plain = [key for key, (english, chinese) in words.items() if key not in SAME and not HAN.search(chinese)]
    assert [key for key in plain if words[key][0] == words[key][1]] == []


def test_both_languages_are_filled_in_alike() -> None:
    assert PAGE["en"].keys() == PAGE["zh"].keys()
    for key, english in PAGE["en"].items():
        assert sorted(VALUE.findall(english)) == sorted(VALUE.findall(PAGE["zh"][key])), key


def test_the_parts_of_the_page_share_no_key() -> None:
    parts = [i18n._BASE, i18n._TEXT, i18n._TERMS, i18n._DOCUMENTS, i18n._SYSTEM]
    assert sum(map(len, parts)) == len(i18n._PAGE)


def test_every_word_that_is_asked_for_is_there() -> None:
    asked = {
        key for path in SOURCES for found in KEYED.finditer(path.read_text("utf-8")) for key in found.groups() if key
    }
    assert len(asked) > 100
    counted = {"characters", "tokens"}  # the one and the many
    assert counted <= asked
    assert asked - PAGE["en"].keys() == set()


def test_no_word_is_there_in_vain() -> None:
    """Also of those whose key is put together, such as part_weights: both halves stand somewhere."""
    text = "\n".join(path.read_text("utf-8") for path in SOURCES if path.name != "i18n.py")
    dead = [key for key in PAGE["en"] if not re.search(rf"\b{key}\b", text) and not _is_made(key, text)]
    assert dead == []


def _is_made(key: str, text: str) -> bool:
    """Whether it is put together: `doc_${state}`, or "tokens" with _one."""
    head, _, tail = key.rpartition("_")
    return bool(head) and (f"{head}_$" in text or tail == "one")
