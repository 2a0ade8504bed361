"""What nobody should send to the parsers, and somebody will: it comes back as it was, translated or not, and soon."""

import random
from contextlib import suppress

import pytest

from engine.errors import BrokenMarkup
from engine.markup.parse import PARSERS
from engine.markup.spans import rebuild
from tests.timing import cpu_at_most

SECONDS = 6.0  # of this process; each takes a fifth of it or less on an idle machine
MEGABYTES = 1
NOISE = random.Random(3).randbytes(200_000)


def nested(opening, closing, count=20_000):
    return opening * count + "a" + closing * count


BAD = {
    "empty": "",
    "white space": " \n\t\r\n" * 10_000,
    "blanks in a paragraph": f"<p>a{' ' * 300_000}b</p>",
    "noise as Latin-1": NOISE.decode("latin-1"),
    "noise as UTF-8": NOISE.decode(errors="replace"),
    "noise as UTF-16": NOISE.decode("utf-16", errors="surrogatepass"),
    "NUL": "a\0b <b\0>c</b> *d\0*\0" * 10_000,
    "lone surrogates": "a \ud800 <b>\udfff</b> *\udbff* &#xd800; \n" * 5_000,
    "one line": "word " * (MEGABYTES * 200_000),
    "one word": "w" * (MEGABYTES * 1_000_000),
    "one line of tags": "a <b>b</b> " * (MEGABYTES * 50_000),
    "one line of emphasis": "a *b* `c` " * (MEGABYTES * 50_000),
    "byte order marks": "\ufeff" * 40_000,
    "nested elements": nested("<div>", "</div>"),
    "nested inline elements": nested("<i>", "</i>"),
    "nested unclosed": "<b><p>" * 20_000 + "a",
    "nested quotes": nested("> ", ""),
    "nested lists": "".join("  " * depth + "- a\n" for depth in range(1_000)),
    "unclosed everything": "<a href='" * 10_000 + "<!-- [a](b *c **d `e ~~f {{g $h <i ",
    "unclosed comment": "a <!-- b " * 20_000,
    "unclosed script": "<script>" * 20_000,
    "unclosed CDATA": "<svg><![CDATA[" * 20_000,
    "half a tag": "a <b" * 20_000,
    "half an entity": "&amp &#x &#" * 20_000,
    "attributes": "<a " + " ".join(f"title{number}='x'" for number in range(20_000)) + ">b</a>",
    # what the specification's authors found to be slow: cmark's test/pathological_tests.py
    "nested brackets": nested("[", "]"),
    "nested links": nested("[a](", ")"),
    "unclosed links": "[a](<b" * 20_000,
    "unclosed links with blanks": "[a](b" * 20_000,
    "brackets and emphasis": "[ (](" * 20_000,
    "emphasis runs": "**a **b " * 10_000,
    "emphasis ends without starts": "a_ " * 20_000,
    "emphasis starts without ends": "_a " * 20_000,
    "links ends without starts": "a]" * 20_000,
    "link starts without ends": "[a" * 20_000,
    "mismatched starts and ends": "*a_ " * 20_000,
    "nested strong": nested("*a **a ", "b** b*", 20_000),
    "long runs of stars": "a" + "**b" * 20_000 + "**" * 20_000,
    "backticks": "".join(f"e{'`' * number}" for number in range(800)),
    "tildes": "~~a ~b " * 12_000,
    "images": "![[]()" * 20_000,
    "backslashes": "\\" * 40_000,
    "references": "".join(f"[{number}]: x\n" for number in range(10_000)) + "[1][2]" * 10_000,
    "unclosed references": "[a" * 20_000 + "]: b\n",
    "footnotes": "[^1]" * 20_000 + "\n\n[^1]: a",
    "tables": "a|" * 1_000 + "\n" + "-|" * 1_000 + "\n" + ("b|" * 1_000 + "\n") * 3,
    "rules of tables": "|-" * 20_000,
    "autolinks": "<http://a.b/" * 20_000,
    "addresses": "http://a.b/(((" * 20_000,
    "templates": "{{" * 20_000 + "{%" * 20_000,
    "dollars": "$a " * 20_000,
    "placeholders": "%s{0}%(a)s" * 12_000,
    "angle brackets": "<" * 40_000 + ">" * 40_000,
    "declarations": "<!A " * 12_000 + "<?" * 12_000,
    "front matter": "---\n" + "title: a\n" * 20_000,
    "entities": "<!DOCTYPE a ["
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 30))
    + "]>&a29;" * 9,
    "half a document type": "<!DOCTYPE a [" + "<!-- ' <? \" " * 20_000,
    "nested comments": "<!--" * 20_000 + "-->",
    "empty elements": "<a/>" * 40_000,
    "lines of elements": "<a>\n<b>c</b>\n<b>d</b>\n</a>\n" * 4_000,
    "containers": ":::" * 12_000 + "\n" + "::: a\n" * 2_000,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("markup", PARSERS)
@pytest.mark.parametrize("source", BAD.values(), ids=BAD)
def test_bad_input_comes_back_in_bounded_time(markup, source):
    parser = PARSERS[markup]
    with cpu_at_most(SECONDS), suppress(BrokenMarkup):  # most of it is no XML
        document = parser.parse(source)
        assert rebuild(document, parser.write, [block.text for block in document.blocks]) == source
        rebuild(document, parser.write, [f"{block.text} x" for block in document.blocks])


@pytest.mark.timeout(60)
def test_many_blanks_in_a_paragraph_are_read_soon():
    source = f"<p>a{' ' * 300_000}b</p><img alt='a{' ' * 300_000}b'>"
    with cpu_at_most(SECONDS):
        document = PARSERS["html"].parse(source)
        assert (
            rebuild(document, PARSERS["html"].write, [f"{block.text} x" for block in document.blocks]).count("x") == 2
        )
