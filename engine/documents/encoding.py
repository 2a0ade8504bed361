"""Bytes of a text file ↔ its characters, in the encoding they came in. Of formats it knows where they name theirs."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from charset_normalizer import from_bytes

from engine.errors import BadDocument

SAMPLE_BYTES = 100_000  # what an encoding is guessed from
DECLARATION_BYTES = 1_024  # where HTML and XML must name theirs
FEW_BYTES = 60  # too few for a guess
MOST_CONTROLS = 0.01  # as a share of the characters; more is no text

_BOMS = [  # the longer first
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
_DECLARED = re.compile(rb"""(?:charset|<\?xml[^>]{1,200}?encoding)\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{2,40})""", re.I)
_SUPERSETS = {  # what a label means in practice: https://encoding.spec.whatwg.org/#names-and-labels
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
}
_GUESSED = [
    "gb18030",
    "cp932",
    "euc_jp",
    "cp949",
    "big5hkscs",
    *(f"cp125{page}" for page in range(9)),
    "cp874",
    "koi8_r",
]
_OF_LANGUAGES = {  # what a text in it is likely to be in, if not in Unicode
    "zh": ("gb18030",),
    "zh-Hant": ("big5hkscs",),
    "yue": ("big5hkscs",),
    "ja": ("euc_jp", "cp932"),
    "ko": ("cp949",),
    "ar": ("cp1256",),
    "fa": ("cp1256",),
    "he": ("cp1255",),
    "th": ("cp874",),
    "vi": ("cp1258",),
}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Decoded:
    text: str
    encoding: str  # Python's name for it
    bom: bytes = b""


def decode(data: bytes, lang: str = "") -> Decoded:
    """Characters that `encode` turns into the same bytes again. Raises `BadDocument` for what is no text.

    `lang` is the code of the text's language, if that is known: a few words alone do not tell GB18030 from others.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom) and (text := _strictly(data[len(bom) :], encoding)) is not None:
            return Decoded(text, encoding, bom)
    for encoding in _candidates(data, lang):
        text = _strictly(data, encoding)
        if text is not None and len(_CONTROL.findall(text)) <= MOST_CONTROLS * len(text):
            western = encoding.startswith("cp125") and _strictly(data, "cp1252") == text  # the likeliest of equals
            return Decoded(text, "cp1252" if western else encoding)
    raise BadDocument(
        f"The file ({len(data):,} bytes) is no text in any encoding that Yiwen knows; save it as UTF-8, or send a "
        "document of a kind that is supported."
    )


def encode(text: str, like: Decoded, references: bool = False) -> tuple[bytes, str]:
    """(bytes, encoding): that of `like`. Where it lacks a character of `text`, that is written as `&#8230;` if
    `references`, as HTML and XML allow, and else the whole in UTF-8."""
    try:
        if references and not like.encoding.startswith("utf"):
            return like.bom + text.encode(like.encoding, "xmlcharrefreplace"), like.encoding
        return like.bom + text.encode(like.encoding), like.encoding
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass"), "utf-8"


def _candidates(data: bytes, lang: str) -> Iterator[str]:
    declared = [found[1].decode("ascii", "ignore") for found in _DECLARED.finditer(data[:DECLARATION_BYTES])]
    names = [name for label in declared if (name := _known(label)) is not None]
    if b"\x1b$" in data[:SAMPLE_BYTES]:
        yield "iso2022_jp"
    if data.isascii():
        yield from names
    yield "utf-8"
    if b"\0" in data[:SAMPLE_BYTES]:  # half of the bytes of Latin text in UTF-16
        even, odd = data[:SAMPLE_BYTES:2].count(0), data[1:SAMPLE_BYTES:2].count(0)
        yield "utf-16-be" if even > odd else "utf-16-le"
        return
    yield from names
    if len(data) < FEW_BYTES:
        yield from _OF_LANGUAGES.get(lang, ())
    for sample in _samples(data):
        for guess in from_bytes(sample, cp_isolation=_GUESSED):
            yield guess.encoding
    yield "cp1252"


def _samples(data: bytes) -> Iterator[bytes]:
    """The beginning, cut where no character of several bytes can be cut in two, or else at four places in turn."""
    sample = data[:SAMPLE_BYTES]
    line = sample.rfind(b"\n") + 1
    if len(data) <= SAMPLE_BYTES:
        yield data
    elif line:
        yield sample[:line]
    else:
        yield from (sample[: SAMPLE_BYTES - cut] for cut in range(4))


def _known(label: str) -> str | None:
    try:
        name = codecs.lookup(label).name
    except LookupError:
        return None
    return _SUPERSETS.get(name, name)


def _strictly(data: bytes, encoding: str) -> str | None:
    """None unless the bytes are those of the text, so that nothing is lost on the way back."""
    try:
        text = data.decode(encoding)
        return text if text.encode(encoding) == data else None
    except (UnicodeError, LookupError, TypeError):  # LookupError, TypeError: a codec of bytes, not of text
        return None
