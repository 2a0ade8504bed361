"""Markup through the door: what the model is asked, what the guard does, and what comes out."""

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from dataclasses import replace

import pytest

from engine.answer import Answer
from engine.backends.echo import EchoBackend
from engine.markup import html, markdown_writing, marks
from engine.markup.verify import TEXT, skeleton
from engine.scheduler import Scheduler
from engine.translator import Translator
from engine.types import (
    Finished,
    SegmentDone,
    Term,
    TextDelta,
    TextReplaced,
    TokenChunk,
    Translated,
    TranslationRequest,
)

PAGE = """<!DOCTYPE html>
<html><head><title>A title here</title></head>
<body><p>Hello <b>bold world</b>, and &lt;script&gt; too.&nbsp;<br>Next one.
<a href="x" title="To you">A link</a> ends.</p>
<pre>not this</pre><ul><li>One <code>f(x)</code> two<li>three</ul></body></html>
"""
README = """# A *title* here

Some **bold** text, a [link](https://a.bc "d") and `code`.
Next line. And [ref][] too.

```sh
not this
```

| a b | c |
|-----|---|
| d   | e **f** |

[ref]: https://x.yz
"""
MESSAGE = "Hello %s, you have {count} mails.\nSee https://a.bc/d for more.\n"


class Scripted(EchoBackend):
    """Answers by a function of the prompt, four characters at a time; keeps the prompts."""

    def __init__(self, say, marks=True, **more):
        super().__init__(**more)
        self.info = replace(self.info, marks=marks)
        self.say, self.prompts = say, []

    async def stream(self, prompt):
        self.prompts.append(prompt)
        text = self.say(prompt)
        for at in range(0, len(text), 4):
            await asyncio.sleep(0)
            yield TokenChunk(text[at : at + 4])
        yield TokenChunk("", tokens=0, finish="stop")


def ask(text, format="auto", target="fr", **more):
    return TranslationRequest(text, target, "en", format=format, **more)


async def events_of(backend, request):
    translator = Translator(backend, Scheduler(4, 10))
    async with aclosing(translator.stream(request)) as events:
        return [event async for event in events]


def run(request, backend=None):
    return asyncio.run(events_of(backend or EchoBackend(), request))


def shown(events):
    """What a client has on its page that does as it is told."""
    segments = {}
    for event in events:
        if isinstance(event, TextDelta):
            segments[event.segment] = segments.get(event.segment, "") + event.text
        elif isinstance(event, TextReplaced):
            segments[event.segment] = event.text
    return "".join(segments[index] for index in sorted(segments))


def upper(prompt):
    """A translation: all but the marks in capitals."""
    return "".join(
        piece if piece.startswith("<") else piece.upper()
        for piece in prompt.source.replace("<", "\0<").replace(">", ">\0").split("\0")
    )


@pytest.mark.parametrize("budget", [3, 12, 200])
@pytest.mark.parametrize(
    ("text", "format"), [(PAGE, "html"), (README, "markdown"), (MESSAGE, "text"), (PAGE, "auto"), (README, "auto")]
)
def test_what_is_not_changed_comes_back_to_the_last_byte(text, format, budget):
    events = run(ask(text, format), EchoBackend(segment_tokens=budget))
    assert events[-1].text == shown(events) == text
    assert events[-1].warnings == ()


def test_a_page_is_translated_and_its_tags_are_not():
    events = run(ask(PAGE, "html"), Scripted(upper, segment_tokens=200))
    assert shown(events) == events[-1].text
    assert "<title>A TITLE HERE</title>" in events[-1].text
    assert "<p>HELLO <b>BOLD WORLD</b>, AND &lt;script&gt; TOO.&nbsp;<br>NEXT ONE. " in events[-1].text
    assert '<a href="x" title="TO YOU">A LINK</a> ENDS.</p>' in events[-1].text
    assert "<pre>not this</pre>" in events[-1].text
    assert "ONE <code>f(x)</code> TWO<li>THREE</ul>" in events[-1].text


def test_markdown_is_translated_and_its_marks_are_not():
    text = run(ask(README, "markdown"), Scripted(upper, segment_tokens=200))[-1].text
    assert "# A *TITLE* HERE\n" in text
    assert "SOME **BOLD** TEXT, A [LINK](https://a.bc " in text
    assert "AND [REF][ref] TOO." in text
    assert "```sh\nnot this\n```" in text
    assert "| D   | E **F** |" in text


def test_placeholders_of_plain_text_never_reach_the_model():
    backend = Scripted(upper)
    assert run(ask(MESSAGE), backend)[-1].text == "HELLO %s, YOU HAVE {count} MAILS.\nSEE https://a.bc/d FOR MORE.\n"
    assert not any("%s" in prompt.text or "https" in prompt.text for prompt in backend.prompts)


def test_marks_are_asked_for_with_the_template_for_marks_and_taken_out_of_its_wrapper():
    backend = Scripted(lambda prompt: f"<target>{upper(prompt)}</target>")
    assert run(ask("Say <b>it</b> now.", "html"), backend)[-1].text == "SAY <b>IT</b> NOW."
    assert "<source>Say <s1>it</s1> now.</source>" in backend.prompts[0].text


def test_a_family_whose_templates_know_no_marks_is_given_them_in_its_own_first():
    backend = Scripted(lambda prompt: "DIS LE MOT")
    backend.info = replace(backend.info, family="hy-mt2")
    run(ask("Say <b>it</b> now.", "html"), backend)
    assert [prompt.text.count("<source>") > 0 for prompt in backend.prompts[:2]] == [False, True]


def test_a_text_that_speaks_of_the_wrapper_is_asked_for_otherwise():
    backend = Scripted(upper)
    text = run(ask("The <b>tag</b> &lt;target&gt; is here.", "html"), backend)[-1].text
    assert text == "THE <b>TAG</b> &lt;target&gt; IS HERE."
    assert "<source>" not in backend.prompts[0].text


def test_terms_go_before_marks():
    backend = Scripted(upper)
    run(ask("Say <b>it</b> now.", "html", glossary=(Term("it", "IT"),)), backend)
    assert "it 翻译成 IT" in backend.prompts[0].text
    assert "Say <s1>it</s1> now." in backend.prompts[0].text


def test_a_term_over_a_tag_is_found():
    (term,) = run(
        ask("Deep <b>learning</b> now.", "html", glossary=(Term("deep learning", "DEEP LEARNING"),)), Scripted(upper)
    )[-1].terms
    assert (term.count, term.applied) == (1, 1)


def test_a_slip_is_mended_without_asking_again_and_replaces_what_was_shown():
    backend = Scripted(lambda prompt: "DIS <S1>LE< /s1> <s9>MOT</s9>")
    events = run(ask("Say <b>it</b> now.", "html"), backend)
    assert shown(events) == events[-1].text == "DIS <b>LE</b> MOT"
    assert len(backend.prompts) == 1


def test_a_lost_mark_is_asked_for_again_greedily_with_another_template():
    backend = Scripted(lambda prompt: upper(prompt) if prompt.sampling.temperature == 0 else "DIS LE MOT")
    events = run(ask("Say <b>it</b> now.", "html"), backend)
    assert shown(events) == events[-1].text == "SAY <b>IT</b> NOW."
    assert [prompt.text.count("<source>") > 0 for prompt in backend.prompts] == [True, False]
    assert events[-1].warnings == ()


def test_marks_lost_twice_have_their_runs_translated_apart():
    backend = Scripted(lambda prompt: prompt.source.upper() if "<" not in prompt.source else "DIS LE MOT")
    events = run(ask("Say <b>it</b>, now.", "html"), backend)
    assert shown(events) == events[-1].text == "SAY <b>IT</b>, NOW."
    assert [warning.code for warning in events[-1].warnings] == ["translated_apart"]
    assert [type(event) for event in events].count(TextReplaced) == 1


def test_a_placeholder_the_model_forgets_is_asked_for_again_before_it_is_put_at_the_end():
    forgets = Scripted(lambda prompt: "BONJOUR." if prompt.sampling.temperature != 0 else upper(prompt))
    assert run(ask("Hello %s."), forgets)[-1].text == "HELLO %s."
    events = run(ask("Hello %s."), Scripted(lambda prompt: "BONJOUR."))
    assert shown(events) == events[-1].text == "BONJOUR. %s"
    assert [warning.code for warning in events[-1].warnings] == ["tags_moved"]


@pytest.mark.parametrize(("target", "space"), [("fr", " "), ("ru", " "), ("ja", ""), ("ko", ""), ("tr", "")])
def test_a_space_after_a_placeholder_comes_back_where_words_have_spaces(target, space):
    """…and where it is no word with what stands before or after it in the source, but not within one."""
    letter = {"ru": "д", "ja": "で"}.get(target, "d")
    backend = Scripted(lambda prompt: f"<s1></s1>{letter} <s2></s2>{letter}{letter}<s3></s3>")
    expected = f"{{a}}{space}{letter} {{b}}{letter}{letter}{space}{{c}}"
    assert run(ask("{a} for {b}x {c}", target=target), backend)[-1].text == expected


def test_a_model_that_never_learnt_marks_sees_none():
    backend = Scripted(upper, marks=False)
    events = run(ask("Say <b>it</b>, now.", "html"), backend)
    assert shown(events) == events[-1].text == "SAY <b>IT</b>, NOW."
    assert [prompt.source for prompt in backend.prompts] == ["Say", "it", ", now."]
    assert events[-1].warnings == ()


def test_a_model_that_says_nothing_leaves_the_source_and_that_is_said():
    events = run(ask("Say <b>it</b> now.", "html"), Scripted(lambda prompt: ""))
    assert shown(events) == events[-1].text == "Say <b>it</b> now."
    assert [warning.code for warning in events[-1].warnings] == ["empty"]


DAMAGE = [
    lambda text, dice: text.replace("<s1>", "", 1),
    lambda text, dice: text.replace("</s1>", ""),
    lambda text, dice: text + "<s1></s1><s2>x</s2>",
    lambda text, dice: text.replace("s1", "S2").replace("<", "＜"),
    lambda text, dice: text[: dice.randrange(len(text) + 1)],
    lambda text, dice: "".join(dice.sample(text, len(text))),
    lambda text, dice: f"```html\n{text}\n```",
    lambda text, dice: text.replace(">", "> <b>*[x](y)`&lt;|~~$# "),
    lambda text, dice: "",
]


@pytest.mark.parametrize("format", ["html", "markdown"])
def test_whatever_the_model_does_the_skeleton_stays(format):
    def things(source):  # in any order: that of the words may be another
        return Counter(item for item in skeleton(format, source) if item != TEXT)

    dice = random.Random(3)
    for budget in (3, 20, 200):
        for damage in DAMAGE:
            backend = Scripted(lambda prompt, damage=damage: damage(upper(prompt), dice), segment_tokens=budget)
            text = PAGE if format == "html" else README
            events = run(ask(text, format), backend)
            assert shown(events) == events[-1].text
            assert things(events[-1].text) == things(text)


def test_marks_that_a_model_invents_are_left_out():
    events = run(ask("Say it now.", "html"), Scripted(lambda prompt: "DIS <s1>LE</s1>."))
    assert shown(events) == events[-1].text == "DIS LE."


def test_marks_cannot_be_forged_out_of_others():
    (block,) = html.parse("a <b>b</b> c").blocks
    assert marks.mend(block.text, block.tags, "<s<s99>1>x</s<s99>1> <s1>y</s1>") == "<s1>x</s1> y"
    assert marks.unmarked("<s<s9>1> b", "a b", block.tags) == " b"
    events = run(ask("Say %s now."), Scripted(lambda prompt: "<s<s9>1></s1> <s1></s1> a"))
    assert shown(events) == events[-1].text
    assert events[-1].text.count("%s") == 1
    (block,) = html.parse("Go <b>home</b><br>now").blocks
    assert marks.mend(block.text, block.tags, "va <s1>maison</s1><s2></s2> x </s<s2>1>") is None


def test_a_text_that_markdown_cannot_hold_leaves_its_source_and_that_is_said(monkeypatch):
    monkeypatch.setattr(markdown_writing, "write", lambda block, text: block.source)
    events = run(ask("# Say *it*\n\nnow\n", "markdown"), Scripted(upper))
    assert shown(events) == events[-1].text == "# Say *it*\n\nnow\n"
    assert [(warning.code, warning.segment) for warning in events[-1].warnings] == [
        ("source_kept", 0),
        ("source_kept", 1),
    ]


def test_a_model_that_dresses_words_up_as_code_is_undressed():
    backend = Scripted(lambda prompt: f"`{prompt.source.upper()}` <input>")
    assert run(ask("# Grow\n\n`x` goes\n", "markdown"), backend)[-1].text.startswith("# GROW\n")
    assert run(ask("&File"), Scripted(lambda prompt: "`<input>`"))[-1].text == "&File"
    assert run(ask("Press [Enter] now"), Scripted(lambda prompt: "现在按<Enter>"))[-1].text == "现在按<Enter>"
    assert run(ask("In Hawaii"), Scripted(lambda prompt: "À Hawai`i"))[-1].text == "À Hawai`i"


def test_a_segment_is_said_with_its_tags():
    events = run(ask("<p>One <b>two</b>.</p><p>Three.</p>", "html"), Scripted(upper))
    assert [event.text for event in events if isinstance(event, SegmentDone)] == ["ONE <b>TWO</b>.", "THREE."]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_wrapped_answer_is_read_however_it_is_cut(size):
    said = " <target>\n One < two </targe three <s1>x</s1> </target>\nThat was it."
    answer = Answer(wrapped=True)
    parts = [answer.take(TokenChunk(said[at : at + size])) for at in range(0, len(said), size)]
    parts.append(answer.take(TokenChunk("", tokens=0, finish="stop")))
    assert "".join(parts) == answer.text == "One < two </targe three <s1>x</s1>"


def test_a_wrapper_that_does_not_come_or_does_not_end_is_no_matter():
    for said, text in (("Bonjour", "Bonjour"), ("<tar", "<tar"), ("<target>Oui </tar", "Oui </tar"), ("<b>", "<b>")):
        answer = Answer(wrapped=True)
        for character in said:
            answer.take(TokenChunk(character))
        answer.take(TokenChunk("", tokens=0, finish="stop"))
        assert answer.text == text


async def blocks_of(source, backend, known=None):
    translator = Translator(backend, Scheduler(4, 10))
    events = translator.stream_blocks(ask(""), html.parse(source).blocks, known)
    return [event async for event in events]


def test_the_blocks_of_a_document_come_back_translated():
    source = "<p>One <b>two</b> three. Four.</p><p>Five.</p>"
    events = asyncio.run(blocks_of(source, Scripted(upper, segment_tokens=6)))
    assert isinstance(events[-1], Finished)
    assert events[-1].texts == ("ONE <s1>TWO</s1> THREE. FOUR.", "FIVE.")
    assert [event.text for event in events if isinstance(event, Translated)] == [
        "ONE <s1>TWO</s1> THREE.",
        "FOUR.",
        "FIVE.",
    ]


def test_segments_that_are_known_ask_no_model():
    source = "<p>One <b>two</b> three. Four.</p><p>Five.</p>"
    first = asyncio.run(blocks_of(source, Scripted(upper, segment_tokens=6)))
    known = {event.segment.index: event for event in first if isinstance(event, Translated)}
    del known[1]
    backend = Scripted(upper, segment_tokens=6)
    again = asyncio.run(blocks_of(source, backend, known))
    assert [prompt.source for prompt in backend.prompts] == ["Four."]
    assert again[-1].texts == first[-1].texts
