"""Terms as JSON, in the shapes that programs give them. `columns` says what the keys of objects mean.

An object {source: target}, a list of pairs, or a list of objects with such keys as columns of a table have; any of
these also under "terms" or "glossary" of an object that may name the two languages beside.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.errors import GlossaryError, GlossaryTooLarge
from engine.termbase.columns import Columns, Pair, named, terms_of
from engine.termbase.entries import MAX_TERMS, Imported, Problem, Row, shown, sound

MOST_SHAPES = 1_000  # different sets of keys: some of six keys left out, and in another order
MOST_COMMAS = 2_000_000  # 50,000 terms of six fields have 300,000, and their notes some more

_WRAPPERS = ("terms", "entries", "glossary", "items", "data")
_PAIR = Columns(2, 0, 1)


@dataclass(frozen=True, slots=True)
class _Object:
    """With all it holds: of two values for one key Python's own reader drops the first, and says nothing."""

    pairs: Sequence[tuple[str, object]]


def read_json(text: str, source_lang: str, target_lang: str) -> Imported:
    """A row is a term's place in the file, from 1. Raises `GlossaryError`."""
    value = _parsed(text)
    pair = Pair(source_lang, target_lang)
    while isinstance(value, _Object) and (inside := _wrapped(value)) is not None:
        pair = _pair_beside(value, pair)
        value = inside
    terms, problems = sound(_rows(value, pair, (source_lang, target_lang)))
    return Imported(terms, problems, *pair.said)


def _parsed(text: str) -> object:
    commas = text.count(",")
    if commas > MOST_COMMAS:
        raise GlossaryTooLarge(f"The JSON has some {commas:,} values; {MAX_TERMS:,} terms are the most for a glossary.")
    try:
        value: object = json.loads(
            text, object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=str
        )  # numbers are terms as they are written: 1.50 is not 1.5
    except RecursionError as error:
        raise GlossaryError("The JSON is nested too deep; a glossary is one object or one list of pairs.") from error
    except ValueError as error:
        raise GlossaryError(f"The file is no valid JSON: {error}. Mend it there and send it again.") from error
    return value


def _wrapped(value: _Object) -> object:
    """What stands under a name that says that the terms are there, or None."""
    return next(
        (inside for name, inside in value.pairs if name in _WRAPPERS and isinstance(inside, _Object | list)), None
    )


def _pair_beside(wrapper: _Object, pair: Pair) -> Pair:
    """The pair, once it has heard what the object around the terms says of their languages."""
    names = [name for name, _ in wrapper.pairs]
    labels = dict(zip(names, (_text(value) or "" for _, value in wrapper.pairs), strict=True))
    columns = named([*names, "source", "target"])
    places = (columns.source_label, columns.target_label) if columns else (-1, -1)
    refusal = pair.refusal(1, [labels[names[place]] if place >= 0 else "" for place in places])
    if refusal:
        raise GlossaryError(f"The languages that the file names do not fit: {refusal.message}")
    return pair


def _rows(value: object, pair: Pair, wanted: tuple[str, str]) -> Iterator[Row]:
    if isinstance(value, _Object):
        for number, (source, target) in enumerate(value.pairs, 1):
            yield from _row(number, (source, target), _PAIR, pair)
    elif isinstance(value, list):
        shapes: dict[tuple[str, ...], Columns | None] = {}
        for number, item in enumerate(value, 1):
            if isinstance(item, list) and len(item) != 2:
                yield Problem(number, "shape", f"The entry is a list of {len(item):,}; a pair is a list of two texts.")
            elif isinstance(item, list):
                yield from _row(number, item, _PAIR, pair)
            elif isinstance(item, _Object):
                keys = tuple(key for key, _ in item.pairs)
                if keys not in shapes and len(shapes) < MOST_SHAPES:
                    shapes[keys] = named(keys, *wanted)
                if columns := shapes.get(keys):
                    yield from _row(number, [inner for _, inner in item.pairs], columns, pair)
                else:
                    there = ", ".join(keys[:5]) or "none"
                    yield Problem(number, "keys", f"The keys source and target are needed; here are {shown(there)}.")
            else:
                yield Problem(number, "shape", "The entry is neither a pair nor an object with source and target.")
    else:
        raise GlossaryError("The JSON is one bare value; a glossary is an object or a list of pairs.")


def _row(number: int, values: Sequence[object], columns: Columns, pair: Pair) -> Iterator[Row]:
    cells = [_text(value) for value in values]
    if any(cells[place] is None for place in (columns.source, columns.target) if place < len(cells)):
        yield Problem(number, "shape", "The source or the target is no text but a list or an object.")
    else:
        yield from terms_of(number, [cell or "" for cell in cells], columns, pair)


def _text(value: object) -> str | None:
    """None for what is no single value. `null` is an empty target."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value if isinstance(value, str) else None
