"""Zips: what has not changed is copied byte for byte, and nothing gets past the bounds."""

import io
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.documents.package import unpack
from engine.errors import BadDocument
from tests.archives import unzipped, zipped
from tests.timing import cpu_at_most

PARTS = {"b/first.xml": b"<a>one</a>" * 40, "a.png": bytes(range(256)), "c.xml": b"<c/>"}


def sentence(data, suffix=".docx", read=""):
    with cpu_at_most(2), pytest.raises(BadDocument) as caught:
        unpack(data, suffix).read(read)
    return str(caught.value)


def patched(data, signature, offset, form, value):
    """The zip with a field of each of its headers changed."""
    data = bytearray(data)
    at = data.find(signature)
    while at >= 0:
        struct.pack_into(form, data, at + offset, value)
        at = data.find(signature, at + 4)
    return bytes(data)


def infos(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.comment, [
            (one.filename, one.date_time, one.compress_type, one.external_attr, one.comment, one.extra)
            for one in archive.infolist()
        ]


def test_members_that_stay_keep_their_packed_bytes_and_all_keep_their_records():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.comment = b"a comment"
        for name, content in PARTS.items():
            info = zipfile.ZipInfo(name, (1999, 12, 31, 23, 59, 58))
            info.compress_type, info.external_attr, info.comment = zipfile.ZIP_DEFLATED, 0o644 << 16, name.encode()
            archive.writestr(info, content)
        archive.writestr(zipfile.ZipInfo("ümlaut.txt"), "stored")
    data = made.getvalue()
    new = unpack(data, ".docx").written({"a.png": b"another"})
    assert infos(new) == infos(data)
    assert unzipped(new) == unzipped(data) | {"a.png": b"another"}
    assert data[: data.index(b"a.png") - 30] == new[: new.index(b"a.png") - 30]
    assert unpack(data, ".docx").written({}) == data


def test_a_streamed_zip_is_read_and_written():
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in PARTS.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    package = unpack(pipe.data, ".docx")
    assert package.read("b/first.xml") == PARTS["b/first.xml"]
    assert unzipped(package.written({"b/first.xml": b"new"})) == PARTS | {"b/first.xml": b"new"}


def test_a_zip_behind_something_else_is_read_and_written():
    data = b"#!/bin/sh\n" + zipped(PARTS)
    new = unpack(data, ".docx").written({"c.xml": b"<d/>"})
    assert new.startswith(b"#!/bin/sh\n")
    assert unzipped(new) == PARTS | {"c.xml": b"<d/>"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "This is no .docx: 0 bytes"),
        (b"just text", "no zip"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "This is a JPEG image named .docx"),
        (b"\x89PNG\r\n", "a PNG image named .docx"),
        (b"%PDF-1.7", "a PDF named .docx"),
        (b"\x1f\x8b\x08", "a gzip archive named .docx"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "old binary format"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptionInfo EncryptedPackage".encode("utf-16-le"),
            "protected by a password; remove it",
        ),
        (zipped(PARTS)[:-30], "cut off or damaged"),
        (zipped(PARTS)[:100], "cut off or damaged"),
        (zipped({"../../etc/passwd": "x"}), "points out of it"),
        (zipped({"/etc/passwd": "x"}), "points out of it"),
        (zipped({"..\\x": "x"}), "points out of it"),
        (zipped({"C:\\x": "x"}), "points out of it"),
        (zipped({f"{number}": "" for number in range(10_001)}), "more than 10,000 parts"),
        (patched(zipped(PARTS), b"PK\1\2", 8, "<H", 1), "is encrypted"),
        (patched(zipped(PARTS), b"PK\1\2", 10, "<H", 12), "packed by method 12"),
        (patched(zipped(PARTS), b"PK\1\2", 38, "<L", 0o120777 << 16), "is a link"),
        (patched(zipped(PARTS), b"PK\1\2", 42, "<L", 0), "share bytes"),
        (patched(zipped(PARTS), b"PK\1\2", 42, "<L", 99_999), "damaged"),
        (patched(zipped(PARTS), b"PK\1\2", 24, "<L", 201_000_000), "unpacks to 603 MB; 200 MB is the most"),
    ],
    ids=lambda given: given if isinstance(given, str) else "data",
)
def test_what_is_no_sound_zip_is_refused_in_a_sentence(data, said):
    assert said in sentence(data)


def test_a_bomb_is_refused_whether_its_header_tells_the_truth_or_lies():
    bomb = zipped({"c.xml": bytes(150_000_000)})
    assert "times its size; 200 is the most" in sentence(bomb)
    lying = patched(bomb, b"PK\1\2", 24, "<L", 1_000)
    assert "damaged (c.xml)" in sentence(lying, read="c.xml")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_parts_of_one_name_are_refused():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a", "x")
        archive.writestr("a", "y")
    assert "two parts named a" in sentence(made.getvalue())


def test_a_part_that_is_missing_or_damaged_is_refused_when_it_is_read():
    data = bytearray(zipped(PARTS, zipfile.ZIP_STORED))
    data[data.index(b"one")] ^= 1
    assert "damaged (b/first.xml)" in sentence(bytes(data), read="b/first.xml")
    assert "no part d.xml" in sentence(zipped(PARTS), read="d.xml")


def test_a_zip_without_parts_is_refused():
    made = io.BytesIO()
    zipfile.ZipFile(made, "w").close()
    assert "holds nothing" in sentence(made.getvalue())
    assert "holds nothing" in sentence(b"something else" + made.getvalue())


@given(st.data())
def test_a_zip_that_was_tampered_with_never_crashes(data):
    zip_bytes = bytearray(zipped(PARTS))
    for _ in range(data.draw(st.integers(1, 4))):
        zip_bytes[data.draw(st.integers(0, len(zip_bytes) - 1))] = data.draw(st.integers(0, 255))
    try:
        package = unpack(bytes(zip_bytes), ".docx")
        package.written({name: package.read(name) + b"!" for name in package.members})
    except BadDocument:
        pass
