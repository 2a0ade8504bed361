"""Catalogues of messages: what is no message comes back byte for byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.documents.catalogues import parse_json, write_json
from engine.errors import BadDocument
from engine.markup.spans import rebuild

MESSAGES = """\ufeff{
  "title" : "Save \\u0026 close", "id": "save-button",
\t"items": ["One file", "{count} files", "%d", "", 3, null, true,
    {"hint": "Line one\\nline two \\"quoted\\" <b>bold</b>"}],
  "plural": "{n, plural, one {# file} other {# files}}",
  "pages": {"home": {"slug": "home-page", "text": "Größe"}}, "title": "Twice"
}\r\n"""


def rebuilt(source, change=lambda text: text, **more):
    document = parse_json(source, **more)
    return rebuild(document, write_json, [change(block.text) for block in document.blocks])


def texts(source, **more):
    return [block.text for block in parse_json(source, **more).blocks]


def test_values_are_blocks_and_keys_are_not():
    assert texts(MESSAGES) == [
        "Save & close",
        "save-button",
        "One file",
        "<s1></s1> files",
        'Line one\nline two "quoted" <s1>bold</s1>',
        "home-page",
        "Größe",
        "Twice",
    ]


def test_every_byte_comes_back_and_only_values_change():
    assert rebuilt(MESSAGES) == MESSAGES
    changed = rebuilt(MESSAGES, lambda text: f'→ {text} "\\\u2028')
    before, after = json.loads(MESSAGES[1:]), json.loads(changed[1:])
    assert after["title"] == '→ Twice "\\\u2028'
    assert after["items"][1] == '→ {count} files "\\\u2028'
    assert after["items"][7]["hint"] == f'→ {before["items"][7]["hint"]} "\\\u2028'
    assert after["plural"] == before["plural"]
    assert list(after) == list(before)


def test_keys_and_paths_can_be_left_out():
    assert "save-button" not in texts(MESSAGES, exclude=["id", "pages.*.slug"])
    assert texts(MESSAGES, exclude=["title", "items.*", "pages.*"]) == ["save-button"]


def test_a_file_that_is_ascii_by_escapes_stays_ascii():
    source = '{"a": "Gr\\u00f6\\u00dfe"}'
    assert texts(source) == ["Größe"]
    assert rebuilt(source, lambda text: "大小") == '{"a": "\\u5927\\u5c0f"}'
    assert rebuilt('{"a": "Size"}', lambda text: "大小") == '{"a": "大小"}'


@pytest.mark.parametrize("source", ['"Alone"', '["a \\ud83d\\ude00 b"]', '{"": {"": ["x y"]}}'])
def test_any_shape_of_json_is_read(source):
    assert len(texts(source)) == 1
    assert rebuilt(source) == source


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "no valid JSON"),
        ('{"a": "b",}', r"no valid JSON.*line 1"),
        ('{"a": "b" // c\n}', "no valid JSON"),
        ("[" * 100_000 + "]" * 100_000, "nested 100,000 deep; 500 is the most"),
        ('"' * 100_001, "no valid JSON"),
    ],
)
def test_what_is_no_json_is_refused_in_a_sentence(source, sentence):
    with pytest.raises(BadDocument, match=sentence):
        parse_json(source)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.sampled_from(["a {b} c", "<i>x</i>", "%s of y"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.booleans(),
)
def test_any_json_comes_back_and_stays_json(value, ascii_only):
    source = json.dumps(value, ensure_ascii=ascii_only, indent=1)
    assert rebuilt(source) == source
    json.loads(rebuilt(source, lambda text: f'"\\{text}\n'))
