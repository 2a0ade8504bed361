"""The values that travel between layers. They hold data and do nothing.

Down: `TranslationRequest` → `Document`, `Block` → `Segment` → `Prompt`.
Up: `TokenChunk` → `Translated` → `TextDelta` → `Finished`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Literal

Format = Literal["auto", "text", "html", "markdown", "xml"]
Family = Literal["hy-mt1.5", "hy-mt2"]  # which of Tencent's prompt templates a checkpoint was trained on
Style = Literal["", "formal", "informal"]  # "": as the model likes
FinishReason = Literal["stop", "length"]
Split = Literal["sentences", "no_newlines", "none"]  # what ends a sentence of plain text: see `markup.plain`
LoadStage = Literal["download", "weights", "prepare", "test"]  # in this order
CountTokens = Callable[[str], int]  # a tokenizer, as the text layers see it
Skeleton = tuple[str | int, ...]  # source that is copied as it is, and the places of blocks by their numbers


def new_id() -> str:
    return token_hex(6)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `None` means: as the checkpoint recommends; temperature 0 is greedy."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a backend says of the model it serves."""

    name: str
    family: Family
    languages: tuple[str, ...]  # the codes it speaks, of `languages.LANGUAGES`
    precision: str  # "bf16", "int8", "gptq-int4", "gptq-int4, widened", …; "none" where there is no model
    device: str
    max_context_tokens: int  # prompt and answer together
    segment_tokens: int  # the longest segment it translates well, in its own tokens
    licence: str = ""
    hub: str | None = None  # the language on one side of every pair it learnt; None where it learnt all pairs
    translates: bool = True  # else it says the source back, and what it says is not judged as a translation
    marks: bool = True  # whether it has learnt to carry marks such as <s1> over; else runs are translated apart
    kernel: str = ""  # what multiplies by the weights, in the backend's words; empty where there is no choice
    plan: str = ""  # why it is loaded as it is, in words
    planned_bytes: Mapping[str, int] = field(default_factory=dict)  # what that was expected to take, by kind


@dataclass(frozen=True, slots=True)
class LoadState:
    """How far the model is. `done` runs from 0 to 1 over all stages; `stage` is empty where none is under way."""

    status: Literal["loading", "ready", "failed", "stopping"]
    stage: LoadStage | Literal[""]
    done: float
    seconds_left: float | None  # None: that cannot be told yet
    reason: str  # a sentence for people; empty once it is ready


@dataclass(frozen=True, slots=True)
class Replica:
    """One of several backends that work as one."""

    device: str  # "cuda:0", "cuda:0+cuda:1"; "cpu#2" is the second there; of one on another machine its address
    state: Literal["loading", "ready", "failed"]  # "failed": it is not tried again
    reason: str  # a sentence for people; empty where it is ready
    memory: Mapping[str, int]  # see `Backend.memory`; empty where it is not there
    tokens: int  # of prompts and answers that are under way there, about
    segments: int = 0  # these are
    slots: int = 0  # segments that it works on at once; 0 where it has never been there


@dataclass(frozen=True, slots=True)
class Term:
    """An entry of a glossary. Without a `target` the source is to be kept as it is."""

    source: str
    target: str
    case: bool = False  # whether it is meant in this letter case only
    note: str = ""  # for people; no model sees it


@dataclass(frozen=True, slots=True)
class TermResult:
    """How often a term's source occurs, and in how many of those places its target was found after.

    `places` are where in the translation, as (start, end) in characters (Unicode code points), in order;
    `source_places` where in the source text, but for what is spelt otherwise there than a reader reads it.
    """

    source: str
    target: str
    count: int
    applied: int
    places: tuple[tuple[int, int], ...] = ()
    source_places: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Warning:
    """Something the user should know about a translation that was made all the same."""

    code: str
    message: str
    segment: int | None = None


@dataclass(frozen=True, slots=True)
class MarkupChange:
    """Something of a text's markup that is written otherwise than in its source, on purpose, and how often."""

    code: str
    count: int
    message: str


@dataclass(frozen=True, slots=True)
class Guess:
    """One language a text may be in; `score` is a probability, 0 to 1."""

    lang: str
    score: float


@dataclass(frozen=True, slots=True)
class TagRules:
    """What a caller says of the elements of HTML or XML by their names, as they are written.

    It comes before what the parser would find by itself: what the standard says of HTML's tags, and the `outline` of
    an XML. Without `outline` only `splitting` elements are blocks. Of a name in both lists `splitting` counts.
    """

    ignore: frozenset[str] = frozenset()  # their content stays as it is
    splitting: frozenset[str] = frozenset()  # each is a block, or holds some
    non_splitting: frozenset[str] = frozenset()  # each stands inside one
    outline: bool = True


NO_RULES = TagRules()


@dataclass(frozen=True, slots=True)
class TranslationRequest:
    """What a face asks of the translator. `source` None means: detect it, and where that is not sure take `likely`."""

    text: str
    target: str
    source: str | None = None
    likely: str | None = None
    format: Format = "auto"
    tags: TagRules = NO_RULES
    split: Split = "sentences"
    glossary: tuple[Term, ...] = ()
    context: str = ""
    context_mode: bool = True  # also show each segment the sentences before it
    style: Style = ""  # only families with a template for it heed it: see `prompts.STYLED`
    sampling: Sampling = Sampling()
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Block:
    """What is translated as one: a paragraph, heading, cell, caption or attribute.

    `text` is what a reader reads, without entities or escapes. Inline tags are marks in it: a pair is `<s1>…</s1>`, a
    tag that stands alone `<s2></s2>`, and `tags[n]` is the source (opening, closing) of number n, the closing empty
    where it stands alone. Numbers may differ from 1, 2, … where the text itself holds such a mark.
    """

    text: str
    source: str  # the whole span in the document; written back as it is where the text has not changed
    form: str  # how its text is written, in the parser's words: what must be escaped, and how
    tags: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    spelling: Mapping[str, str] = field(default_factory=dict)  # a run → its source, where escaping gives another
    nested: Mapping[int, tuple[Skeleton, Skeleton]] = field(default_factory=dict)  # see `Document`


@dataclass(frozen=True, slots=True)
class Document:
    """What every parser returns. The skeleton is copied as it is; a number in it is the place of that block.

    A block that stands in a tag of another, as an alternative text does, comes before that one and is named in its
    `nested` alone: number n holds the skeletons of its (opening, closing), number 0 that of its whole source.
    """

    skeleton: Skeleton
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """What one prompt translates. `gap` is the text of its block between the segment before and this one."""

    index: int
    text: str
    gap: str = ""
    tokens: int = 0  # of `text` alone
    block: int = 0
    tags: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # those of the block whose marks `text` holds
    kept: Mapping[int, str] = field(default_factory=dict)  # which of `tags` stand for words that come back as they are
    context: str = ""  # what the user says of the text
    before: str = ""  # the sentences before it
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user turn for the model. `source` is the part of `text` that is to be translated. `first`: its request has
    been answered nothing yet, so it goes before those of others. `made`: ids of the answer's tokens so far, made by
    another backend of the same model; only what follows them is said, and with the same seed it is the same."""

    text: str
    source: str
    max_new_tokens: int
    sampling: Sampling = Sampling()
    first: bool = False
    made: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Backend → translator. Whole characters only; the last chunk, and it alone, has a `finish`. `ids`: the tokens that
    came with it, where the backend tells them; their text may come with a later chunk."""

    text: str
    tokens: int = 1
    finish: FinishReason | None = None
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Translated:
    """What became of a segment. The marks of `text` are those of the segment's that are tags of its block; the places
    of `terms` are in the text without them, and in the segment's source as a reader reads it."""

    segment: Segment
    text: str
    tokens: int = 0  # of all answers that were asked for
    terms: tuple[TermResult, ...] = ()
    warnings: tuple[Warning, ...] = ()
    changed: bool = False  # whether it is not what the model said first, as it was passed on


@dataclass(frozen=True, slots=True)
class Started:
    """The request runs; `detection` is empty when the caller named the source."""

    segments: int
    source: str
    detection: tuple[Guess, ...] = ()


@dataclass(frozen=True, slots=True)
class Queued:
    """Sent only when the request must wait; `ahead` counts requests before it."""

    ahead: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Append this to what there is of its segment: the texts of all segments joined are the translation."""

    segment: int
    text: str


@dataclass(frozen=True, slots=True)
class TextReplaced:
    """A check has found better: all that came of this segment so far is to be this text."""

    segment: int
    text: str


@dataclass(frozen=True, slots=True)
class SegmentDone:
    """`source` is as a reader reads it, `text` as it is written; the `source_places` of terms are in the whole text."""

    segment: int
    text: str
    terms: tuple[TermResult, ...] = ()
    warnings: tuple[Warning, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """`text` is the translation; of a document that came as blocks it is empty, and `texts` has one for each block."""

    text: str
    source: str
    segments: int
    input_tokens: int
    output_tokens: int
    seconds: float
    model: str
    detection: tuple[Guess, ...] = ()
    terms: tuple[TermResult, ...] = ()
    warnings: tuple[Warning, ...] = ()
    texts: tuple[str, ...] = ()
    changes: tuple[MarkupChange, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """What the model is shown first of a segment, and its parts: of those that were to be had the ones that are in."""

    segments: int  # of the text
    segment: int
    source: str  # of the segment, as a reader reads it
    context: str  # of what the user says of the text
    context_cut: int  # characters of that which are left out at its beginning
    before: str  # the sentences before the segment
    terms: tuple[Term, ...]
    text: str  # word for word; empty where all of the segment is kept
    tokens: int


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Other translations of one segment, each as it would stand in the document; and the tokens of all tries."""

    segment: int
    texts: tuple[str, ...]
    input_tokens: int = 0
    output_tokens: int = 0


TranslationEvent = Queued | Started | TextDelta | TextReplaced | SegmentDone | Finished
DocumentEvent = Queued | Started | Translated | Finished
