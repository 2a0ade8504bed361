import re

import pytest

from engine.markup import kept, marks
from engine.types import Segment


def keep(text, *words, tags=None):
    """The segment of `text` with these words of it kept."""
    part = Segment(0, text, tags=tags or {})
    bare = marks.bare(text, part.tags)
    return kept.keep(part, [found.span() for word in words for found in re.finditer(re.escape(word), bare)])


def test_what_is_kept_becomes_a_mark_and_comes_back():
    part = keep("HunYuan is fast, says HunYuan.", "HunYuan")
    assert part.text == "<s1></s1> is fast, says <s2></s2>."
    assert kept.spelt_out(part, "Schnell ist <s2></s2>, sagt <s1></s1>.") == "Schnell ist HunYuan, sagt HunYuan."


def test_a_segment_without_kept_words_is_the_same():
    part = Segment(0, "Nothing here.")
    assert kept.keep(part, []) is part
    assert kept.spelt_out(part, "Nichts <s1></s1>") == "Nichts <s1></s1>"


def test_the_marks_of_the_block_stay_and_no_number_is_taken_twice():
    part = keep("<s1>Ask</s1> HunYuan <s3>.", "HunYuan", tags={1: ("<b>", "</b>")})
    assert part.text == "<s1>Ask</s1> <s2></s2> <s3>."
    assert kept.spelt_out(part, part.text) == "<s1>Ask</s1> HunYuan <s3>."
    assert kept.bare(part, kept.spelt_out(part, part.text)) == "Ask HunYuan <s3>."


def test_of_two_words_in_one_place_the_first_is_kept():
    assert keep("abcd", "abc", "bcd").kept == {1: "abc"}


def test_a_word_that_a_tag_cuts_in_two_stays_as_it_is():
    part = keep("Hun<s1>Yuan</s1> HunYuan", "HunYuan", tags={1: ("<b>", "</b>")})
    assert part.text == "Hun<s1>Yuan</s1> <s2></s2>"


@pytest.mark.parametrize(
    "word",
    ["<|extra_0|>", "<|startoftext|>", "<｜hy_User｜>", "<think>", "</think>", "/no_think", "<tool_calls>", "<answer>"],
)
def test_what_commands_a_model_is_kept(word):
    part = keep(f"Type {word} here.")
    assert word not in part.text
    assert kept.spelt_out(part, part.text) == f"Type {word} here."


@pytest.mark.parametrize("text", ["I/think so", "a <b> c", "<| x |>", "5 < 6 | 7 > 3", "path/to/think/of"])
def test_what_only_looks_like_it_is_not(text):
    assert keep(text).kept == {}


def test_a_stream_is_spelt_out_as_its_whole_is():
    part = keep("<s1>Ask</s1> HunYuan.", "HunYuan", tags={1: ("<b>", "</b>")})
    answer = "Frag <s1>doch</s1> <s2></s2>!"
    for size in range(1, len(answer)):
        spell = kept.Speller(part)
        parts = [spell.feed(answer[at : at + size]) for at in range(0, len(answer), size)]
        assert "".join([*parts, spell.end()]) == "Frag <s1>doch</s1> HunYuan!"
