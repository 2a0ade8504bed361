"""A fuzzer for the parsers, the guard and the stream, run by hand:

    pip install atheris && python -m tests.fuzz_markup FINDINGS -max_total_time=600

Bytes choose among constructs and letters. What fails is written to FINDINGS, one file for each place in the code that
failed, and the run goes on; the shortest of those are kept in `fixtures/markup/fuzz`.
"""

import json
import sys
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["engine.markup"]):
    from engine.errors import BrokenMarkup
    from engine.markup import marks, verify
    from engine.markup.lexer import lex
    from engine.markup.parse import PARSERS
    from engine.markup.spans import rebuild
    from engine.types import Block

PARTS = [*"abB1 中é。\n\r\t\0\x0c\x85\u2028\ufeff\u00a0\ud83d*_`~[](){}<>&;|\\#-+.=$^!:%\"'/"]
PARTS += [
    "\n\n",
    "\r\n",
    "    ",
    "**",
    "~~",
    "```",
    "$$",
    ":::",
    "{{",
    "}}",
    "{%",
    "%}",
    "---\n",
    "|-|-|\n",
    "1. ",
    "[a]: b\n",
]
PARTS += [
    "[^a]",
    "[^a]: c",
    "](x)",
    "![",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?",
    "</",
    "/>",
    "&amp;",
    "&copy",
    "&nbsp;",
]
PARTS += [
    "http://a.b/",
    "www.a.b",
    "<s1>",
    "</s1>",
    "<s2></s2>",
    "%s",
    "{0}",
    ":x:",
    "<b>",
    "</b>",
    "<p>",
    "<br>",
    "<li>",
]
PARTS += [
    "<code>",
    "</code>",
    "<pre>",
    "<script>",
    "</script>",
    "<title>",
    "</title>",
    "<svg>",
    "</svg>",
    "<td>",
    "<table>",
]
PARTS += [
    "<img alt=",
    "<a title='",
    " translate=no",
    "class=notranslate>",
    "<!doctype html>",
    "<div>\n",
    "</div>",
    "title: ",
]
TAGS = {1: ("<b>", "</b>"), 2: ("<br>", "")}
BLOCK = Block("A <s1>Tom &</s1> a<s2></s2>", "", "", TAGS, {"Tom &": "Tom &AMP;"})


def check_documents(source: str) -> None:
    assert "".join(source[token.start : token.end] for token in lex(source)) == source
    for markup, parser in PARSERS.items():
        try:
            document = parser.parse(source)
        except BrokenMarkup:
            continue
        own = [block.text for block in document.blocks]
        assert rebuild(document, parser.write, own) == source
        for block in document.blocks:
            assert marks.mend(block.text, block.tags, block.text) == block.text
        rebuild(document, parser.write, [text + " *<b>" for text in own])
        verify.skeleton(markup, source)


def check_answers(answer: str, cut: int) -> None:
    mended = marks.mend(BLOCK.text, TAGS, answer)
    assert mended is None or marks.mend(BLOCK.text, TAGS, mended) == mended
    whole, parts = (marks.Restorer(BLOCK, str) for _ in range(2))
    once = whole.feed(answer) + whole.end()
    size = 1 + cut % 5
    assert "".join(parts.feed(answer[at : at + size]) for at in range(0, len(answer), size)) + parts.end() == once


def one_input(data: bytes) -> None:
    source = "".join(PARTS[byte % len(PARTS)] for byte in data)
    try:
        check_documents(source)
        check_answers(source, len(data))
    except Exception as error:  # each is a finding
        *_, frame = (
            one
            for one in traceback.extract_tb(error.__traceback__)
            if {"engine", "tests"} & {*Path(one.filename).parts}
        )
        path = FINDINGS / f"{type(error).__name__}-{Path(frame.filename).stem}-{frame.lineno}.json"
        if not path.exists() or len(json.loads(path.read_text())) > len(source):
            path.write_text(json.dumps(source))


if __name__ == "__main__":
    FINDINGS = Path(sys.argv.pop(1))
    FINDINGS.mkdir(parents=True, exist_ok=True)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
