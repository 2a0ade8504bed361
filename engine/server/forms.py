"""What a request's body is said to be, and its form. Knows HTTP and nothing of what is asked."""

from email.message import Message as HeaderParser
from functools import lru_cache

from fastapi import Request

from engine.errors import UnsupportedMedia

URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


def media_type(request: Request) -> str:
    """In small letters, without parameters; JSON where nothing is said.

    Raises `UnsupportedMedia` for another charset than UTF-8: forms are decoded by the name that stands there, and
    Python knows codecs that take quadratic time (punycode) or make halves of characters.
    """
    kind, charset = _read(request.headers.get("Content-Type", "application/json"))
    if charset.lower().replace("-", "").replace("_", "") not in ("utf8", "usascii"):
        raise UnsupportedMedia(f"The charset {charset[:40]!r} is not read here; send UTF-8.")
    return kind


@lru_cache(16)  # there are few, and the parser is slow
def _read(content_type: str) -> tuple[str, str]:
    header = HeaderParser()
    header["Content-Type"] = content_type
    return header.get_content_type(), str(header.get_param("charset", "utf-8"))
