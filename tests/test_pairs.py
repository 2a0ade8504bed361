"""Files of parallel text as users have them, and those that are bad."""

import gzip
import json
import zipfile

import pytest
import zstandard

from engine.errors import ConfigError
from engine.tools import pairs
from engine.tools.pairs import Pair

LINES = (("The library is closed.", "图书馆关门了。"), ("I see.", "我明白了。"))
TSV = "".join(f"{first}\t{second}\n" for first, second in LINES)
JSONL = "".join(
    json.dumps({"source_lang": "eng_Latn", "target_lang": "zh-CN", "source": first, "target": second}) + "\n"
    for first, second in LINES
)
TMX = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n'
    '<tmx version="1.4"><header srclang="en-US"/><body>'
    + "".join(
        f'<tu><tuv xml:lang="zh_CN"><seg>{second}</seg></tuv><tuv xml:lang="EN-US"><seg>{first}</seg></tuv></tu>'
        for first, second in LINES
    )
    + "</body></tmx>"
)


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(pairs.read(path))


def unit(*segments, **attributes):
    told = "".join(f' {name}="{value}"' for name, value in attributes.items())
    sides = "".join(f'<tuv xml:lang="{lang}"><seg>{text}</seg></tuv>' for lang, text in segments)
    return f"<tu{told}>{sides}</tu>"


def tmx(*units, header="<header/>"):
    return f'<tmx version="1.4">{header}<body>{"".join(units)}</body></tmx>'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("news.en-zh.tsv", TSV),
        ("news.eng_Latn-zho_Hans.tsv", TSV),
        ("news.EN-zh-CN.tsv", "\ufeff" + TSV.replace("\n", "\r\n")),
        ("news.tsv", "en\tzh\n" + TSV),
        ("news.en-zh.tsv", "doc\tEnglish\t中文\n" + "".join(f"news\t{line}\n" for line in TSV.splitlines())),
        ("news.en-zh.tsv", TSV + "\nNothing beside it.\t \n"),
        ("news.jsonl", JSONL + "\n"),
        ("news.tmx", TMX),
        ("news.tmx", TMX.replace("UTF-8", "UTF-16").encode("utf-16")),
    ],
)
def test_every_format_gives_the_same_pairs(tmp_path, name, content):
    found = read(tmp_path / name, content)
    assert [(pair.first, pair.second, pair.lang, pair.first_lang) for pair in found] == [
        (*line, "zh", "en") for line in LINES
    ]


@pytest.mark.parametrize(("name", "content"), [("n.en-zh.tsv", TSV), ("n.jsonl", JSONL), ("n.tmx", TMX)])
def test_a_compressed_file_is_read_as_it_is(tmp_path, name, content):
    plain = read(tmp_path / name, content)
    half = len(content.encode()) // 2
    frames = [content.encode()[:half], content.encode()[half:]]
    packed = b"".join(zstandard.ZstdCompressor().compress(frame) for frame in frames)
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
        file.writestr(name, content)
    assert plain == read(tmp_path / f"{name}.zst", packed)
    assert plain == read(tmp_path / f"{name}.gz", gzip.compress(content.encode(), mtime=0))
    assert plain == list(pairs.read(tmp_path / f"{name}.zip"))


def test_a_folder_is_all_its_files_in_the_order_of_their_names(tmp_path):
    (tmp_path / "README.md").write_text("About these files.")
    (tmp_path / "b.jsonl").write_text(JSONL)
    (tmp_path / "a.fr-de.tsv").write_text("Oui.\tJa.\n")
    found = list(pairs.read(tmp_path))
    assert found[0] == Pair("a.fr-de", "Oui.", "Ja.", "de", "fr")
    assert [pair.origin for pair in found[1:]] == ["b", "b"]
    assert list(pairs.read(tmp_path, {"de", "fr"})) == found[:1]


def test_plain_files_named_by_language_are_paired_line_by_line(tmp_path):
    for name, text in (("eng_Latn", "One.\nTwo.\n"), ("zho_Hans", "一。\n\n"), ("deu_Latn", "Eins.\nZwei.\n")):
        (tmp_path / f"{name}.devtest").write_text(text, encoding="utf-8")
    found = [(pair.first_lang, pair.lang, pair.first, pair.second) for pair in pairs.read(tmp_path)]
    german = [("en", "de", "One.", "Eins."), ("en", "de", "Two.", "Zwei.")]
    assert found == [*german, ("en", "zh", "One.", "一。")]  # the one with an empty side is left out
    assert list(pairs.read(tmp_path, ["zh", "de"])) == [Pair(tmp_path.name, "Eins.", "一。", "zh", "de")]


def test_a_unit_in_many_languages_is_the_source_with_each_other(tmp_path):
    unit_of_four = unit(("fr", "Oui."), ("en", "Yes."), ("ga", "Sea."), ("ja", "はい。"))
    found = read(tmp_path / "a.tmx", tmx(unit_of_four, header='<header srclang="en"/>'))
    assert [(pair.first, pair.second) for pair in found] == [("Yes.", "Oui."), ("Yes.", "はい。")]


def test_codes_of_another_format_are_no_words(tmp_path):
    text = 'A <bpt i="1">&lt;b&gt;</bpt>bold<ept i="1">&lt;/b&gt;</ept> <hi>word</hi>,<ph>{0}</ph>\n  and more.'
    (pair,) = read(tmp_path / "a.tmx", tmx(unit(("en", text), ("de", "Ein <it>x</it>Wort."))))
    assert (pair.first, pair.second) == ("A bold word, and more.", "Ein Wort.")


def test_units_tell_their_document_by_their_number(tmp_path):
    found = read(tmp_path / "a.tmx", tmx(*(unit(("en", "Yes."), ("de", "Ja."), tuid=f"doc{n}:7") for n in (1, 2))))
    assert [pair.origin for pair in found] == ["doc1", "doc2"]


def test_only_a_line_feed_ends_a_line(tmp_path):
    (pair,) = read(tmp_path / "a.en-de.tsv", "One\u2028two\u0085three.\tEins\x0bzwei drei.\n")
    assert pair.first == "One\u2028two\u0085three."


def test_a_file_is_read_as_a_stream(tmp_path):
    count = pairs.CHUNK_BYTES // len(TSV.encode()) * 3
    found = read(tmp_path / "a.en-zh.tsv", TSV * count)
    assert len(found) == len(LINES) * count
    with pytest.raises(ConfigError, match=r"line 2 is over 16 MiB long"):
        read(tmp_path / "a.en-zh.tsv", b"a\tb\n" + b"c" * (pairs.LONGEST_LINE_BYTES + pairs.CHUNK_BYTES))


ENTITIES = '<!DOCTYPE tmx [<!ENTITY a "aaa">]><tmx><body><tu><tuv xml:lang="en"><seg>&a;</seg></tuv></tu></body></tmx>'
PACKED = zstandard.ZstdCompressor().compress(TSV.encode() * 100)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.en-zh.tsv", "Yes.\t是。\nOnly one.\n", "a.en-zh.tsv, line 2 has 1 column; a pair has two, parted by a tab"),
        ("a.en-zh.tsv", "a\tb\tc\td\n", "line 1 has 4 columns;"),
        ("a.en-xx.tsv", TSV, r"does not tell two languages of HY-MT; call it as NAME\.en-zh\.tsv, or"),
        ("a.en-zh.tsv", "Yes.\t是。\nNo.\t".encode() + b"\xff\n", r"line 2 is not UTF-8 \(invalid start byte\); save"),
        ("a.en-zh.tsv", "", "a.en-zh.tsv holds no pairs; give a file with text"),
        ("a.en-zh.tsv.zst", TSV, r"a.en-zh.tsv.zst is damaged \(.+\); fetch or pack it anew"),
        ("a.en-zh.tsv.zst", PACKED[:-9], r"is damaged \(it ends too early\); fetch"),
        ("a.en-zh.tsv.gz", gzip.compress(TSV.encode(), mtime=0)[:-9], r"is damaged \(.+\); fetch"),
        ("a.en-zh.tsv.zip", TSV, r"is damaged \(File is not a zip file\); fetch"),
        ("a.jsonl", JSONL + "{", "line 3 is no JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 is no JSON"),
        ("a.jsonl", '{"source": "Yes."}', "line 1: not an object with the texts source_lang, target_lang, source, "),
        ("a.jsonl", JSONL.replace("zh-CN", "xx"), "line 1: the language 'xx' is none of HY-MT's 38"),
        ("a.jsonl", JSONL.replace("zh-CN", "en-GB"), "line 1: source and target are both en"),
        ("a.tmx", TMX[:-30], "a.tmx is no XML, or damaged: .+; export it anew"),
        ("a.tmx", ENTITIES, "a.tmx declares entities, which are not followed"),
        ("a.tmx", tmx(unit(("en", "Yes."), ("ga", "Sea."))), "two languages of HY-MT; unknown are: ga"),
        ("a.tmx", tmx(), "a.tmx holds no pairs"),
        ("a.docx", "", r"'a.docx' is no file of pairs that is known; give .tsv, .jsonl, .tmx"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, content, sentence):
    with pytest.raises(ConfigError, match=sentence) as raised:
        read(tmp_path / name, content)
    assert "\n" not in str(raised.value)


def test_a_zip_of_several_files_is_not_guessed_at(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.en-zh.tsv.zip", "w") as file:
        file.writestr("a.tsv", TSV)
        file.writestr("b.tsv", TSV)
    with pytest.raises(ConfigError, match="holds 2 files; unpack it and give the one that is meant"):
        list(pairs.read(tmp_path / "a.en-zh.tsv.zip"))


def test_a_place_without_pairs_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="There is no file or folder"):
        pairs.read(tmp_path / "nowhere")
    (tmp_path / "README.txt").write_text("Nothing here.")
    with pytest.raises(ConfigError, match=r"holds no pairs; put \.tsv"):
        list(pairs.read(tmp_path))


def test_plain_files_of_unequal_length_are_one_sentence(tmp_path):
    (tmp_path / "en.txt").write_text("One.\nTwo.\n")
    (tmp_path / "de.txt").write_text("Eins.\n")
    with pytest.raises(ConfigError, match=r"de.txt ends after 1 lines, before its partner \(en.txt, de.txt\)"):
        list(pairs.read(tmp_path))
