"""The XML of translators: TBX (ISO 30042, 2008 and v3) and TMX (1.1 to 1.4b) as terms, and terms as TBX v3.

Read without entities, DTDs and network; of each entry only what a glossary needs is kept. How a terminologist's entry
becomes rows:

- Each term of the source language is a row; its target is the entry's preferred term of the other language, or the
  first where none is marked. Further target terms are synonyms, and no rows. Deprecated and superseded terms are left
  out on both sides.
- A target that is marked an internationalism and spelt like the source means: keep it as it is. So it is written, too.
- The note is the source term's, or else the entry's definition.

A unit of a translation memory is a term where both sides are a few words without inline tags and sentence ends.
"""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lxml import etree

from engine.documents.xml import DAMAGED, LANG, escaped, local_name, streamed
from engine.errors import GlossaryError, GlossaryTooLarge
from engine.languages import UNSPACED_LETTERS
from engine.termbase.entries import MAX_TERMS, Imported, Problem, Row, language_of, pair_of, sound
from engine.types import Term

MOST_WORDS = 8  # of a unit of a translation memory that is a term
MOST_CHARACTERS = 100
LETTERS_PER_WORD = 3  # in scripts without spaces: Chinese words have two, Thai ones four or five
MOST_TAGS = 3_000_000  # some 600 MB in the reader, if they all stand in one entry; 50,000 entries have 1,500,000

_UNSPACED = re.compile(f"[{UNSPACED_LETTERS}]")
_SENTENCE_END = re.compile(r"[!?…。！？｡।؟۔။།]|\.\s|\s.*\.$", re.DOTALL)
_PREFERRED = ("preferred", "standardized", "recommended")  # as values of administrativeStatus begin
_OUTDATED = ("deprecated", "superseded", "obsolete")
_STATUS = ("administrativeStatus", "normativeAuthorization")
_KEPT = "internationalism"  # a value of termType: spelt alike in many languages
_CASE = "x-caseSensitive"  # no category of TBX; "x-" says that it is ours


@dataclass(slots=True)
class _Name:
    """A term of an entry, with what decides about it."""

    text: str = ""
    preferred: bool = False
    outdated: bool = False
    kept: bool = False
    case: bool = False
    note: str = ""


@dataclass(slots=True)
class _Entry:
    """Of a termbase or of a translation memory; languages are our codes, in the file's order."""

    names: dict[str, list[_Name]] = field(default_factory=dict)
    definition: str = ""


def read_tbx(data: bytes, source_lang: str, target_lang: str) -> Imported:
    """A row is an entry, from 1. Raises `GlossaryError`, also where the file has three languages and none is wanted."""
    first = ""
    entries = []
    for element in _elements(data, ("martif", "tbx", "TBX"), ("termEntry", "conceptEntry")):
        if local_name(element) in ("termEntry", "conceptEntry"):
            entries.append(_concept(element))
        else:
            first = language_of(element.get(LANG, ""))
    pair = _pair(entries, source_lang, target_lang, first)
    terms, problems = sound(row for number, entry in enumerate(entries, 1) for row in _rows(number, entry, *pair))
    return Imported(terms, problems, *pair)


def read_tmx(data: bytes, source_lang: str, target_lang: str) -> Imported:
    """A row is a unit, from 1; all that are no terms are one problem. Raises `GlossaryError` as `read_tbx` does."""
    first = ""
    entries = []
    for element in _elements(data, ("tmx",), ("header", "tu")):
        if local_name(element) == "tu":
            entries.append(_unit(element))
        else:
            first = language_of(element.get("srclang", "")) or first
    pair = _pair(entries, source_lang, target_lang, first)
    terms, problems = sound(_short_rows(entries, *pair))
    return Imported(terms, problems, *pair)


def write_tbx(terms: Iterable[Term], source_lang: str, target_lang: str, name: str) -> str:
    """TBX-Basic, version 3, in the style "dca"."""
    entries = "".join(
        f'<conceptEntry id="c{number}">{_section(source_lang, term.source, _about(term))}'
        f"{_section(target_lang, term.target or term.source, '' if term.target else _note('termType', _KEPT))}"
        "</conceptEntry>\n"
        for number, term in enumerate(terms, 1)
    )
    title = f"<titleStmt><title>{escaped(name)}</title></titleStmt>" if name else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<tbx type="TBX-Basic" style="dca" xml:lang="{source_lang}" xmlns="urn:iso:std:iso:30042:ed-2">\n'
        f"<tbxHeader><fileDesc>{title}<sourceDesc><p>Yiwen</p></sourceDesc></fileDesc></tbxHeader>\n"
        f"<text><body>\n{entries}</body></text>\n</tbx>\n"
    )


def _about(term: Term) -> str:
    return (_note(_CASE, "yes") if term.case else "") + (f"<note>{escaped(term.note)}</note>" if term.note else "")


def _note(kind: str, value: str) -> str:
    return f'<termNote type="{kind}">{value}</termNote>'


def _section(lang: str, term: str, about: str) -> str:
    return f'<langSec xml:lang="{lang}"><termSec><term>{escaped(term)}</term>{about}</termSec></langSec>'


def _elements(data: bytes, roots: Sequence[str], names: Sequence[str]) -> Iterator[etree._Element]:
    """The root's start and each element of these names. Raises `GlossaryError`. TBX of 2008 may name its DTD."""
    plain = data.replace(b"\0", b"")  # of UTF-16
    if b"<!ENTITY" in plain:
        raise GlossaryError(
            "The file declares entities, by which a few bytes can become gigabytes; write out what they stand for."
        )
    if (tags := plain.count(b"<")) > MOST_TAGS:
        raise GlossaryTooLarge(
            f"The file has some {tags // 2:,} elements; {MAX_TERMS:,} terms are the most. Send it in parts."
        )
    file = io.BytesIO(data.lstrip(b" \t\r\n"))  # before its declaration XML may have none
    try:
        yield from streamed(file, (*roots, *names))
    except DAMAGED as error:
        raise GlossaryError(
            f"The XML is damaged: {str(error)[:200]}. Open the file where it was made, save it anew and send that."
        ) from error


def _concept(element: etree._Element) -> _Entry:
    entry = _Entry()
    for part in element:
        if local_name(part) not in ("langSet", "langSec"):
            entry.definition = entry.definition or _definition(part)
            continue
        code = language_of(part.get(LANG, ""))
        for section in part if code else ():
            if local_name(section) in ("tig", "ntig", "termSec"):
                entry.names.setdefault(code, []).append(_name(section))
            else:
                entry.definition = entry.definition or _definition(section)
    return entry


def _definition(part: etree._Element) -> str:
    return next((_text(inner) for inner in part.iter() if _kind(inner) == "definition"), "")


def _name(section: etree._Element) -> _Name:
    name = _Name()
    for part in section.iter():
        kind = _kind(part)
        if kind == "term":
            name.text = name.text or _text(part)
        elif kind == "note":
            name.note = name.note or _text(part)
        elif kind in _STATUS:
            value = _text(part).casefold()
            name.preferred |= value.startswith(_PREFERRED)
            name.outdated |= value.startswith(_OUTDATED)
        elif kind == "termType":
            name.kept |= _text(part) == _KEPT
        elif kind == _CASE:
            name.case |= _text(part) == "yes"
    return name


def _rows(number: int, entry: _Entry, source_lang: str, target_lang: str) -> Iterator[Row]:
    sources, targets = (
        [name for name in entry.names.get(code, ()) if name.text and not name.outdated]
        for code in (source_lang, target_lang)
    )
    for code, names in ((source_lang, sources), (target_lang, targets)):
        if not names:
            yield Problem(number, "missing", f"The entry has no term in {code} that is in use.")
            return
    target = next((name for name in targets if name.preferred), targets[0])
    for name in sources:
        kept = target.kept and target.text == name.text
        yield number, Term(name.text, "" if kept else target.text, name.case, name.note or entry.definition)


def _unit(element: etree._Element) -> _Entry:
    entry = _Entry()
    for part in element:
        if local_name(part) == "tuv" and (code := language_of(part.get(LANG, part.get("lang", "")))):
            segment = next((inner for inner in part if local_name(inner) == "seg"), None)
            term = segment is not None and len(segment) == 0 and _is_term(text := _text(segment))
            entry.names.setdefault(code, []).append(_Name(text if term else ""))
    return entry


def _is_term(text: str) -> bool:
    if len(text) > MOST_CHARACTERS or _SENTENCE_END.search(text):
        return False
    return len(text.split()) + len(_UNSPACED.findall(text)) / LETTERS_PER_WORD <= MOST_WORDS


def _short_rows(entries: Sequence[_Entry], source_lang: str, target_lang: str) -> Iterator[Row]:
    """What is empty in a unit is no term."""
    sentences: list[int] = []
    for number, entry in enumerate(entries, 1):
        if not {source_lang, target_lang} <= entry.names.keys():
            yield Problem(number, "missing", f"The unit is not in both {source_lang} and {target_lang}.")
        elif (source := entry.names[source_lang][0].text) and (target := entry.names[target_lang][0].text):
            yield number, Term(source, target)
        else:
            sentences.append(number)
    if sentences:
        yield Problem(
            sentences[0],
            "no_term",
            f"{len(sentences):,} of {len(entries):,} units are left out, this one first: they are sentences, longer "
            f"than {MOST_WORDS} words or {MOST_CHARACTERS} characters, or have tags in them.",
        )


def _pair(entries: Sequence[_Entry], source_lang: str, target_lang: str, first: str) -> tuple[str, str]:
    return pair_of((code for entry in entries for code in entry.names), source_lang, target_lang, first)


def _text(element: etree._Element) -> str:
    return "".join(map(str, element.itertext())).strip()


def _kind(element: etree._Element) -> str:
    """The category of what is said: in the style "dca" an attribute, in "dct" the element's own name."""
    return element.get("type") or local_name(element)
