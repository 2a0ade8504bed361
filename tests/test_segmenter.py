import random
import time
from pathlib import Path

import pytest

from engine.languages import LANGUAGES
from engine.segmenter import join_gap, segment

FIXTURES = Path(__file__).parent / "fixtures" / "segmenter.txt"


def cases():
    """Each is a title with the budget in characters, the text, and a line for each segment; lone dots part them."""
    for case in FIXTURES.read_text(encoding="utf-8").split("\n.\n\n"):
        title, text, expected = case.removesuffix("\n.\n").split("\n.\n")
        yield pytest.param(text, int(title.split("[")[1].rstrip("]")), expected.splitlines(), id=title)


@pytest.mark.parametrize(("text", "budget", "expected"), list(cases()))
def test_a_text_is_cut_as_in_the_fixture(text, budget, expected):
    assert [part.text for part in segment(text, len, budget)[0]] == expected


ODD = [
    *"a Hello wörld 3 3.14 Mr. e.g. U.S. 1. . ! ? , \" ' ( ) - — ». … 中 。 ！ 」 「 । ؟ ไทย 한국어 ། ཀ".split(" "),
    *"👨‍👩‍👧 🇫🇷 🏽 e\u0301 \u200b \ufeff \0 \ud83d \ude00".split(" "),
    *[" ", "  ", "\n", "\r\n", "\r", "\t", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c"],
]


def test_gaps_and_segments_joined_are_the_text():
    dice = random.Random(1)
    for _ in range(3_000):
        text = "".join(dice.choices(ODD, k=dice.randint(0, 60)))
        parts, tail = segment(text, lambda text: len(text) // 3 + 1, dice.choice([1, 2, 5, 20, 48]))
        assert "".join(part.gap + part.text for part in parts) + tail == text


def test_no_segment_has_white_space_around_it_or_lacks_a_letter():
    dice = random.Random(2)
    for _ in range(1_000):
        parts, _ = segment("".join(dice.choices(ODD, k=60)), len, 20)
        assert all(part.text == part.text.strip() and any(map(str.isalpha, part.text)) for part in parts)


def test_no_segment_is_over_the_budget_and_its_tokens_are_counted():
    dice = random.Random(3)
    for _ in range(1_000):
        parts, _ = segment("".join(dice.choices("abc xyz. ,中。", k=300)), len, 20)
        assert all(len(part.text) <= 20 and part.tokens <= 20 for part in parts)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "中" * 1_000_000,
        "Hi there. " * 100_000,
        "好。" * 200_000,
        "a" + " " * 1_000_000,
        "a… " * 200_000,
    ],
    ids=["no spaces", "no punctuation", "sentences", "Chinese sentences", "white space", "ellipses"],
)
def test_a_book_is_cut_in_linear_time_and_counted_about_twice(text):
    counted = 0

    def count_tokens(text):
        nonlocal counted
        counted += len(text)
        return len(text) // 4 + 1

    began = time.perf_counter()
    segment(text, count_tokens, 48)
    assert time.perf_counter() - began < 8
    assert counted <= 2.2 * len(text)


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
