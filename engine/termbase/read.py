"""An uploaded file → its terms. Knows which kind is read by what: by its name, and by its bytes where those differ."""

import re
from pathlib import PurePosixPath

from engine.documents.encoding import decode
from engine.errors import BadDocument, EmptyGlossary, GlossaryError, UnsupportedGlossary
from engine.termbase.entries import MAX_FILE_BYTES, Imported, too_large
from engine.termbase.interchange import read_tbx, read_tmx
from engine.termbase.jsons import read_json
from engine.termbase.tables import read_delimited, read_xlsx

KINDS = (".csv", ".tsv", ".xlsx", ".json", ".tbx", ".tmx", ".txt")

_ALSO = (".tab", ".xlsm", ".xls", ".xml", "")  # .xls: often a table of another kind, exported under that name
_XML = (".tbx", ".tmx", ".xml")
_ZIP, _OLE2 = b"PK\3\4", b"\xd0\xcf\x11\xe0"
_OTHERS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"RIFF": "a picture or a sound",
    b"%PDF": "a PDF",
    b"{\\rtf": "an RTF text",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
}
_PAGES = {  # what Windows saves a language in; Japanese has two such in use, and is left to be guessed
    **dict.fromkeys(["en", "de", "fr", "es", "pt", "it", "nl", "id", "ms", "tl"], "cp1252"),
    **dict.fromkeys(["cs", "pl"], "cp1250"),
    **dict.fromkeys(["ru", "uk", "mn"], "cp1251"),
    **dict.fromkeys(["ar", "fa", "ur"], "cp1256"),
    "tr": "cp1254",
    "he": "cp1255",
    "vi": "cp1258",
    "th": "cp874",
    "zh": "gb18030",
    "zh-Hant": "big5hkscs",
    "ko": "cp949",
}
_ROOT = re.compile(r"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>\s*)*+<(?:\w+:)?(\w+)", re.DOTALL)
_ROOT_CHARACTERS = 10_000  # within which an XML's root must come


def read(name: str, data: bytes, source_lang: str = "", target_lang: str = "") -> Imported:
    """The terms of the file `name`, and what is wrong with its other rows.

    `source_lang` and `target_lang` are our codes; what says to be of others is left out. Empty: whatever the file has.
    Raises `GlossaryError` for a file of which nothing can be used, and says why.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if len(data) > MAX_FILE_BYTES:
        raise too_large(len(data))
    if not data.strip():
        raise EmptyGlossary("The file is empty; send one with a term and its translation in each row.")
    try:
        found = _read(suffix, data, source_lang, target_lang)
    except BadDocument as error:
        raise GlossaryError(str(error)) from error
    if not found.terms:
        first = next((problem for problem in found.problems if problem.row), None)
        why = f" Row {first.row:,}: {first.message}" if first else ""
        raise EmptyGlossary(f"The file has no row with a term that can be used.{why}")
    return found


def _read(suffix: str, data: bytes, source_lang: str, target_lang: str) -> Imported:
    for magic, what in _OTHERS.items():
        if data.startswith(magic) and (len(magic) > 2 or b"\0" in data[:64]):
            raise UnsupportedGlossary(
                f"This is {what}; a glossary is a file with a term and its translation in each row."
            )
    if suffix not in (*KINDS, *_ALSO):
        raise UnsupportedGlossary(
            f"Files of the kind {suffix[:20]} hold no glossaries; send one of: {', '.join(KINDS)}."
        )
    if data.startswith((_ZIP, _OLE2)):
        return read_xlsx(data, source_lang, target_lang)
    text = _decoded(data, source_lang, target_lang)
    root = _ROOT.match(text[:_ROOT_CHARACTERS])
    kind = root[1].lower() if root else {".tbx": "tbx", ".tmx": "tmx"}.get(suffix, "")
    if kind in ("martif", "tbx"):
        return read_tbx(data, source_lang, target_lang)
    if kind == "tmx":
        return read_tmx(data, source_lang, target_lang)
    if suffix in _XML or kind == "html" or text.startswith("<?xml"):
        what = f"has the root {kind[:40]}" if kind else "has no root"
        raise UnsupportedGlossary(
            f"The file {what}; of XML only TBX (martif, tbx) and TMX (tmx) are glossaries. Save it as one of those, or "
            "as .xlsx or .csv."
        )
    if suffix == ".json" or _is_json(text):
        return read_json(text, source_lang, target_lang)
    return read_delimited(text, suffix, source_lang, target_lang)


def _decoded(data: bytes, source_lang: str, target_lang: str) -> str:
    """The file as text. What is not in Unicode is taken to be in the code page of its languages, where those are
    known and have one: a list of words is too little to guess from. UTF-32 is told by the zeros in its characters."""
    sample = data[:4_000]
    ends = (("utf-32-le", sample[3::4], sample[2::4]), ("utf-32-be", sample[::4], sample[1::4]))
    for encoding, zeros, planes in ends if len(data) % 4 == 0 else ():
        if not any(zeros) and max(planes) <= 0x10 and (text := _strictly(data, encoding)) is not None:
            return text
    try:
        decoded = decode(data, source_lang if target_lang in ("", "en") else target_lang)
    except BadDocument as error:
        raise UnsupportedGlossary(
            f"The file ({len(data):,} bytes) is no text in any encoding that is known here; save it as UTF-8, or send "
            f"one of: {', '.join(KINDS)}."
        ) from error
    pages = {page for lang in (source_lang, target_lang) if (page := _PAGES.get(lang, ""))} - {"cp1252"} or {"cp1252"}
    known = source_lang in _PAGES and target_lang in _PAGES and len(pages) == 1
    if known and not decoded.encoding.startswith(("utf", "koi8", "ascii")):
        return _strictly(data, pages.pop()) or decoded.text
    return decoded.text


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_json(text: str) -> bool:
    """Whether a file of another name looks like JSON from both ends; a table may start with a bracket."""
    stripped = text.strip()
    return (stripped[:1] == "{" and stripped[-1:] == "}") or (stripped[:1] == "[" and stripped[-1:] == "]")
