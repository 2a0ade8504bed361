"""Translations as other services give them: the text itself where there is nothing to do, and other translations beside
it. Knows no face.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from engine.errors import YiwenError
from engine.languages import resolve_any
from engine.metrics import Metrics
from engine.server import incoming, questions, runs
from engine.translator import Translator
from engine.types import Finished, Format, SegmentDone, TextDelta, TextReplaced, TranslationRequest, new_id

AUTO = questions.AUTO
MOST_SEGMENTS = 4  # of a text that gets others: each segment is asked for again and again


def read_fields(data: object, model: type[questions.AnyFields]) -> questions.AnyFields:
    """As `questions.read_fields`, but names that the model has not are passed over: clients send what their services
    know."""
    known = {name: data[name] for name in model.model_fields if name in data} if isinstance(data, dict) else data
    return questions.read_fields(known, model, strict=False)


def requests(texts: Sequence[str], source: str, target: str, markup: Format) -> list[TranslationRequest]:
    """One for each text, which take turns with other requests as one. `source` may be auto or empty."""
    named = None if source.strip().casefold() in ("", AUTO) else source
    run_id = new_id()
    return [TranslationRequest(text, target, named, format=markup, id=run_id) for text in texts]


async def translate_all(
    translator: Translator, metrics: Metrics, asked: Sequence[TranslationRequest]
) -> list[Finished]:
    """As `runs.translate_all`, but an empty text, and one that is in the target's language, comes back as it is."""
    given_back = [_is_given_back(translator, request) for request in asked]
    at_work = [request for request, back in zip(asked, given_back, strict=True) if not back]
    finished = iter(await runs.translate_all(translator, metrics, at_work))
    return [
        _given_back(translator, request) if back else next(finished)
        for request, back in zip(asked, given_back, strict=True)
    ]


async def translate_with_others(
    translator: Translator, metrics: Metrics, asked: TranslationRequest, count: int
) -> tuple[Finished, list[str]]:
    """The translation, and at most `count` others of the whole text: the first has the first other translation of each
    segment, and so on. A longer text, and one of which the model can say nothing else, has none."""
    if not count or _is_given_back(translator, asked):
        return (await translate_all(translator, metrics, [asked]))[0], []
    written: dict[int, str] = {}  # by segment; joined they are the translation
    done: dict[int, str] = {}
    finished: Finished | None = None
    async with aclosing(metrics.observe(translator.stream(asked))) as events:
        async for event in events:
            match event:
                case TextDelta():
                    written[event.segment] = written.get(event.segment, "") + event.text
                case TextReplaced():
                    written[event.segment] = event.text
                case SegmentDone():
                    done[event.segment] = event.text
                case Finished():
                    finished = event
    assert finished is not None, "a stream that ends well ends with Finished"
    if not 0 < finished.segments <= MOST_SEGMENTS:
        return finished, []
    found = await _alternatives(translator, replace(asked, source=finished.source), done, count)
    return finished, _whole(written, done, found, count)


async def _alternatives(
    translator: Translator, asked: TranslationRequest, done: Mapping[int, str], count: int
) -> dict[int, tuple[str, ...]]:
    """Of each segment."""
    order = sorted(done)
    asking = [asyncio.create_task(translator.alternatives(asked, each, count, done[each])) for each in order]
    try:
        found = await asyncio.gather(*asking)
    except YiwenError:  # the translation is there, and is not to be lost for these
        return {}
    finally:
        await incoming.cancel(asking)
    return {each.segment: each.texts for each in found}


def _whole(
    written: Mapping[int, str], done: Mapping[int, str], found: Mapping[int, tuple[str, ...]], count: int
) -> list[str]:
    texts = ["".join(text for _, text in sorted(written.items()))]
    for number in range(count):
        parts = dict(written)
        for segment, others in found.items():
            if number < len(others) and parts[segment].count(done[segment]) == 1:
                parts[segment] = parts[segment].replace(done[segment], others[number])
        text = "".join(text for _, text in sorted(parts.items()))
        if text not in texts:
            texts.append(text)
    return texts[1:]


def _is_given_back(translator: Translator, asked: TranslationRequest) -> bool:
    """Raises what is wrong with the request all the same."""
    if asked.source is None or resolve_any(asked.source) != resolve_any(asked.target):
        return not asked.text
    translator.checked(replace(asked, source=None), [asked.text])
    return True


def _given_back(translator: Translator, asked: TranslationRequest) -> Finished:
    source = resolve_any(asked.source or "") or ""
    name = translator.info.name
    return Finished(asked.text, source, segments=0, input_tokens=0, output_tokens=0, seconds=0.0, model=name)
