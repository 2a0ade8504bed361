"""A zip of parts, read within bounds and written back: what has not changed is copied, compressed bytes and all.

It knows ZIP (PKWARE's APPNOTE 6.3) as Office and EPUB use it: stored or deflated, no ZIP64. A member is unpacked only
when it is read, and never beyond the size that its record names. Nothing is ever written to a disk.
"""

import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from engine.errors import BadDocument

MOST_MEMBERS = 10_000
MOST_UNPACKED_MB = 200
MOST_PACKED_RATIO = 200  # of a member: text shrinks to a tenth or a fiftieth, a bomb to a thousandth
RATIO_COUNTS_FROM_MB = 10  # a smaller member is no danger

_MB = 1_000_000
_END = struct.Struct("<4s4H2LH")  # signature, two disks, two counts, size and place of the directory, comment
_RECORD = struct.Struct("<4s2B5H3L5H2L")  # of the directory
_LOCAL = struct.Struct("<4s5H3L2H")  # before the member's bytes
_LONGEST_COMMENT = 65_535
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 1 << 0, 1 << 11
_LEVEL_AND_DESCRIPTOR = 0b1110  # flags of how the bytes were packed, and that their sizes follow them
_ZIP64, _ZIP64_SIZE = 1, 0xFFFFFFFF  # id of its extra field; the size that says to look there
_UNIX = 3

_MAGIC = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip archive",
    b"{\\rtf": "an RTF text",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
}
_OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PROTECTED = "EncryptedPackage".encode("utf-16-le")  # MS-OFFCRYPTO: the stream that holds the real file


@dataclass(frozen=True, slots=True)
class _Member:
    record: bytes  # as it stands in the directory
    start: int  # of its local header
    packed: int  # where its bytes start
    end: int  # where the next member starts: a descriptor of sizes may stand between
    method: int
    crc: int
    packed_size: int
    size: int


@dataclass(frozen=True, slots=True)
class Package:
    data: bytes
    members: Mapping[str, _Member]
    directory: int  # its place
    tail: bytes  # what follows the directory: the end record and a comment

    def read(self, name: str) -> bytes:
        """The member's bytes. Raises `BadDocument` where it is missing or damaged."""
        if name not in self.members:
            raise BadDocument(
                f"The file has no part {name}, which it needs; it is damaged. Save it anew and send that."
            )
        member = self.members[name]
        content = self.data[member.packed : member.packed + member.packed_size]
        if member.method == _DEFLATED:
            content = _inflated(name, content, member.size)
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise _damaged(name)
        return content

    def written(self, changed: Mapping[str, bytes]) -> bytes:
        """The zip with other bytes for the members in `changed`, in the same order, with the same dates and names."""
        parts: list[bytes] = []
        at = done = 0
        places: dict[str, int] = {}
        records = {name: member.record for name, member in self.members.items()}
        for name, member in sorted(self.members.items(), key=lambda item: item[1].start):
            between = self.data[done : member.start]  # nothing, or what stands before the first
            places[name] = at + len(between)
            if name in changed:
                whole, records[name] = _packed(self.data[member.start : member.packed], member, changed[name])
            else:
                whole = self.data[member.start : member.end]
            parts += between, whole
            at = places[name] + len(whole)
            done = member.end
        parts.append(self.data[done : self.directory])
        at += len(parts[-1])
        directory = b"".join(_moved(record, places[name]) for name, record in records.items())
        fields = list(_END.unpack_from(self.tail))
        fields[5:7] = len(directory), at
        return b"".join([*parts, directory, _END.pack(*fields), self.tail[_END.size :]])


def unpack(data: bytes, suffix: str) -> Package:
    """The zip that `data` is. Raises `BadDocument` for what is none, is damaged, or is beyond the bounds."""
    _refuse_others(data, suffix)
    end = data.rfind(b"PK\5\6", max(0, len(data) - _LONGEST_COMMENT - _END.size))
    if end < 0 or end + _END.size > len(data):
        raise BadDocument(
            f"The {suffix} is cut off or damaged: {len(data):,} bytes without a table of contents. Send it again."
        )
    *_, size, place, _ = _END.unpack_from(data, end)
    directory = end - size
    if directory < place:
        raise _damaged("its table of contents")
    shift = directory - place  # of a zip that stands behind something else
    members: dict[str, _Member] = {}
    for name, member in _members(data, directory, end, shift):
        if name in members:
            raise BadDocument(f"The file holds two parts named {name}; save it anew and send that.")
        if len(members) == MOST_MEMBERS:
            raise BadDocument(f"The file holds more than {MOST_MEMBERS:,} parts; send a smaller one.")
        members[name] = member
    if not members:
        raise BadDocument(f"The {suffix} holds nothing; save the document anew and send that.")
    _within_bounds(members)
    return Package(data, _with_ends(members, directory), directory, data[end:])


def _refuse_others(data: bytes, suffix: str) -> None:
    if data.startswith(_OLE2):
        if _PROTECTED in data:
            raise BadDocument(f"The {suffix} is protected by a password; remove it in Office and send the file again.")
        raise BadDocument(f"This is a file of the old binary format (.doc, .xls, .ppt); save it as {suffix} in Office.")
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise BadDocument(f"This is {what} named {suffix}; send the document itself.")
    if b"PK\3\4" not in data[: 1 << 16] and b"PK\5\6" not in data:
        raise BadDocument(f"This is no {suffix}: {len(data):,} bytes that are no zip. Send the document itself.")


def _members(data: bytes, at: int, end: int, shift: int) -> Iterator[tuple[str, _Member]]:
    while at < end:
        if data[at : at + 4] != b"PK\1\2" or at + _RECORD.size > end:
            raise _damaged("its table of contents")
        fields = _RECORD.unpack_from(data, at)
        _, _, system, _, flags, method, _, _, crc, packed_size, size, *lengths, _, _, attributes, place = fields
        stop = at + _RECORD.size + sum(lengths[:3])
        spelt = data[at + _RECORD.size : at + _RECORD.size + lengths[0]]
        name = spelt.decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        _refuse_unsafe(name, flags, attributes >> 16 if system == _UNIX else 0, method)
        start = place + shift
        local = data[start : start + _LOCAL.size]
        if (
            stop > end
            or len(local) < _LOCAL.size
            or local[:4] != b"PK\3\4"
            or _ZIP64_SIZE in (packed_size, size, place)
        ):
            raise _damaged(name)
        packed = start + _LOCAL.size + sum(_LOCAL.unpack(local)[-2:])
        yield name, _Member(data[at:stop], start, packed, packed + packed_size, method, crc, packed_size, size)
        at = stop


def _refuse_unsafe(name: str, flags: int, mode: int, method: int) -> None:
    path = name.replace("\\", "/")
    if path.startswith("/") or path[1:2] == ":" or ".." in path.split("/") or "\0" in path or not path:
        raise BadDocument(f"The file holds a part named {name[:100]!r}, which points out of it; no Office writes such.")
    if flags & _ENCRYPTED:
        raise BadDocument(f"The part {name} is encrypted; remove the password and send the file again.")
    if stat.S_ISLNK(mode):
        raise BadDocument(
            f"The part {name} is a link to another file; no Office writes such. Save it anew and send that."
        )
    if method not in (_STORED, _DEFLATED):
        raise BadDocument(
            f"The part {name} is packed by method {method}, not by Deflate; save the file anew in Office."
        )


def _within_bounds(members: Mapping[str, _Member]) -> None:
    total = sum(member.size for member in members.values())
    if total > MOST_UNPACKED_MB * _MB:
        raise BadDocument(
            f"The file unpacks to {total / _MB:,.0f} MB; {MOST_UNPACKED_MB} MB is the most. Send it in parts."
        )
    for name, member in members.items():
        if member.size > RATIO_COUNTS_FROM_MB * _MB and member.size > MOST_PACKED_RATIO * member.packed_size:
            raise BadDocument(
                f"The part {name} unpacks to {member.size / max(member.packed_size, 1):,.0f} times its size; "
                f"{MOST_PACKED_RATIO} is the most, as a guard against zip bombs."
            )


def _with_ends(members: Mapping[str, _Member], directory: int) -> dict[str, _Member]:
    """Each member with all up to the next one. Raises `BadDocument` where one reaches into another."""
    ordered = sorted(members.items(), key=lambda item: item[1].start)
    starts = [*(member.start for _, member in ordered[1:]), directory]
    ends = {name: start for (name, _), start in zip(ordered, starts, strict=True)}
    if any(member.end > ends[name] for name, member in ordered):
        raise _damaged("two parts that share bytes")
    return {name: replace(member, end=ends[name]) for name, member in members.items()}


def _inflated(name: str, packed: bytes, size: int) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflate.decompress(packed, size + 1)  # one more, so that a size that lies is seen
    except zlib.error as error:
        raise _damaged(name) from error


def _packed(header: bytes, member: _Member, content: bytes) -> tuple[bytes, bytes]:
    """(local header and bytes, record of the directory) of a member with other content."""
    packed = content
    if member.method == _DEFLATED:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = deflate.compress(content) + deflate.flush()
    sizes = zlib.crc32(content), len(packed), len(content)
    local = list(_LOCAL.unpack_from(header))
    extra = _without_zip64(header[_LOCAL.size + local[9] :])
    local[2] &= ~_LEVEL_AND_DESCRIPTOR
    local[6:9] = sizes
    local[10] = len(extra)
    record = list(_RECORD.unpack_from(member.record))
    record[4] &= ~_LEVEL_AND_DESCRIPTOR
    record[8:11] = sizes
    name = header[_LOCAL.size : _LOCAL.size + local[9]]
    return _LOCAL.pack(*local) + name + extra + packed, _RECORD.pack(*record) + member.record[_RECORD.size :]


def _without_zip64(extra: bytes) -> bytes:
    kept, at = b"", 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        if number != _ZIP64:
            kept += extra[at : at + 4 + length]
        at += 4 + length
    return kept


def _moved(record: bytes, place: int) -> bytes:
    return record[: _RECORD.size - 4] + struct.pack("<L", place) + record[_RECORD.size :]


def _damaged(what: str) -> BadDocument:
    return BadDocument(f"The file is damaged ({what}); open it where it was made, save it anew and send that.")
