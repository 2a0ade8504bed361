"""Terms → a file of them: what is written here, `read` takes back equal."""

import csv
import io
import json
from collections.abc import Sequence

from engine.errors import UnsupportedGlossary
from engine.termbase.interchange import write_tbx
from engine.termbase.tables import guarded
from engine.types import Term

FORMATS = ("csv", "tsv", "tbx", "json")

_HEADER = ("source", "target", "case", "note")


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


def _table(terms: Sequence[Term], delimiter: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(_HEADER)
    writer.writerows(map(guarded, (term.source, term.target, "yes" if term.case else "", term.note)) for term in terms)
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
