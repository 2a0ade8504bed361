import time

import pytest

from engine.glossary import MAX_TERMS_PER_SEGMENT, check, index, terms_in
from engine.types import Term, TermResult


def sources(glossary, text, lang="en"):
    return [term.source for term in terms_in(index([Term(source, "X") for source in glossary]), text, lang)]


@pytest.mark.parametrize(
    ("term", "text", "lang", "occurs"),
    [
        ("server", "The Server runs.", "en", True),
        ("server", "Two observers.", "en", False),
        ("caf", "Un café.", "fr", False),
        ("cafe", "Un cafe\u0301.", "fr", False),  # a mark belongs to its letter
        ("café", "Un cafe\u0301.", "fr", True),
        ("AI", "使用AI技术", "zh", True),  # a Latin word in Chinese
        ("AI", "使用AIM技术", "zh", False),
        ("AI", "ＡＩと人", "ja", True),  # full width
        ("混元", "腾讯混元大模型", "zh", True),
        ("ข้อมูล", "ศูนย์ข้อมูลกลาง", "th", True),
        ("서버", "서버는 좋다", "ko", True),
        ("서버", "웹서버", "ko", False),
        ("ev", "evler", "tr", True),
        ("ev", "evler", "en", False),
        ("Straße", "EINE STRASSE", "de", True),
        ("İstanbul", "istanbul'da", "tr", True),
        ("istanbul", "İSTANBUL'DA", "tr", True),
        ("s", "ß", "de", False),
        ("GPT-4", "GPT-45", "en", False),
        ("C++", "Use C++, please", "en", True),
        ("", "anything", "en", False),
    ],
)
def test_a_term_occurs_where_a_reader_sees_it(term, text, lang, occurs):
    assert bool(sources([term], text, lang)) is occurs


def test_the_longest_terms_come_first_and_each_once():
    glossary = ["memory", "shared memory", "Memory", "page"]
    assert sources(glossary, "A page of shared memory is memory.") == ["shared memory", "memory", "page"]


def test_a_term_inside_a_longer_one_is_left_out():
    assert sources(["memory", "shared memory"], "Shared memory.") == ["shared memory"]


def test_the_first_of_two_entries_for_one_term_counts():
    assert terms_in(index([Term("AI", "IA"), Term("ai", "KI")]), "AI", "en") == (Term("AI", "IA"),)


def test_a_segment_has_no_more_terms_than_a_prompt_bears():
    words = [f"word{number}" for number in range(40)]
    assert len(sources(words, " ".join(words))) == MAX_TERMS_PER_SEGMENT


def test_terms_of_one_length_come_as_they_stand_in_the_text():
    assert sources(["ab", "cd", "ef"], "ef ab cd") == ["ef", "ab", "cd"]


def test_ten_thousand_terms_are_found_in_a_book_within_seconds():
    glossary = index([Term(f"word{number:05}", "X") for number in range(10_000)])
    began = time.perf_counter()
    for number in range(4_000):
        assert (
            len(terms_in(glossary, f"A sentence of some twelve words with word{number:05} in the midst of it.", "en"))
            == 1
        )
    assert time.perf_counter() - began < 5


def test_a_term_without_a_target_stays_as_it_is():
    assert terms_in(index([Term("HunYuan", "")]), "HunYuan is here", "en") == (Term("HunYuan", "HunYuan"),)


@pytest.mark.parametrize(
    ("term", "source", "translation", "count", "applied"),
    [
        (Term("server", "сервер"), "The server and the server.", "Сервер с серверами.", 2, 2),
        (Term("cat", "Katze"), "A cat, a cat, a cat.", "Eine Katze, ein Tier.", 3, 1),
        (Term("cat", "Katze"), "A cat.", "Katze, Katze.", 1, 1),
        (Term("混元", "HunYuan"), "混元和混元", "Hunyuan and HunYuan", 2, 2),
        (Term("İzmir", "Smyrna"), "İZMİR ve ß", "ß in SMYRNA", 1, 1),
        (Term("HunYuan", ""), "HunYuan", "混元", 1, 0),
    ],
)
def test_a_check_says_how_often_a_term_was_obeyed(term, source, translation, count, applied):
    assert check([term], source, translation) == (TermResult(term.source, term.target or term.source, count, applied),)


def test_a_term_that_does_not_occur_is_not_checked():
    assert check([Term("dog", "Hund")], "A cat.", "Ein Hund.") == ()
