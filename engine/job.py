"""A request → the job it makes: segments with their context and terms. All the work that needs no model, in one place.

Runs in a thread, since a book takes a second to cut and count and others are being answered meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine import glossary
from engine.context import USER_TOKENS, fitted, windows
from engine.detect import detect, is_certain
from engine.errors import TextTooLong, UnknownLanguage
from engine.languages import CHINESE, LANGUAGES, Language
from engine.markup import kept, marks
from engine.markup.segments import segments_of
from engine.segmenter import join_gap
from engine.types import Block, CountTokens, Guess, ModelInfo, Segment, TranslationRequest, Warning

DETECTED_CHARACTERS = 100_000  # what the language is guessed from; more changes nothing
UNDETERMINED = "und"  # BCP-47's code for the source of a text without words


@dataclass(frozen=True, slots=True)
class Job:
    """`tails` holds for each block what follows its last segment; without segments all stays as it is."""

    blocks: tuple[Block, ...]
    segments: list[Segment]
    tails: list[str]
    source: str
    detection: tuple[Guess, ...] = ()
    warnings: tuple[Warning, ...] = ()

    def gap(self, index: int, target: Language) -> str:
        """What stands before a segment in its block, as it stands in a translation into `target`."""
        part = self.segments[index]
        if index == 0 or (before := self.segments[index - 1]).block != part.block:
            return part.gap
        return join_gap(part.gap, marks.bare(before.text, before.tags), target)

    def texts(self, translations: Sequence[str], target: Language) -> list[str]:
        """The text of each block, from those of all segments or, where there is none, its own."""
        if not self.segments:
            return [block.text for block in self.blocks]
        texts = [""] * len(self.blocks)
        for part, translation in zip(self.segments, translations, strict=True):
            texts[part.block] += self.gap(part.index, target) + translation
        return [text + tail for text, tail in zip(texts, self.tails, strict=True)]


def prepare(
    request: TranslationRequest,
    blocks: tuple[Block, ...],
    model: ModelInfo,
    count_tokens: CountTokens,
    max_text_tokens: int,
) -> Job:
    """Raises `TextTooLong`, which says how long the text is, and `UnknownLanguage` where the text is in one."""
    segments, tails = segments_of(blocks, count_tokens, model.segment_tokens)
    if not segments:
        return Job(blocks, [], tails, request.source or UNDETERMINED)
    size = sum(part.tokens for part in segments)
    if size > max_text_tokens:
        raise TextTooLong(f"The text has {size:,} tokens; one request takes {max_text_tokens:,}. Send it in parts.")
    source, detection, doubts = _source(request, _beginning(segments), model)
    if source == request.target:
        message = (
            f"The text seems to be {LANGUAGES[source].english} already, so it was left as it is; "
            "if it is not, choose its language yourself."
        )
        return Job(blocks, [], tails, source, detection, (Warning("same_language", message),))
    context = fitted(request.context, count_tokens)
    before = windows(_follow(segments), count_tokens) if request.context_mode else [""] * len(segments)
    terms = glossary.index(request.glossary)
    segments = [
        _with_terms(replace(part, context=context, before=shown) if context or shown else part, terms, source)
        for part, shown in zip(segments, before, strict=True)
    ]
    doubts += (*_cut(request.context, context), *_unlearnt(model, source, request.target))
    return Job(blocks, segments, tails, source, detection, doubts)


def _source(
    request: TranslationRequest, text: str, model: ModelInfo
) -> tuple[str, tuple[Guess, ...], tuple[Warning, ...]]:
    """The language of the text, how it was found, and what is doubtful about that.

    Raises `UnknownLanguage` for a text that is certainly in a language the model does not speak.
    """
    if request.source:
        return request.source, (), ()
    detection = detect(text, model.languages)
    first = detect(text, LANGUAGES)
    if is_certain(first) and not _speaks(model, lang := first[0].lang):
        raise UnknownLanguage(
            f"The text seems to be {LANGUAGES[lang].english} ({lang}), which this model does not speak; it speaks "
            f"{', '.join(model.languages)}. If the text is in one of these, name its language."
        )
    guess = detection[0].lang
    if is_certain(detection):
        return guess, detection, ()
    source = request.likely if request.likely in model.languages and request.likely != request.target else guess
    seems = " or ".join(f"{LANGUAGES[each.lang].english} ({each.score:.0%})" for each in detection)
    message = (
        f"The text may be {seems}; it was taken for {LANGUAGES[source].english}. Choose its language if it is another."
    )
    return source, detection, (Warning("uncertain_language", message),)


def _speaks(model: ModelInfo, lang: str) -> bool:
    """Whether the model can read it; who reads one Chinese reads the others."""
    return lang in model.languages or (lang in CHINESE and not CHINESE.isdisjoint(model.languages))


def _cut(context: str, shown: str) -> tuple[Warning, ...]:
    if not (cut := len(context.strip()) - len(shown)):
        return ()
    message = (
        f"The context is longer than the {USER_TOKENS} tokens that are shown with each segment, so its first "
        f"{cut:,} characters were left out; keep to what matters."
    )
    return (Warning("context_cut", message),)


def _with_terms(part: Segment, terms: glossary.Index, lang: str) -> Segment:
    """With those that occur in it, as a reader reads it; the words of those without a target are kept."""
    found = glossary.find(terms, marks.bare(part.text, part.tags), lang)
    if found:
        part = replace(part, terms=glossary.each_once(found))
    return kept.keep(part, [(each.start, each.end) for each in found if not each.term.target])


def _beginning(segments: Sequence[Segment]) -> str:
    lines, size = list[str](), 0
    for part in segments:
        lines.append(marks.bare(part.text, part.tags))
        size += len(part.text)
        if size > DETECTED_CHARACTERS:
            break
    return "\n".join(lines)


def _follow(segments: Sequence[Segment]) -> list[str]:
    """The texts as a reader reads them one after the other, each with what parts it from the one before."""
    texts, block = list[str](), -1
    for part in segments:
        gap = "\n" if part.block != block else " " if part.gap.strip() else part.gap
        texts.append(gap + marks.bare(part.text, part.tags))
        block = part.block
    return texts


def _unlearnt(model: ModelInfo, source: str, target: str) -> tuple[Warning, ...]:
    hub = model.hub
    if hub is None or hub in (source, target):
        return ()
    between, first, second = (LANGUAGES[code].english for code in (hub, source, target))
    message = (
        f"{model.name} has learnt {between} with each of its languages, but not {first} with {second}, so this "
        f"is a guess; translate into {between} first, and that into {second}."
    )
    return (Warning("unlearnt_pair", message),)
