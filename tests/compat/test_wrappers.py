"""What translators send is recognised: each request of tests/fixtures/wrappers is one that a program sends, by its
source or its documentation, with the text, the languages and the terms that are in it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from engine import prompts
from engine.languages import LANGUAGES
from engine.server.openai import ChatFields, ResponseFields, messages_of
from engine.server.wrappers import Message, Wrapped, unwrap
from engine.types import Family, Style, Term

FIXTURES = Path(__file__).parents[1] / "fixtures" / "wrappers"


def cases() -> Iterator[Any]:
    for path in sorted(FIXTURES.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            yield pytest.param(case, id=f"{path.stem}: {case['title']}")


def read(request: dict[str, Any]) -> Wrapped | None:
    model = ChatFields if "messages" in request else ResponseFields
    return unwrap(messages_of(model.model_validate(request)))


def said(text: str, system: str = "") -> Wrapped | None:
    return unwrap([Message("system", system), Message("user", text)])


@pytest.mark.parametrize("case", list(cases()))
def test_what_a_translator_sends_is_taken_apart(case: dict[str, Any]) -> None:
    found = read(case["request"])
    assert found is not None
    assert (list(found.texts), found.target, found.source) == (case["texts"], case["target"], case["source"])
    assert [{"source": term.source, "target": term.target} for term in found.terms] == case.get("terms", [])


@pytest.mark.parametrize("case", [case for case in cases() if "answer" in case.values[0]])
def test_many_texts_are_answered_in_the_layout_they_came_in(case: dict[str, Any]) -> None:
    found = read(case["request"])
    assert found is not None
    assert found.answer([f"<<{text}>>" for text in found.texts]) == case["answer"]


TEXT = "The river:\n\nTranslate it into German: " + '"""wide"""'


def templates(family: Family, code: str) -> Iterator[tuple[str, str, int]]:
    """Each of HY-MT's own, with its context, and how many terms are in it."""
    terms = [Term("river", "fleuve"), Term("wide boat", "large bateau")]
    yield prompts.plain(family, "en", code, TEXT), "", 0
    yield prompts.plain(family, "zh", code, TEXT), "", 0
    yield prompts.with_terms(family, code, terms, TEXT), "", 2
    yield prompts.with_terms(family, code, terms[:1], TEXT, "A tale.\nOf a river."), "A tale.\nOf a river.", 1
    yield prompts.with_context(family, code, "A tale.\n\nOf a river.", TEXT), "A tale.\n\nOf a river.", 0
    for style in get_args(Style):
        if style and family in prompts.STYLED:
            yield prompts.with_style(family, "en", code, style, TEXT), "", 0
            yield prompts.with_style(family, "zh", code, style, TEXT), "", 0


@pytest.mark.parametrize("family", get_args(Family))
@pytest.mark.parametrize("code", ["fr", "zh-Hant", "bo"])
def test_hy_mts_own_templates_are_known_word_for_word(family: Family, code: str) -> None:
    for prompt, context, terms in templates(family, code):
        found = said(prompt)
        assert found is not None
        assert (found.texts, found.target, found.context, len(found.terms)) == ((TEXT,), code, context, terms)


def test_hy_mts_template_for_marks_is_answered_as_it_wants() -> None:
    found = said(prompts.with_marks("hy-mt1.5", "en", "一只<s1>旧</s1>船。"))
    assert found is not None
    assert found.answer([f"An {found.texts[0]} boat."]) == "<target>An 一只<s1>旧</s1>船。 boat.</target>"


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("form", ["Translate into {}:\n\nX", "Please translate from X to {}.\n\nX", "翻译成{}：\nX"])
def test_a_language_is_known_by_each_of_its_names(code: str, form: str) -> None:
    language = LANGUAGES[code]
    for name in (language.english, language.chinese, language.own, language.code, *language.aliases):
        found = said(form.format(name))
        assert (found and found.target, found and found.texts) == (code, ("X",)), name


@pytest.mark.parametrize(
    "text",
    [
        "The river is wide.",
        "What is the capital of France?",
        "polish this sentence:\n\nThe river is wide.",
        "The novel was translated into French: it sold well.",
        "Translate it to me",
        "I want to be in it: now",
        "请润色：河很宽。",
        "这本书被翻译成英语：很好。",
        "Translate into French:",
        "",
    ],
)
def test_without_a_target_nothing_is_guessed(text: str) -> None:
    assert said(text) is None
    assert said(text, "You are a helpful assistant.") is None


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("Translate into Klingon:\n\nHi", "Klingon"),
        ("translate from en to da:\n\nHi", "da"),
        ("Translate to Classical Chinese: Hi", "Classical Chinese"),
        ("翻译成古文:\n\nHi", "古文"),
    ],
)
def test_a_target_that_nobody_knows_is_told_by_its_name(text: str, target: str) -> None:
    found = said(text)
    assert found is not None
    assert found.target == target


def test_the_beginning_of_an_answer_is_passed_over_and_earlier_turns_are_examples() -> None:
    turns = [
        Message("user", "Translate into German: wide"),
        Message("assistant", "breit"),
        Message("user", "Translate into French: river"),
    ]
    found = unwrap(turns)
    assert found is not None
    assert (found.texts, found.target) == (("river",), "fr")


@pytest.mark.parametrize(
    "text",
    ["\n" * 300_000, " " * 300_000, "->" * 150_000, "translate to Tho " * 20_000, '"""' * 100_000, "<yaml>\n" * 40_000],
)
def test_reading_takes_no_longer_than_the_text_is_long(text: str) -> None:
    found = said(f"Translate to French:\n\n{text}x", "Translate.")
    assert found is not None
    assert found.target == "fr"
    assert said(f"根据以下术语表：\n{text}", text[:4_000]) is None or text.startswith("translate")
