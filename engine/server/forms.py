"""What a request's body is said to be, and its form. Knows HTTP and nothing of what is asked."""

from email.message import Message as HeaderParser

from fastapi import Request

from engine.errors import UnsupportedMedia

URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


def media_type(request: Request) -> str:
    """In small letters, without parameters; JSON where nothing is said.

    Raises `UnsupportedMedia` for another charset than UTF-8: forms are decoded by the name that stands there, and
    Python knows codecs that take quadratic time (punycode) or make halves of characters.
    """
    header = HeaderParser()
    header["Content-Type"] = request.headers.get("Content-Type", "application/json")
    charset = header.get_param("charset", "utf-8")
    if str(charset).lower().replace("-", "").replace("_", "") not in ("utf8", "usascii"):
        raise UnsupportedMedia(f"The charset {str(charset)[:40]!r} is not read here; send UTF-8.")
    return header.get_content_type()
