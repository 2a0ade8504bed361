import pytest

from engine.errors import UnknownLanguage
from engine.languages import LANGUAGES, resolve, resolve_any


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


def test_each_has_a_script():
    scripts = {code: language.script for code, language in LANGUAGES.items()}
    assert all(len(script) == 4 and script.istitle() for script in scripts.values())
    assert (scripts["zh"], scripts["zh-Hant"], scripts["yue"], scripts["mn"]) == ("Hans", "Hant", "Hant", "Cyrl")


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=lambda language: language.code)
def test_each_is_known_by_all_that_it_is_called(language):
    names = (language.code, language.english, language.chinese, language.own, *language.aliases)
    assert {resolve_any(name) for name in names} == {language.code}


@pytest.mark.parametrize(
    ("code", "ours"), [("en", "en"), ("EN", "en"), (" zh ", "zh"), ("zh-hant", "zh-Hant"), ("ZH_HANT", "zh-Hant")]
)
def test_a_code_is_known_in_any_letter_case(code, ours):
    assert resolve(code, LANGUAGES) == ours


ALIASES = {
    "DeepL": "EN-US en, EN-GB en, PT-BR pt, PT-PT pt, ES-419 es, ZH-HANS zh, ZH-HANT zh-Hant, JA ja",
    "LibreTranslate": "zh-Hans zh, zh-Hant zh-Hant, zt zh-Hant, pb pt, pt-BR pt, tl tl, fil tl, iw he, in id",
    "BCP 47": "en-AU en, de-CH de, de-1996 de, ar-EG ar, kk-Cyrl kk, mn-Cyrl mn, ug-Arab ug, en_gb_oxendict en, "
    "zh-CN zh, zh-SG zh, zh-Hans-HK zh, zh-cmn-Hans-CN zh, zh-TW zh-Hant, zh-HK zh-Hant, zh-MO zh-Hant, "
    "zh-yue yue, yue-Hant yue, yue-HK yue, cmn zh, cmn-TW zh-Hant, zh-u-co-pinyin zh",
    "ISO 639": "eng en, deu de, ger de, fra fr, fre fr, zho zh, chi zh, jpn ja, tib bo, bod bo",
    "FLORES": "eng_Latn en, zho_Hans zh, zho_Hant zh-Hant, yue_Hant yue, arb_Arab ar, pes_Arab fa, kor_Hang ko, "
    "zsm_Latn ms, khk_Cyrl mn",
    "names": "english en, ENGLISH en, Deutsch de, français fr, Francais fr, Farsi fa, Tagalog tl, Uighur ug, "
    "Mandarin zh, Simplified Chinese zh, Chinese (Traditional) zh-Hant, Brazilian Portuguese pt, tieng viet vi",
    "Chinese names": "中文 zh, 英语 en, 英文 en, 英語 en, 日文 ja, 简体中文 zh, 繁体中文 zh-Hant, 繁體中文 zh-Hant, "
    "粵語 yue, 粤语 yue, 藏文 bo, 韩文 ko, 中文（简体） zh",
}


@pytest.mark.parametrize(
    ("code", "ours"), [alias.rsplit(" ", 1) for aliases in ALIASES.values() for alias in aliases.split(", ")]
)
def test_the_codes_and_names_of_others_are_known(code, ours):
    assert resolve(code, LANGUAGES) == ours


@pytest.mark.parametrize("code", ["zh-Latn", "mn-Mong", "kk-Arab", "ug-Cyrl", "zh-wuu", "zh-min-nan", "en-yue"])
def test_another_script_or_tongue_is_another_language(code):
    assert resolve_any(code) is None


@pytest.mark.parametrize("code", ["xx", "nb", "sr", "", " ", "english please", "<script>" * 100, "zh-" * 10_000])
def test_an_unknown_code_is_told_which_there_are(code):
    with pytest.raises(UnknownLanguage, match="en, fr") as refused:
        resolve(code, ("en", "fr"))
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("code", "named"),
    [("bo", r"Tibetan \(bo\)"), ("zh-TW", r"Traditional Chinese \(zh-Hant\)"), ("德文", r"German \(de\)")],
)
def test_a_language_the_model_lacks_is_named(code, named):
    with pytest.raises(UnknownLanguage, match=named):
        resolve(code, ("en", "fr"))
