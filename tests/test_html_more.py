"""Attributes of tags inside a run: blocks of their own, nested in the run; and what is to be kept in a text of HTML."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.markup.html import find, parse, write
from engine.markup.spans import cut, rebuild
from tests.timing import cpu_at_most, times_as_long


def rebuilt(source, change=lambda text: text):
    document = parse(source)
    return rebuild(document, write, [change(block.text) for block in document.blocks])


NESTED = [
    ('a <img alt="cat"> sat', ["cat", "a <s1></s1> sat"], 'A <img alt="CAT"> SAT'),
    ("a <b title=x>b</b> c", ["x", "a <s1>b</s1> c"], "A <b title=X>B</b> C"),
    ("a <i title='x &amp; y' id=q></i>b", ["x & y", "a <s1></s1>b"], "A <i title='X &amp; Y' id=q></i>B"),
    ("<a title=t><img alt=v title=w></a> b", ["t", "v", "w", "b"], "<a title=T><img alt=V title=W></a> B"),
    ("a <b><img alt=v></b> c", ["v", "a <s1></s1> c"], "A <b><img alt=V></b> C"),
    ("a <code title=x>no</code> b", ["x", "a <s1></s1> b"], "A <code title=X>no</code> B"),
    ("a <i translate=no title=x>no</i> b", ["a <s1></s1> b"], "A <i translate=no title=x>no</i> B"),
    ("a <b>b <i title=x>c</b> d", ["x", "a <s1>b <s2></s2>c</s1> d"], "A <b>B <i title=X>C</b> D"),
    ("<img alt=a><p>b</p><img alt=c>", ["a", "b", "c"], "<img alt=A><p>B</p><img alt=C>"),
    ("a<input type=submit value='go' aria-label=x>b", ["x", "go", "a<s1></s1>b"], None),
    ("a <img alt=7 title=''> b", ["a <s1></s1> b"], "A <img alt=7 title=''> B"),
]


@pytest.mark.parametrize(("source", "texts", "expected"), NESTED)
def test_attributes_inside_a_run_are_translated_with_it(source, texts, expected):
    assert sorted(block.text for block in parse(source).blocks) == sorted(texts)
    assert rebuilt(source) == source

    def change(text):
        return re.sub(r"(?!s\d)[a-z]+", lambda word: word[0].upper(), text)

    if expected:
        assert rebuilt(source, change) == expected


def test_an_attribute_alone_is_translated_though_its_run_is_not():
    source = 'a <img alt="cat"> sat'
    assert rebuilt(source, lambda text: "Katze" if text == "cat" else text) == 'a <img alt="Katze"> sat'


def test_a_nested_block_stands_before_its_outer_one_and_only_there():
    document = parse("<p>x</p>a <img alt=cat> <b title=dog>b</b><p>y")
    assert [block.text for block in document.blocks] == ["x", "cat", "dog", "a <s1></s1> <s2>b</s2>", "y"]
    assert [part for part in document.skeleton if isinstance(part, int)] == [0, 3, 4]
    nested = document.blocks[3].nested
    assert nested[1] == (("<img alt=", 1, ">"), ())
    assert nested[2] == (("<b title=", 2, ">"), ())


def test_a_tag_that_stands_in_the_text_before_it_is_not_taken_for_it():
    source = '&lt;i> <i title="x">a</i> <i title="x">b</i>'
    assert rebuilt(source, lambda text: text.replace("x", "y")) == source.replace("x", "y")


@given(
    st.lists(
        st.sampled_from(
            [
                "<b title=x>",
                "</b>",
                "<p>",
                "<img alt='y z'>",
                "<code title=q>",
                "</code>",
                "<br>",
                "<i>",
                "</i>",
                "w",
                " ",
            ]
        )
    ).map("".join)
)
def test_tag_soup_with_attributes_comes_back_and_keeps_its_tags(source):
    assert rebuilt(source) == source
    changed = rebuilt(source, lambda text: text.replace("w", "ä").replace("x", "é").replace("y z", "ü"))
    tags = re.compile(r"</?[a-z]+|>")
    assert tags.findall(changed) == tags.findall(source)


def test_what_is_to_be_kept_in_a_text_is_a_mark_and_in_an_attribute_keeps_it():
    source = "<p>Hello {{ name }}, <b>you</b></p><p>{{ only }}</p><img alt='{{ x }} y'>"
    document = cut(source, find(source, kept=re.compile(r"\{\{.*?\}\}")))
    assert [block.text for block in document.blocks] == ["Hello <s1></s1>, <s2>you</s2>"]


def test_ten_times_the_html_takes_at_most_about_ten_times_as_long():
    page = '<p>Some <b title="t">bold</b> words, and <a href="x">more</a>.</p>\n<img alt="a"> b <hr>\n' * 200

    def work(source):
        return lambda: rebuilt(source, lambda text: text + "!")

    assert times_as_long(work(page * 10), work(page)) < 14  # a square would be 100


@pytest.mark.parametrize(
    "source",
    [
        "x<i title=y>" * 30_000,
        "<b title=x>" * 30_000 + "w",
        "w<img alt=x>" * 30_000,
        "<code>" * 30_000 + "</b>" * 30_000,
        "<b>" * 30_000 + "x</i>" * 30_000,
        "<a " * 30_000,
        "<a b='" * 30_000,
        '<a "' * 30_000 + ">",
        "<a" + " b" * 100_000 + " c='",
        "<a" + "/" * 100_000,
        "<" * 200_000,
        "<!-- " * 50_000,
        "&lt" * 100_000,
    ],
    ids=lambda source: source[:12],
)
def test_hostile_input_takes_no_quadratic_time(source):
    with cpu_at_most(5):
        rebuilt(source, lambda text: text + "!")


@pytest.mark.parametrize(
    "expression", ["{{ items | length }}", '{{ $t("some text") }}', "{% if admin %}", "<%= user.name %>", "{{ a < b }}"]
)
def test_what_a_template_engine_replaces_is_a_tag(expression):
    source = f"<p>Hello {expression} items, and more.</p>"
    (block,) = parse(source).blocks
    assert block.text == "Hello <s1></s1> items, and more."
    assert block.tags == {1: (expression, "")}


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        (
            '<html lang="en"><p>One <i lang="fr">deux</i> three</p><div lang="ar"><p>Four</p></div>',
            ["One <s1></s1> three"],
        ),
        ('<html lang="en-GB"><p lang="en">One</p>', ["One"]),
        ('<p>One <i lang="fr">two</i></p>', ["One <s1>two</s1>"]),
        ('<html lang="en"><body lang="fr"><p>Un', ["Un"]),
        ('<html lang="en_US"><p lang=" en ">One', ["One"]),
        ('<html lang="{{ site.lang }}"><p lang="en">One', ["One"]),
        ('<html lang="no"><p lang="nb">En', ["En"]),
        ('<html lang="en"><p lang="und">One', ["One"]),
    ],
)
def test_what_is_in_another_language_than_its_page_stays(source, texts):
    assert [block.text for block in parse(source).blocks] == texts
