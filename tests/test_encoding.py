"""Files in the encodings people have: read right, and given back byte for byte."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.documents.encoding import Decoded, decode, encode
from engine.errors import BadDocument

GERMAN = "Über die Brücke fährt heute kein Zug. Wir müssen zu Fuß gehen – „schön“ ist das nicht.\r\n"
TEXTS = {
    "gb18030": "委员会还没有决定，居民们抱怨噪音太大，没有人知道这座桥什么时候开放。我们明天再讨论这个问题。\n" * 4,
    "cp932": "委員会はまだ決定していません。住民は騒音について不満を言い、橋がいつ開通するのか誰も知りません。\n" * 4,
    "cp949": "위원회는 아직 결정하지 않았다. 주민들은 소음에 대해 불평했고 다리가 언제 열릴지 아무도 모른다.\n" * 4,
    "cp1251": "Комитет ещё не решил. Жители жалуются на шум, и никто не знает, когда откроется мост.\n" * 4,
    "cp1252": GERMAN * 4,
    "utf-16-le": GERMAN,
    "utf-16-be": GERMAN,
    "utf-8": "Alles in UTF-8: 译文 ✓ é\n",
    "iso2022_jp": "委員会はまだ決定していません。\n",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_an_encoding_that_is_not_named_is_found(encoding):
    found = decode(TEXTS[encoding].encode(encoding))
    assert (found.text, found.encoding) == (TEXTS[encoding], encoding)


@pytest.mark.parametrize(
    ("bom", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_a_byte_order_mark_says_it_and_is_kept(bom, encoding):
    data = bom + GERMAN.encode(encoding)
    found = decode(data)
    assert found == Decoded(GERMAN, encoding, bom)
    assert encode(found.text, found) == (data, encoding)


@pytest.mark.parametrize(
    ("head", "label", "codec"),
    [
        ('<meta charset="gb2312">', "gb2312", "gb18030"),
        ("<meta http-equiv=Content-Type content='text/html; charset=Shift_JIS'>", "Shift_JIS", "cp932"),
        ('<?xml version="1.0" encoding="windows-1251"?>', "windows-1251", "cp1251"),
        ('<meta charset="iso-8859-1">', "iso-8859-1", "cp1252"),
    ],
)
def test_what_the_document_names_is_taken(head, label, codec):
    data = (head + TEXTS[codec][:20]).encode(codec)
    assert decode(data) == Decoded(head + TEXTS[codec][:20], codec)


def test_utf_8_is_believed_before_a_label_that_is_wrong():
    data = '<meta charset="gb2312">译文 é'.encode()
    assert decode(data).encoding == "utf-8"


def test_a_label_nobody_knows_or_that_is_no_encoding_does_no_harm():
    for label in ("x-unheard-of", "base64", "zip", "rot13", "unicode_escape", "idna"):
        assert decode(f'<meta charset="{label}">plain'.encode()).text.endswith("plain")


def test_what_an_encoding_lacks_is_written_in_utf_8():
    found = decode(TEXTS["cp1252"].encode("cp1252"))
    assert encode("Größe", found) == ("Größe".encode("cp1252"), "cp1252")
    assert encode("大小", found) == ("大小".encode(), "utf-8")


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 9,
        b"\xff\xd8\xff\xe0" + bytes(range(256)) * 9,
        bytes(2_000),
    ],
)
def test_what_is_no_text_is_refused_in_a_sentence(data):
    with pytest.raises(BadDocument, match=r"is no text .* save it as UTF-8"):
        decode(data)


@given(st.binary(max_size=300))
def test_bytes_come_back_or_are_refused(data):
    try:
        found = decode(data)
    except BadDocument:
        return
    assert encode(found.text, found)[0] == data


def test_much_is_decoded_in_little_time():
    for text in (TEXTS["gb18030"], "x" + TEXTS["gb18030"].replace("\n", "")):
        assert decode(text.encode("gb18030") * 5_000).encoding == "gb18030"


@pytest.mark.parametrize(
    ("lang", "encoding", "text"),
    [
        ("zh", "gb18030", "# 你好\n\n我们的**花园**很漂亮。"),
        ("zh", "big5hkscs", "這是一個關於我們城市的古老故事，講的是河邊的一座橋，還有一位住在橋邊的老人和他的貓。" * 2),
        ("zh", "gb18030", "请点击这里"),
        ("ja", "euc_jp", "こんにちは"),
        ("ko", "cp949", "안녕하세요"),
        ("zh-Hant", "big5hkscs", "你好，世界"),
        ("he", "cp1255", "שלום עולם"),
    ],
)
def test_a_few_words_are_read_as_their_language_is_written(lang, encoding, text):
    assert decode(text.encode(encoding), lang).text == text
