"""Subtitles: times, numbers and settings stay, and a sentence lies over the cues that it came from."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.documents.subtitles import parse_subtitles, write_subtitles
from engine.errors import BadDocument
from engine.markup.spans import rebuild
from tests.timing import cpu_at_most

SRT = """\ufeff1
00:00:01,000 --> 00:00:02,500
I never thought that

2
00:00:02,600 --> 00:00:04,000  X1:100 X2:200 Y1:1 Y2:2
we would come
back here.

3
00:00:05,000 --> 00:00:06,000
- Where are you?
- <i>Here!</i>


4
00:00:07.000 --> 00:00:08.000
<i>{\\an8}Hello my</i>

5
00:00:08,000 --> 00:00:09,000
<i>dear <b>old</b> friend.</i>

00:00:10,000 --> 00:00:11,000
♪ La la la ♪

7
00:00:12,000 --> 00:00:13,000

8
00:00:14,000 --> 00:00:15,000
42

9
00:00:20,000 --> 00:00:21,000
The last
"""
VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue(b) { color: red }

NOTE no --
words here

intro
00:01.000 --> 00:02.500 line:0 position:20%
<v Fred>Tom &amp; I &lt;3 it,

00:02.500 --> 00:04.000
<v Fred>and <c.loud>so</c> do you.

00:05.000 --> 00:06.000
<v Ann>Words <00:05.500>in time
"""


def rebuilt(source, change=lambda text: text):
    document = parse_subtitles(source)
    return rebuild(document, write_subtitles, [change(block.text) for block in document.blocks])


def texts(source):
    return [block.text for block in parse_subtitles(source).blocks]


def kept(source):
    """All lines but those of words: of times, numbers, headers and those that are empty."""
    return re.findall(r"(?m)^(?:.*-->.*|\d+|WEBVTT.*|STYLE|NOTE.*|::cue.*|intro|)$", source)


def cues(source):
    """The words of each cue, in the strictest reading."""
    return re.findall(r"(?m)^.*-->.*\n((?:.+\n?)*)", source)


def srt(*words, pause=0):
    return "\n".join(f"{n}\n00:00:{n:02},000 --> 00:00:{n + 1:02},000\n{text}\n" for n, text in enumerate(words, 1))


def translated(source, text):
    assert len(texts(source)) == 1
    return [words.rstrip("\n") for words in cues(rebuilt(source, lambda _: text))]


def test_a_sentence_over_several_cues_is_one_block():
    assert texts(SRT) == [
        "I never thought that we would come back here.",
        "Where are you?",
        "Here!",
        "Hello my dear <s1>old</s1> friend.",
        "La la la",
        "The last",
    ]
    assert texts(VTT) == ["Tom & I <3 it, and <s1>so</s1> do you.", "Words <s1></s1>in time"]


@pytest.mark.parametrize("source", [SRT, VTT])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_byte_comes_back(source, newline):
    source = source.replace("\n", newline)
    assert len(texts(source)) > 1
    assert rebuilt(source) == source


def accented(text):
    return re.sub(r"(?<![/<s])[aeo](?!\d)", lambda letter: {"a": "á", "e": "é", "o": "ó"}[letter[0]], text)


@pytest.mark.parametrize("source", [SRT, VTT])
@pytest.mark.parametrize("change", [accented, lambda text: text + " 很长的译文，而且没有空格。", str.upper])
def test_times_numbers_and_tags_stay(source, change):
    changed = rebuilt(source, lambda text: re.sub(r"[^<>]+(?![^<]*>)", lambda run: change(run[0]), text))
    assert kept(changed) == kept(source)
    assert len(cues(changed)) == len(cues(source))
    assert {*re.findall(r"<[^>]*>|\{[^}]*\}", changed)} == {*re.findall(r"<[^>]*>|\{[^}]*\}", source)}


def test_the_translation_lies_over_the_same_cues():
    three = srt("When I was a child,", "we lived by the sea,", "far from here.")
    assert translated(three, "Als ich ein Kind war, lebten wir am Meer, weit weg von hier.") == [
        "Als ich ein Kind war,",
        "lebten wir am Meer,",
        "weit weg von hier.",
    ]
    assert translated(three, "我小时候，我们住在海边，离这里很远。") == ["我小时候，", "我们住在海边，", "离这里很远。"]


def test_a_cue_without_a_word_shows_a_space():
    assert translated(srt("I do", "agree"), "Ja.") == ["Ja.", "\u00a0"]
    assert translated(srt("I do", "agree"), "") == ["\u00a0", "\u00a0"]
    assert translated(srt("I do", "agree"), "同意") == ["同", "意"]


def test_long_cues_get_two_lines_and_none_is_empty():
    two = srt("A line of words\nand a second one.")
    assert translated(two, "Kurz und gut.") == ["Kurz und gut."]
    long = "Eine Zeile aus vielen Worten, und noch eine zweite Zeile."
    assert translated(two, long) == ["Eine Zeile aus vielen Worten,\nund noch eine zweite Zeile."]
    assert translated(two.replace("\n", "\r\n").replace("\r\n", "\n"), "一\n\n\n二") == ["一 二"]
    assert translated(two, "这是一个很长很长的句子，长到一行之内放不下，必须分成两行。").pop().count("\n") == 1


def test_a_pair_over_a_border_is_closed_and_opened_again():
    source = srt("We <i>really</i> want", "to go home.")
    assert translated(source, "Wir <s1>wollen wirklich</s1> heim.") == ["Wir <i>wollen</i>", "<i>wirklich</i> heim."]


def test_lines_of_chinese_are_joined_with_nothing():
    assert texts(srt("我们从来没有\n想过，", "会回来。")) == ["我们从来没有想过，会回来。"]


@pytest.mark.parametrize(
    ("before", "after"),
    [("Stop.", "go"), ("he said", "- no"), ("[DOOR]", "he went"), ("and", "♪ la"), ("(sighs)", "well"), ("一。", "二")],
)
def test_a_sentence_ends_with_its_sign_or_where_another_speaks(before, after):
    assert len(texts(srt(before, after))) == 2


def test_a_sentence_ends_at_a_pause_and_after_six_cues():
    assert len(texts(srt("one", "two").replace("00:00:02,000 -->", "00:00:06,000 -->"))) == 2
    assert len(texts(srt(*["word"] * 13))) == 3


@pytest.mark.parametrize(
    "source",
    [
        "00:01.000 --> 00:02.000\nHello\n00:03.000 --> 00:04.000\nyou",
        "1\n\n00:00:01,000 --> 00:00:02,000\n\nHello\n\nyou\n\n2\n\n00:00:03,000-->00:00:04,000\n",
        "1\n00:00:01:000 --> 00:00:02:000\nHello <3\n\n\n\n3\nbroken --> time\nyou <i>",
    ],
)
def test_odd_files_are_read(source):
    assert "Hello" in texts(source)[0]
    assert " ".join(texts(source)).count("you") == 1
    assert rebuilt(source) == source


HOSTILE = ['--> <b> & " \n\n\n -->', "\0\ud800", "{\\an8}<font>", "\r\r", "a --", "00:00:01,000 --> 00:00:02,000", " "]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("source", [SRT, VTT])
def test_a_hostile_translation_stays_words(source, hostile):
    for change in (lambda text: hostile + text, lambda text: text + hostile):
        changed = rebuilt(source, change)
        assert kept(changed) == kept(source)
        assert changed.count("-->") == source.count("-->")
        assert len(re.findall(r"<[bf]", changed)) == len(re.findall(r"<[bf]", source))


def test_what_would_be_a_tag_of_srt_is_written_with_other_brackets():
    assert translated(srt("Hi"), "{\\an8}<b>2 < 3 --> 4") == ["(\\an8)‹b›2 < 3 → 4"]


@pytest.mark.parametrize("source", ["", "Dear all,\n\n1\nhello", "\0", "1 --> 2", "\ud800"])
def test_what_has_no_times_is_refused_in_a_sentence(source):
    with pytest.raises(BadDocument, match="no timing such as"):
        parse_subtitles(source)


@pytest.mark.timeout(60)
def test_megabytes_are_read_and_written_in_seconds():
    with cpu_at_most(8):
        start = "00:00:01,000 --> 00:00:02,000\n"
        assert rebuilt(SRT * 2_500) == SRT * 2_500
        for words in ("word " * 150_000, "<i>" * 150_000, "</i>- ♪ " * 50_000, " \n" * 250_000 + "a", "字" * 250_000):
            assert rebuilt(start + words) == start + words
            rebuilt(start + words, lambda text: text + ".")


PARTS = """00:00:01,000 --> 00:00:02,000|\n00:00:03.000 --> 00:00:04.000 line:0\n|7|\n|\n\n|\r\n|- |♪|<i>|</i>|<b>|</b>
|</c>|<c.x>|{\\an8}|word|two words.|译文。|译|&lt;|&|<v A>|<00:01.000>|<s1>|-->|--|>| """.split("|")


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=16).map("".join), st.booleans(), st.text())
def test_any_text_comes_back_or_is_refused(source, is_vtt, more):
    with suppress(BadDocument):
        parse_subtitles(source)
    source = "WEBVTT\n\n" * is_vtt + "00:00:01,000 --> 00:00:02,000\nwords " + source
    document = parse_subtitles(source)
    assert rebuilt(source) == source
    for block in document.blocks:
        written = write_subtitles(block, block.text + more.replace("<", "") + "!")
        assert written.count("-->") == block.source.count("-->")
        assert re.findall(r"[^\r\n]*-->[^\r\n]*", written) == re.findall(r"[^\r\n]*-->[^\r\n]*", block.source)
