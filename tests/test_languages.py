import pytest

from engine.errors import UnknownLanguage
from engine.languages import LANGUAGES, resolve


def test_there_are_38_languages_each_with_names_of_its_own():
    assert len(LANGUAGES) == 38
    for names in zip(*((item.code, item.english, item.chinese, item.own) for item in LANGUAGES.values()), strict=True):
        assert all(names)
        assert len(set(names)) == 38


def test_five_are_written_from_right_to_left():
    assert {code for code, language in LANGUAGES.items() if language.direction == "rtl"} == {
        "ar",
        "fa",
        "ur",
        "he",
        "ug",
    }


@pytest.mark.parametrize(
    ("code", "ours"), [("en", "en"), ("EN", "en"), (" zh ", "zh"), ("zh-hant", "zh-Hant"), ("ZH-HANT", "zh-Hant")]
)
def test_a_code_is_known_in_any_letter_case(code, ours):
    assert resolve(code, LANGUAGES) == ours


@pytest.mark.parametrize("code", ["xx", "", "english please", "<script>" * 100])
def test_an_unknown_code_is_told_which_there_are(code):
    with pytest.raises(UnknownLanguage, match="en, fr") as refused:
        resolve(code, ("en", "fr"))
    assert len(str(refused.value)) < 200


def test_a_language_the_model_lacks_is_named():
    with pytest.raises(UnknownLanguage, match=r"Tibetan \(bo\)"):
        resolve("bo", ("en", "fr"))
