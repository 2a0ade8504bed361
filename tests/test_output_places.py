"""Whatever a model answers: what was sent is the text in the end, and terms stand where they are said to stand."""

import asyncio
import random
from dataclasses import replace

import pytest

from engine.backends.echo import EchoBackend
from engine.scheduler import Scheduler
from engine.translator import Translator
from engine.types import Finished, SegmentDone, Term, TextDelta, TextReplaced, TokenChunk, TranslationRequest

RUNS = 60  # texts of each format, a few milliseconds each
WORDS = (
    "server cache the brown fox café 🙂 HunYuan foo_bar() & < > * _ ` [ ] \\ 1. 42 Server servers lazy-dog “quoted”"
    " 服务器 https://x.org/server <s1> </s1> <|extra_0|> /think {name} %s"
).split()
AROUND = {
    "html": '<b>_</b>|<i>_</i>|<a href="Rechner">_<br>_</a>|<img alt="_">|<code>_</code>|_&amp;|<p>_</p>|_<br>'.split(
        "|"
    ),
    "markdown": "**_**,[_](Rechner),`_`,![_](a.png),\n\n# _\n\n,\n- _\n,_  \n,&copy; _,_\\*".split(","),
    "text": "_\n,_. ,_\n\n,(_)".split(","),
}
TERMS = (
    Term("server", "Rechner"),
    Term("cache", "Speicher"),
    Term("HunYuan", ""),
    Term("brown fox", "Fuchs"),
    Term("fox", ""),
    Term("🙂", "😀"),
    Term("服务器", "Rechner"),
    Term("lazy-dog", ""),
)
SLIPS = ("<s1>", "</s1>", "<S2>", "<s2></s2>", "< s9 >", "<target>", "`", "Rechner", "la la la " * 40)


class Slips(EchoBackend):
    """Obeys most terms, loses, doubles and invents words and marks, stops early, and says it in pieces of any size."""

    def __init__(self, chance):
        super().__init__(segment_tokens=chance.choice([6, 20, 60]))
        family = chance.choice(["hy-mt1.5", "hy-mt2"])
        self.info = replace(self.info, translates=True, marks=chance.random() < 0.8, family=family)
        self.chance = chance

    async def stream(self, prompt):
        chance, text = self.chance, prompt.source
        for term in TERMS:
            if term.target and chance.random() < 0.7:
                text = text.replace(term.source, term.target)
        for _ in range(chance.choice([0, 0, 1, 2, 4])):
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice(["", *SLIPS]) + text[at + chance.choice([0, 0, 3, 8]) :]
        while text:
            size = chance.randrange(1, 8)
            await asyncio.sleep(0)
            yield TokenChunk(text[:size])
            text = text[size:]
        yield TokenChunk("", tokens=0, finish=chance.choice(["stop"] * 9 + ["length"]))


def any_text(chance, markup):
    text = ""
    for _ in range(chance.randrange(1, 12)):
        words = " ".join(chance.choices(WORDS, k=chance.randrange(1, 6)))
        text += chance.choice(["", " ", ". "]) + chance.choice([*AROUND[markup], "_"]).replace("_", words, 2)
    return text


async def said_of(request, backend):
    return [event async for event in Translator(backend, Scheduler(4, 4)).stream(request)]


@pytest.mark.parametrize("markup", AROUND)
@pytest.mark.parametrize("seed", range(RUNS))
def test_what_was_sent_is_the_text_and_terms_stand_where_they_are_said_to(seed, markup):
    chance = random.Random(f"{markup} {seed}")
    terms = tuple(chance.sample(TERMS, chance.randrange(len(TERMS) + 1)))
    request = TranslationRequest(any_text(chance, markup), "de", "en", format=markup, glossary=terms)
    backend = Slips(chance)
    shown = {}
    for event in asyncio.run(said_of(request, backend)):
        match event:
            case TextDelta():
                shown[event.segment] = shown.get(event.segment, "") + event.text
            case TextReplaced():
                shown[event.segment] = event.text
            case SegmentDone() | Finished():
                stretches = [(term, event.text[slice(*place)]) for term in event.terms for place in term.places]
                assert [pair for pair in stretches if not is_said(*pair)] == []
    assert "".join(shown[number] for number in sorted(shown)) == event.text
    assert backend.running == 0


def is_said(term, stretch):
    """Inflected or not: the stretch begins as the target does, and ends with the word."""
    return stretch.casefold().startswith(term.target[:4].casefold()) and not stretch[-1].isspace()


def places(finished):
    return [(start, finished.text[start:end]) for term in finished.terms for start, end in term.places]


class Says(EchoBackend):
    """Gives one answer to all."""

    async def stream(self, prompt):
        yield TokenChunk("Rechner", finish="stop")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("html", '<p>Go <a href="/Rechner">server<br>server</a></p>'),
        ("text", "Rechner_one() server\nserver"),
        ("html", '<p title="Rechner">server</p><p>server server</p>'),
    ],
)
def test_a_term_is_not_looked_for_in_what_stands_before_its_segment(markup, text):
    request = TranslationRequest(text, "de", "en", format=markup, glossary=TERMS[:1])
    finished = asyncio.run(said_of(request, Says()))[-1]
    assert places(finished)
    assert not any(finished.text[:start].endswith(("/", '="')) for start, _ in places(finished))
