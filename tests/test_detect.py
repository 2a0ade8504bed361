import argparse
from pathlib import Path

import pytest

from engine.detect import _statistics, detect, is_certain, load
from engine.languages import LANGUAGES
from engine.tools import evaluate_detect

TEN = ("en", "zh", "ja", "fr", "es", "de", "ko", "pt", "ru", "it")
SENTENCES = dict(
    line.split("\t") for line in (Path(__file__).parent / "fixtures" / "detect.tsv").read_text("utf-8").splitlines()
)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_sentence_tells_its_language(lang):
    guesses = detect(SENTENCES[lang], LANGUAGES)
    assert guesses[0].lang == lang
    assert is_certain(guesses)


def test_the_best_two_come_with_scores():
    first, second = detect(SENTENCES["es"], TEN)
    assert 1 >= first.score > second.score >= 0
    assert first.lang != second.lang


def test_of_one_language_there_is_one_guess():
    assert [guess.lang for guess in detect("Guten Tag", ("en",))] == ["en"]


def test_only_the_languages_offered_are_guessed():
    assert {guess.lang for guess in detect(SENTENCES["ko"], ("en", "fr"))} == {"en", "fr"}


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("使用Python编程语言写程序", "zh"),
        ("Pythonでプログラムを書く", "ja"),
        ("東京タワー", "ja"),
        ("東京都庁", "ja"),
        ("你好", "zh"),
        ("네", "ko"),
    ],
)
def test_script_decides_in_short_and_mixed_text(text, lang):
    assert detect(text, TEN)[0].lang == lang


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("Київ", "uk"),
        ("Ещё одно объявление", "ru"),
        ("Алматы қаласы", "kk"),
        ("Улаанбаатар хот нийслэл", "mn"),
        ("پاکستان میں اردو", "ur"),
        ("ئۇيغۇر تىلى", "ug"),
        ("Peraturan itu ditolak kerana tidak berbeza", "ms"),
        ("Peraturan itu ditolak karena tidak berbeda", "id"),
        ("यह एक किताब है", "hi"),
        ("हे एक पुस्तक आहे", "mr"),
        ("Thie\u0302\u0301t bi\u0323 na\u0300y", "vi"),  # decomposed
        ("ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ", "mn"),
    ],
)
def test_letters_and_frequent_words_part_neighbours(text, lang):
    assert detect(text, LANGUAGES)[0].lang == lang


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("我们明天去哪里吃饭？", "zh"),
        ("我們明天去哪裡吃飯？", "zh-Hant"),
        ("香港人跟着我們走", "zh-Hant"),
        ("我哋聽日去邊度食飯呀？", "yue"),
        ("咁你几时得闲啊，我等紧你", "yue"),  # in Simplified characters
        ("与此同时，机构群体的干部后来发了面条", "zh"),  # characters that Traditional Chinese has too, for other words
    ],
)
def test_three_kinds_of_chinese_are_told_apart(text, lang):
    assert detect(text, LANGUAGES)[0].lang == lang


@pytest.mark.parametrize("text", [SENTENCES["zh"], SENTENCES["zh-Hant"], SENTENCES["yue"]])
@pytest.mark.parametrize("code", ["zh", "zh-Hant", "yue"])
def test_chinese_has_the_code_that_is_offered(text, code):
    guesses = detect(text, ("en", "ja", code))
    assert guesses[0].lang == code
    assert is_certain(guesses)


@pytest.mark.parametrize(
    ("codes", "lang"), [(("zh", "yue"), "zh"), (("zh-Hant", "yue"), "zh-Hant"), (("zh", "zh-Hant"), "zh-Hant")]
)
def test_mandarin_is_not_taken_for_cantonese_where_its_own_script_is_missing(codes, lang):
    assert detect("我們明天去哪裡吃飯？", codes)[0].lang == lang


def test_what_may_be_either_kind_of_chinese_is_doubted():
    guesses = detect("你好", LANGUAGES)
    assert {guess.lang for guess in guesses} == {"zh", "zh-Hant"}
    assert not is_certain(guesses)


def test_a_foreign_word_does_not_decide():
    assert detect("The greeting 你好 is the one that everybody learns first.", TEN)[0].lang == "en"


@pytest.mark.parametrize("text", [SENTENCES["th"], "Αυτό είναι ένα κείμενο", "OK", "Wikipedia"])
def test_a_text_that_may_be_in_none_or_many_is_doubted(text):
    assert not is_certain(detect(text, TEN))


@pytest.mark.parametrize("text", ["123 – 456 👍", "", " \n"])
def test_a_text_without_letters_has_no_language(text):
    assert detect(text, TEN) == ()
    assert not is_certain(())


def test_only_the_head_of_a_text_is_read():
    assert detect(SENTENCES["de"] * 50 + SENTENCES["ru"] * 50_000, TEN)[0].lang == "de"


@pytest.mark.parametrize("text", ["a" * 1_000_000, "1" * 1_000_000 + "a", "嘅" * 1_000_000, "\ud800" * 100 + "a", "ª"])
def test_any_text_has_an_answer(text):
    assert len(detect(text, LANGUAGES)) == 2


def test_what_was_loaded_ahead_no_text_waits_for():
    load()
    loaded = _statistics.cache_info().misses
    detect(SENTENCES["de"], LANGUAGES)
    assert _statistics.cache_info().misses == loaded


def test_the_evaluation_counts_what_is_told_and_what_is_doubted(tmp_path):
    (tmp_path / "en.txt").write_text("This is the house that we have built.\n\nIl faut bien le faire.\n", "utf-8")
    (tmp_path / "zh.txt").write_text("我們明天去哪裡吃飯？\n", "utf-8")
    (tmp_path / "LICENSE").write_text("no sentence", "utf-8")
    parser = argparse.ArgumentParser()
    evaluate_detect.add_arguments(parser)
    scores = evaluate_detect.run(parser.parse_args(["--corpus", str(tmp_path)]))["scores"]
    assert scores["sentences"]["texts"] == 3
    assert scores["sentences"]["right"] == 0.3333
    assert scores["sentences"]["right_with_chinese_as_one"] == 0.6667
    assert scores["sentences"]["misses"] == {"en": {"fr": 1}, "zh": {"zh-Hant": 1}}
    assert "en → fr 1, zh → zh-Hant 1" in evaluate_detect.show({"scores": scores})
    assert (evaluate_detect.head("我們明天去哪裡吃飯？", "zh"), evaluate_detect.head("a b  c d", "en")) == (
        "我們明天去哪裡吃",
        "a b c",
    )
