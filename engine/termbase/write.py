"""Terms → a file of them, and small ones to begin with: what is written here, `read` takes back equal."""

import csv
import io
import json
from collections.abc import Sequence

from engine.errors import UnsupportedGlossary
from engine.termbase.interchange import write_tbx
from engine.termbase.tables import guarded
from engine.types import Term

FORMATS = ("csv", "tsv", "tbx", "json")
TEMPLATES = (*FORMATS, "xlsx")

_HEADER = ("source", "target", "case", "note")
_COLUMN_WIDTHS = {"A": 24, "B": 24, "C": 8, "D": 64}  # of a workbook, in characters
_EXAMPLE = (  # English → Chinese: what a term, one to keep, and one of a certain letter case look like
    Term("overhead line", "接触网"),
    Term("Variobahn", "", note="no translation: the word is kept as it is"),
    Term("Polish", "波兰语", case=True, note="case: only in these capital and small letters, so not in “polish”"),
)


def write(kind: str, terms: Sequence[Term], source_lang: str, target_lang: str, name: str = "") -> bytes:
    """The terms, all sound, as one of `FORMATS`, in UTF-8. Raises `UnsupportedGlossary` for another kind.

    CSV and TSV start with a byte order mark, without which Excel reads them in the encoding of its own country.
    """
    if kind not in FORMATS:
        raise UnsupportedGlossary(f"Glossaries are not written as {kind[:20]!r}; choose one of: {', '.join(FORMATS)}.")
    if kind == "tbx":
        return write_tbx(terms, source_lang, target_lang, name).encode()
    if kind == "json":
        return _json(terms, source_lang, target_lang, name).encode()
    return _table(terms, "\t" if kind == "tsv" else ",").encode("utf-8-sig")


def template(kind: str) -> bytes:
    """A small glossary as one of `TEMPLATES`, from which its user sees what goes where."""
    return _xlsx(_EXAMPLE) if kind == "xlsx" else write(kind, _EXAMPLE, "en", "zh", "Template")


def _rows(terms: Sequence[Term]) -> list[tuple[str, ...]]:
    return [_HEADER, *((term.source, term.target, "yes" if term.case else "", term.note) for term in terms)]


def _table(terms: Sequence[Term], delimiter: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows(map(guarded, row) for row in _rows(terms))
    return out.getvalue()


def _xlsx(terms: Sequence[Term]) -> bytes:
    from openpyxl import Workbook  # here, since it costs a start 0.1 s and few ever need it

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Terms")
    for name, width in _COLUMN_WIDTHS.items():
        sheet.column_dimensions[name].width = width
    for row in _rows(terms):
        sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _json(terms: Sequence[Term], source_lang: str, target_lang: str, name: str) -> str:
    entries = [
        {"source": term.source, "target": term.target}
        | ({"case": True} if term.case else {})
        | ({"note": term.note} if term.note else {})
        for term in terms
    ]
    whole = {"name": name, "source_lang": source_lang, "target_lang": target_lang, "terms": entries}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
