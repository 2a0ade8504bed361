"""Formats told apart, and each parser keeping its promise through the one way in."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BrokenMarkup
from engine.markup.parse import PARSERS, format_of
from engine.markup.spans import rebuild

SAMPLES = {
    "<!DOCTYPE html><title>A # b</title>": "html",
    "<p>Hello <b>world</b></p>": "html",
    "One line<br>two": "html",
    "# Title\n\nText": "markdown",
    "See [the page](https://a.org/x) now": "markdown",
    "A **bold** word": "markdown",
    "```\ncode\n```": "markdown",
    "Text\n\n~~~\ncode\n~~~\n": "markdown",
    "My notes\n~~~\nThe cat sleeps.\n\nMore\n~~~~\nThe dog barks.": "text",
    "```\nnever closed": "text",
    "| a | b |\n|---|---|\n| c | d |": "markdown",
    "---\ntitle: X\n---\nText": "markdown",
    "# Title\n\n<p>Hello</p>": "markdown",
    "<?xml version='1.0'?><r><p>Hello</p></r>": "xml",
    "<?xml version='1.0'?>\n<html xmlns='http://www.w3.org/1999/xhtml'>": "html",
    "<?xml version='1.0'?><r>Hello, <b>world</r>": "html",
    "<r><x1>Hello</x1></r>": "text",
    "Hello, world.": "text",
    "1. First\n2. Second\n- third": "text",
    "if a < b and c > d: x ** 2 ** 3": "text",
    "Use <b0>this</b0> and {0}": "text",
    "I <3 you": "text",
    "#hashtag and # 5": "text",
    "": "text",
}


@pytest.mark.parametrize(("text", "markup"), SAMPLES.items())
def test_the_format_is_told_from_the_text(text, markup):
    assert format_of(text) == markup


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from([*SAMPLES, "\r\n", "\n\n", "> ", "\t", "&amp;", "<"])).map("".join))
def test_every_parser_gives_every_byte_back(source):
    for parser in PARSERS.values():
        with suppress(BrokenMarkup):  # which is what XML mostly is that was not meant to be any
            document = parser.parse(source)
            assert rebuild(document, parser.write, [block.text for block in document.blocks]) == source
