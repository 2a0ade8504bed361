"""What of the markup is written otherwise on purpose is told, and nothing is told where only words have changed."""

import asyncio

import pytest

from engine.backends.echo import EchoBackend
from engine.markup import changes
from engine.markup.markdown_writing import changed_delimiters
from engine.markup.parse import PARSERS
from engine.scheduler import Scheduler
from engine.translator import Translator
from engine.types import TokenChunk, TranslationRequest


class Spells(EchoBackend):
    """Says the source back with other letters for some."""

    def __init__(self, letters):
        super().__init__()
        self.letters = str.maketrans(letters)

    async def stream(self, prompt):
        yield TokenChunk(prompt.source.translate(self.letters), finish="stop")


def changes_of(text, markup, letters):
    request = TranslationRequest(text, "de", "en", format=markup)
    finished = asyncio.run(Translator(Spells(letters), Scheduler(4, 4)).translate(request))
    assert finished.text != text
    return {change.code: change.count for change in finished.changes}, finished


@pytest.mark.parametrize(
    ("markup", "text", "told"),
    [
        ("text", "Here we go,\r\nand here.\n\nIt is one.", {}),
        ("html", "<p>Here <b>we</b> go &amp; see&nbsp;it <a title='here'>&lt;now&gt;</a><br>and then</p>", {}),
        ("html", "<p>Here we\r\n   go\nnow &copy; &eacute;</p>", {"lines_joined": 2, "entities_written_out": 2}),
        ("html", "<i>e</i> <b>te</b><br>\n<u>e</u> &copy;<i>e</i> ©", {"lines_joined": 1, "entities_written_out": 1}),
        ("html", "<img alt=the> <p>none", {"quotes_added": 1}),
        ("markdown", "# Here we *go*\n\n- one  \n  two\n- three\n\n| a&amp;e | see |\n|--|--|\n| one | _te_ |\n", {}),
        ("markdown", "> - Here *we\n>   go* &copy;\n>   there\n> - e", {"lines_joined": 2, "entities_written_out": 1}),
        ("markdown", "See [here] and [there][] and [one][here].\n\n[here]: /e\n[there]: /e", {"label_added": 2}),
        ("markdown", "See [here\nthere](/e \"one\nhere\") and ![we\ngo](/e).", {"lines_joined": 3}),
        ("markdown", "---\ntitle: Here we go\nother: here\n---\n", {"quotes_added": 1}),
    ],
)  # fmt: skip
def test_what_is_written_otherwise_on_purpose_is_counted(markup, text, told):
    found, finished = changes_of(text, markup, {"e": "ê: " if "title:" in text else "ê x" if "<img" in text else "ê"})
    assert found == told
    assert all(change.message.endswith(".") for change in finished.changes)


@pytest.mark.parametrize(
    ("text", "letters", "told"),
    [
        ("One _two_ three", {" ": "的"}, {"emphasis_respelt": 1}),
        ("One ~two~ _three_ four", {" ": "的"}, {"emphasis_respelt": 2}),
        ("One **two** three", {" ": "的", "t": "（", "o": "）"}, {"space_added": 2}),
        ("See https://a.b/c now", {" ": "的"}, {"space_added": 1}),
    ],
)
def test_emphasis_of_a_language_without_spaces_is_told(text, letters, told):
    found, finished = changes_of(text, "markdown", letters)
    assert found == told, finished.text


def test_emphasis_as_html_is_told():
    (block,) = PARSERS["markdown"].parse("One **two** three").blocks
    assert +changed_delimiters(block, "一<s1>二</s1>三", "一<strong>二</strong>三") == {"emphasis_as_html": 1}


def test_every_change_has_its_sentences_with_the_number_where_it_is_more_than_one():
    assert all("{count:,}" in many and "{" not in one for one, many in changes._SENTENCES.values())
