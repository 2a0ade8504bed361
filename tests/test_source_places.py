"""Where a term occurs is told in the text that was sent, whatever markup stands around it."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import glossary
from engine.backends.echo import EchoBackend
from engine.scheduler import Scheduler
from engine.translator import Translator
from engine.types import Finished, SegmentDone, Term, TranslationRequest
from tests.test_output_places import AROUND, TERMS, WORDS


def translated(text, terms, markup="auto", source="en", backend=None):
    request = TranslationRequest(text, "de", source, format=markup, glossary=terms)

    async def go():
        return [event async for event in Translator(backend or EchoBackend(), Scheduler(4, 4)).stream(request)]

    events = asyncio.run(go())
    assert isinstance(events[-1], Finished)
    return events[-1], [event for event in events if isinstance(event, SegmentDone)]


def said(text, result):
    return [text[slice(*place)] for term in result.terms for place in term.source_places]


FOX = (Term("brown fox", "Fuchs"),)


@pytest.mark.parametrize(
    ("markup", "text", "places"),
    [
        ("text", "🙂🙂 A brown fox.\r\nTwo brown foxes,\r\n\tbrown-fox", ["brown fox", "brown fox", "brown-fox"]),
        ("html", "<p>caf&eacute; &amp; a brown fox &copy; brown fox</p>", ["brown fox", "brown fox"]),
        ("html", "<p>a brown\r\n   fox, a brown\tfox, a brown&nbsp;fox</p>", ["brown\r\n   fox", "brown\tfox"]),
        ("html", '<a title="brown fox" href="brown fox">the <img alt="no brown fox"> brown fox</a>', ["brown fox"] * 3),
        ("html", "<p>a brown <b>fox</b> and <i>a <b>brown fox</b></i>: <u>br</u>own fox</p>", ["brown fox"]),
        ("html", "<p>not &lt;brown fox&gt;, b&#114;own fox, brown fox</p>", ["brown fox", "brown fox"]),
        ("markdown", "> - a brown\r\n>   fox **and\r\n>   brown fox** more\r\n", ["brown fox"]),
        (
            "markdown",
            "A brown\nfox, \\*a [brown fox] &amp; [a\nbrown fox][] it.\n\n[brown fox]: /x",
            ["brown\nfox", "brown fox", "brown fox"],
        ),
        ("markdown", "| a\\|b brown fox | `brown fox` brown fox |\n|--|--|\n", ["brown fox", "brown fox"]),
        ("markdown", '---\ntitle: "A \\"brown fox\\" 🙂 brown fox"\n---\n# A brown fox\n', ["brown fox"] * 3),
        ("markdown", '![a brown fox](brown.fox "The brown fox") and brown fox  \nbrown fox', ["brown fox"] * 4),
        (
            "markdown",
            "<div>\n\n*brown fox*\n\n<p>the <b>brown fox</b>\nis brown\nfox</p></div>",
            ["brown fox"] * 2 + ["brown\nfox"],
        ),
    ],
)
def test_terms_are_where_they_are_said_to_be_in_the_source(markup, text, places):
    finished, segments = translated(text, FOX, markup)
    assert said(text, finished) == places
    of_segments = [place for each in segments for term in each.terms for place in term.source_places]
    assert finished.terms[0].source_places == tuple(sorted(of_segments))


def test_letters_without_spaces_are_found_over_the_end_of_a_line():
    text = "甲𠀀乙服务\n器丙，服务器。"
    finished, _ = translated(text, (Term("服务器", "Server"),), "markdown", "zh")
    assert said(text, finished) == ["服务\n器", "服务器"]


def test_words_that_are_kept_have_their_places_too():
    text = "<p>The HunYuan &amp; <b>HunYuan</b> model.</p>"
    finished, (segment,) = translated(text, (Term("HunYuan", ""),), "html")
    assert said(text, finished) == ["HunYuan", "HunYuan"]
    assert segment.source == "The HunYuan & HunYuan model."


def test_a_segment_says_which_of_its_occurrences_are_missed():
    text = "AI one.\nAI two.\n"
    _, segments = translated(text, (Term("AI", "KI"),), "text")
    assert [each.source for each in segments] == ["AI one.", "AI two."]
    assert [(term.count, term.applied, term.source_places) for each in segments for term in each.terms] == [
        (1, 0, ((0, 2),)),
        (1, 0, ((8, 10),)),
    ]


ODD = ["brown\nfox", "lazy\r\ndog", "&amp;", "&#115;erver", "𠀀", "服务\n器"]
SOME_WORDS = st.lists(st.sampled_from([*WORDS, *ODD]), min_size=1, max_size=5).map(" ".join)
GAPS = st.sampled_from(["", " ", ". ", "\r\n", "\n> "])


def texts(markup):
    parts = st.tuples(GAPS, st.sampled_from([*AROUND[markup], "_"]), SOME_WORDS)
    return st.lists(parts, max_size=10).map(
        lambda found: "".join(gap + around.replace("_", words) for gap, around, words in found) + " server"
    )


@pytest.mark.parametrize("markup", AROUND)
def test_the_matcher_finds_in_each_place_the_term_and_nothing_else(markup):
    backend = EchoBackend(segment_tokens=12)
    backend.info = replace(backend.info, marks=False)

    @settings(max_examples=60, deadline=None)
    @given(texts(markup))
    def holds(text):
        finished, segments = translated(text, TERMS, markup, backend=backend)
        for result in finished.terms:
            stretches = [text[slice(*place)] for place in result.source_places]
            assert [each for each in stretches if not glossary.is_said(each, result.source, "en")] == []
            assert len(stretches) <= result.count
            assert markup != "text" or len(stretches) == result.count
        assert sorted(said(text, finished)) == sorted(place for each in segments for place in said(text, each))

    holds()
