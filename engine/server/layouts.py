"""Many texts in one message, and an answer laid out as the message's rules have it: paragraphs between separators,
JSON, XML, numbered lines, YAML. Knows no transport and no model."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from engine.languages import resolve_any
from engine.server.instructions import MAX_CHARACTERS, Said, in_rules
from engine.types import Skeleton, Term

_SEPARATOR = re.compile(r"((?<!\n)\n*+^%%[ \t]*+$\n*+)", re.MULTILINE)  # of Immersive Translate and Read Frog
_YAML, _END_OF_YAML = "<yaml>", "</yaml>"
_ITEM = re.compile(
    r"^(?P<lead>[ \t]*-[ \t]*id:[ \t]*\S+[ \t]*\n[ \t]*)(?P<field>\w+):[ \t]*(?P<text>.*)$", re.MULTILINE
)
_EXAMPLE = re.compile(  # of an answer
    r"(?:output|response|result|输出|格式|示例)[^\n]*\n(?:[^\n]*\n){0,3}?"
    r"[ \t]*-[ \t]*id:[ \t]*\S+[ \t]*\n[ \t]*(?P<field>\w+):",
    re.IGNORECASE,
)
_PLAIN_YAML = re.compile(r"[^\s\-?:,\[\]{}#&*!|>'\"%@`](?:[^:#\n]|:(?=\S)|(?<=\S)#)*")


@dataclass(frozen=True, slots=True)
class Wrapped:
    """`skeleton` is the answer, where a number is the place of the translation of that of the `texts`, as `spell` has
    it. `target` and `source` are codes of ours, but for a target that nobody knows."""

    texts: tuple[str, ...]
    target: str
    source: str | None = None
    terms: tuple[Term, ...] = ()
    context: str = ""
    skeleton: Skeleton = (0,)
    spell: Callable[[str], str] = str

    def answer(self, translations: Sequence[str]) -> str:
        return "".join(part if isinstance(part, str) else self.spell(translations[part]) for part in self.skeleton)


class _Text(NamedTuple):
    """Part of a layout that is to be translated; without a word in it, it stays."""

    text: str


def in_paragraphs(wrapped: Wrapped) -> Wrapped:
    """Paragraphs that are parted by separators are texts of their own; the separators stay as they are."""
    if wrapped.skeleton != (0,) or "%%" not in wrapped.texts[0]:  # the pattern takes a second for all that may be sent
        return wrapped
    if len(parts := _SEPARATOR.split(wrapped.texts[0])) == 1:
        return wrapped
    return _laid_out(wrapped, (part if number % 2 else _Text(part) for number, part in enumerate(parts)))


def json_batch(message: str, rules: str) -> Wrapped | None:
    """KISS Translator: one JSON object, answered as JSON, XML or lines."""
    if not message.lstrip().startswith("{"):
        return None
    try:
        asked: Any = json.loads(message)
    except (ValueError, RecursionError):
        return None
    target, segments, glossary = (asked.get(name) for name in ("targetLanguage", "segments", "glossary"))
    if not isinstance(target, str) or not isinstance(segments, list) or not segments:
        return None
    if not all(isinstance(each, dict) and isinstance(each.get("text"), str) for each in segments):
        return None
    pairs = glossary.items() if isinstance(glossary, dict) else ()
    terms = tuple(Term(source, meant) for source, meant in pairs if source and isinstance(meant, str))
    wrapped = Wrapped((), resolve_any(target) or target, terms=terms)
    parts = list[str | _Text]()
    for each in segments:
        text, key = _Text(each["text"]), _as_json(each.get("id"))
        bare = key.strip('"')
        if "<root>" in rules:
            parts += ["\n" if parts else "<root>\n", f'<t id="{bare}">', text, "</t>"]
        elif '"ID | Text"' in rules:
            parts += ["\n" if parts else "", f"{bare} | ", text]
        else:
            parts += ["," if parts else '{"translations":[', f'{{"id":{key},"text":', text, "}"]
    if "<root>" in rules:
        return _laid_out(wrapped, [*parts, "\n</root>"])
    if '"ID | Text"' in rules:
        return _laid_out(replace(wrapped, spell=_on_one_line), parts)
    return _laid_out(replace(wrapped, spell=_as_json), [*parts, "]}"])


def yaml_batch(message: str, known: Said | None) -> Wrapped | None:
    """Immersive Translate: items of YAML, answered as such, in the field that its example has."""
    start = message.find(_YAML)
    end = message.find(_END_OF_YAML, start)
    items = list(_ITEM.finditer(message, start, end)) if 0 <= start < end else []
    if not items:
        return None
    around = f"{message[: min(start, MAX_CHARACTERS)]}\n{message[end:][:MAX_CHARACTERS]}"
    if (said := in_rules(around) or known) is None:
        return None
    examples = list(_EXAMPLE.finditer(around))
    parts = list[str | _Text]()
    for item in items:
        field = examples[-1]["field"] if examples else item["field"]
        parts += ["\n" if parts else "", f"{item['lead']}{field}: ", _Text(_unquoted(item["text"]))]
    quoted = any(item["text"].startswith(('"', "'")) for item in items)
    return _laid_out(Wrapped((), said.target, said.source, spell=_as_json if quoted else _as_yaml), parts)


def _laid_out(wrapped: Wrapped, parts: Iterable[str | _Text]) -> Wrapped:
    texts, skeleton = list[str](), list[str | int]()
    for part in parts:
        if isinstance(part, _Text) and any(map(str.isalpha, part.text)):
            skeleton.append(len(texts))
            texts.append(part.text)
        else:
            skeleton.append(wrapped.spell(part.text) if isinstance(part, _Text) else part)
    return replace(wrapped, texts=tuple(texts), skeleton=tuple(skeleton))


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value, strict=False))
        except ValueError:  # quotes inside that nobody escaped
            return value[1:-1]
    return value[1:-1].replace("''", "'") if len(value) > 1 and value[0] == value[-1] == "'" else value


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_yaml(text: str) -> str:
    return text if _PLAIN_YAML.fullmatch(text) else _as_json(text)


def _on_one_line(text: str) -> str:
    return text.replace("\n", "<br>")
