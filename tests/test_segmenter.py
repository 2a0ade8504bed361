import argparse
import itertools
import random
from pathlib import Path

import pytest
from icu4py.breakers import WordBreaker

from engine.languages import LANGUAGES
from engine.segmenter import join_gap, segment, sentences
from engine.tools import evaluate_segments
from tests.timing import cpu_at_most

FIXTURES = Path(__file__).parent / "fixtures" / "segmenter.txt"


def cases():
    """Each is a title with the budget in characters, the text, and a line for each segment; lone dots part them.

    Where the title says `sentences` instead, there is a line for each of these.
    """
    for case in FIXTURES.read_text(encoding="utf-8").split("\n.\n\n"):
        title, text, expected = case.removesuffix("\n.\n").split("\n.\n")
        yield pytest.param(text, title.split("[")[1].rstrip("]"), expected.splitlines(), id=title)


@pytest.mark.parametrize(("text", "budget", "expected"), list(cases()))
def test_a_text_is_cut_as_in_the_fixture(text, budget, expected):
    if budget == "sentences":
        assert [text[start:end] for start, end in sentences(text)] == expected
    else:
        assert [part.text for part in segment(text, len, int(budget))[0]] == expected


ODD = [
    *"a Hello wörld 3 3.14 Mr. e.g. U.S. 1. . ! ? , \" ' ( ) - — ». … 中 。 ！ ． の 」 「 ） । ؟ ۔ د 한국어 ། ཀ".split(
        " "
    ),
    *"ไทย เขา แล้ว น. ລາວ ខ្មែរ မြန်မာ ။ ។ ᠃ г. T. डॉ. यू.एन".split(" "),
    *"👨‍👩‍👧 🇫🇷 🏽 e\u0301 \u200b \ufeff \0 \ud83d \ude00".split(" "),
    *[" ", "  ", "\n", "\r\n", "\r", "\t", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c"],
]


def test_gaps_and_segments_joined_are_the_text():
    dice = random.Random(1)
    for _ in range(1_000):
        text = "".join(dice.choices(ODD, k=dice.randint(0, 60)))
        parts, tail = segment(text, lambda text: len(text) // 3 + 1, dice.choice([1, 2, 5, 20, 48]))
        assert "".join(part.gap + part.text for part in parts) + tail == text


@pytest.mark.parametrize("budget", [1, 3, 10])
def test_a_span_over_the_end_of_a_line_doubles_nothing(budget):
    text = "One two three.\u2028Four five six."
    parts, tail = segment(text, len, budget, whole=[(4, 20)])
    assert "".join(part.gap + part.text for part in parts) + tail == text


def test_no_segment_has_white_space_around_it_or_lacks_a_letter():
    dice = random.Random(2)
    for _ in range(500):
        parts, _ = segment("".join(dice.choices(ODD, k=60)), len, 20)
        assert all(part.text == part.text.strip() and any(map(str.isalpha, part.text)) for part in parts)


def test_sentences_are_apart_and_in_order_without_white_space_around_them():
    dice = random.Random(4)
    for _ in range(500):
        text = "".join(dice.choices(ODD, k=60))
        found = list(sentences(text))
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(found))
        assert all(text[start:end].strip() == text[start:end] != "" for start, end in found)


def test_all_letters_are_in_sentences():
    dice = random.Random(5)
    for _ in range(500):
        text = "".join(dice.choices(ODD, k=60))
        within = "".join(text[start:end] for start, end in sentences(text))
        assert [*filter(str.isalpha, within)] == [*filter(str.isalpha, text)]


def test_tags_after_a_full_stop_belong_to_its_sentence():
    text = "One here." + "”" * 40 + " Two there."
    assert list(sentences(text)) == [(0, 49), (50, len(text))]


def test_no_segment_is_over_the_budget_and_its_tokens_are_counted():
    dice = random.Random(3)
    for _ in range(1_000):
        parts, _ = segment("".join(dice.choices("abc xyz. ,中。", k=300)), len, 20)
        assert all(len(part.text) <= 20 and part.tokens <= 20 for part in parts)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 250_000,
        "中" * 250_000,
        "Hi there. " * 25_000,
        "好。" * 50_000,
        "a" + " " * 250_000,
        "a… " * 50_000,
        "ภาษาไทย" * 25_000,
        "เขาไปแล้ว " * 12_500,
        "." * 125_000 + "a",
        "。!" * 75_000 + "」の",
        '."' * 75_000 + "a",
        "།" * 125_000 + "a",
        "۔" * 125_000 + "5",
        "A. " * 75_000,
    ],
    ids=[
        *("no spaces", "no punctuation", "sentences", "Chinese sentences", "white space", "ellipses"),
        *("Thai", "Thai phrases", "points", "wide points", "points and quotes", "shads", "Urdu points", "initials"),
    ],
)
def test_a_book_is_cut_in_linear_time_and_counted_about_twice(text):
    counted = 0

    def count_tokens(text):
        nonlocal counted
        counted += len(text)
        return len(text) // 4 + 1

    with cpu_at_most(3):
        segment(text, count_tokens, 48)
    assert counted <= 2.2 * len(text)


@pytest.mark.parametrize(
    "text",
    [
        "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือเสียงวรรณยุกต์เช่นเดียวกับภาษาจีนและออกเสียงแยกคำต่อคำ",
        "ຂ້ອຍຮັກພາສາລາວຫຼາຍທີ່ສຸດໃນໂລກນີ້ເພາະວ່າມັນເປັນພາສາທີ່ມ່ວນຫຼາຍ",
        "ខ្ញុំស្រឡាញ់ភាសាខ្មែរខ្លាំងណាស់ពីព្រោះវាជាភាសារបស់ប្រទេសខ្ញុំ",
        "ကျွန်တော်မြန်မာစကားကိုချစ်တယ်ဘာကြောင့်လဲဆိုတော့အဲဒါကကျွန်တော့်ဘာသာစကား",
        "我们昨天在公园里散步看到了很多美丽的花朵大家都很高兴所以今天还想再去一次",
    ],
    ids=["Thai", "Lao", "Khmer", "Burmese", "Chinese"],
)
@pytest.mark.parametrize("before", ["", "👨‍👩‍👧😀", "\ud83d\ude00"], ids=["alone", "emoji", "surrogates"])
def test_no_word_is_cut_where_words_have_no_spaces(text, before):
    words, at = {0}, 0
    for word in WordBreaker(text, "en"):
        at += len(word)
        words.add(at)
    for budget in (16, 20, 30):
        parts, _ = segment(before + text, len, budget)
        ends = itertools.accumulate(len(part.gap + part.text) for part in parts)
        assert {end - len(before) for end in ends if end > len(before)} <= words


def test_a_surrogate_pair_is_not_cut():
    parts, _ = segment("ab\ud83d\ude00" * 10, len, 3)
    assert not any(part.text.startswith("\ude00") or part.text.endswith("\ud83d") for part in parts)


@pytest.mark.parametrize(
    ("gap", "before", "target", "expected"),
    [
        (" ", "The end.", "zh", ""),
        (" ", "“The end.”", "ja", ""),
        (" ", "The end", "zh", " "),  # no sentence ended
        (" ", "The end.", "th", " "),  # Thai parts sentences with a space
        (" ", "The end.", "fr", " "),
        ("", "完了。", "en", " "),
        ("", "“完了。”", "de", " "),
        ("", "完了。", "ja", ""),
        ("", "Donaudampf", "en", ""),  # a word that had to be cut
        ("", "", "en", ""),
        ("\n", "The end.", "zh", "\n"),
        ("  ", "The end.", "zh", "  "),
        (" \r\n\t", "完了。", "en", " \r\n\t"),
    ],
)
def test_sentences_are_joined_as_the_target_joins_them(gap, before, target, expected):
    assert join_gap(gap, before, LANGUAGES[target]) == expected


@pytest.mark.parametrize(
    ("code", "lines", "f1", "forgiven"),
    [
        ("en", ["One is here.", "Two is there.", "Three?"], 1.0, 1.0),
        ("zh", ["一。", "二！", "三。"], 1.0, 1.0),
        ("en", ["One is here. Half too.", "Two is there."], 0.6667, 1.0),  # a line of two sentences
        ("en", ["A headline", "Two is there.", "Three is."], 0.6667, 0.6667),  # one without a mark
    ],
)
def test_boundaries_are_scored_against_the_lines_that_were_joined(code, lines, f1, forgiven):
    scores = evaluate_segments.score(code, lines).scores()
    assert (scores["f1"], scores["f1_certain_forgiven"]) == (f1, forgiven)


def test_without_sentences_to_join_there_are_no_scores(tmp_path):
    with pytest.raises(FileNotFoundError, match="--corpus"):
        evaluate_segments.run(argparse.Namespace(test=tmp_path, corpus=None))


def test_the_scores_of_each_language_and_their_mean_are_a_table(tmp_path):
    (tmp_path / "en.txt").write_text("One is here.\nTwo is there.\n", encoding="utf-8")
    (tmp_path / "flores200.devtest.en-ja.tsv").write_text(
        "doc\ten\tja\n\tIt is.\t一。\n\tWe are.\t二。\n", encoding="utf-8"
    )
    scores = evaluate_segments.run(argparse.Namespace(test=tmp_path, corpus=tmp_path))
    languages = {name: list(of) for name, of in scores["scores"].items()}
    assert languages == {"flores": ["en", "ja", "mean"], "corpus": ["en", "mean"]}
    assert [line.split()[-3:] for line in evaluate_segments.show(scores).splitlines()[1:]] == [["1.0"] * 3] * 5
