"""The keys file: who may ask, and how much. Knows nothing of HTTP.

A line is `name:key`, then, if wanted, `:requests a minute` and `:tokens a minute`; blank lines and those that begin
with # say nothing. The key stands there as it is, or as `sha256=` and the 64 hexadecimal digits of its SHA-256, as
`python -m engine.tools.keys` writes it. One round of SHA-256 is enough: a key is long and random, unlike a password, so
nobody finds it by trying; that is why short ones are refused.
"""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

LEAST_CHARACTERS, MOST_CHARACTERS = 16, 256  # of a key
MOST_BYTES = 1024**2  # of the file: some ten thousand keys
LOOK_SECONDS = 1.0  # between two looks at whether the file has changed
HASHED = "sha256="

_NAME = re.compile(r"[\w.@-]{1,64}")
_PLAIN = re.compile(r"[!-9;-~]+")  # what a header can carry, without the colon
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    digest: bytes  # its SHA-256
    requests_per_minute: int | None = None  # None: as the flag says
    tokens_per_minute: int | None = None
    plain: bool = False  # it stands in the file as it is


class Keys:
    """Those of a file, read again when it changes. Raises `ConfigError` where it cannot be read at first."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path.expanduser()
        self._clock = clock
        self._looked = clock()
        self._seen = self._look()
        self._keys = self._read()
        if not self._keys:
            raise ConfigError(f"{self._path} has no key; {_command('add')} makes one.")

    def find(self, key: str) -> Key | None:
        """Whose it is. All are compared, each in constant time, so that the time taken tells nothing of them."""
        digest = digest_of(key)
        found = None
        for one in self._current():
            if hmac.compare_digest(one.digest, digest):
                found = one
        return found

    def named(self, name: str) -> Key | None:
        return next((key for key in self._current() if key.name == name), None)

    def has(self, key: Key) -> bool:
        """Whether it counts still, and is the same."""
        now = self.named(key.name)
        return now is not None and hmac.compare_digest(now.digest, key.digest)

    def _current(self) -> list[Key]:
        """A look at the file takes microseconds, to read it a few milliseconds: no thread is worth its trouble."""
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._clock()
            if (seen := self._look()) != self._seen:
                self._seen = seen
                try:
                    self._keys = self._read()
                    log.info("keys in %s: %d", self._path, len(self._keys))
                except ConfigError as error:
                    log.error("%s Until then the keys of before count (%d).", error, len(self._keys))
        return self._keys

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> list[Key]:
        keys = read(self._path)
        if plain := sum(key.plain for key in keys):
            log.warning("keys that stand in %s as they are: %d; %s hashes them", self._path, plain, _command("hash"))
        return keys


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def read(path: Path) -> list[Key]:
    """Raises `ConfigError` with the number of the line that is off."""
    if path.exists() and not path.is_file():  # to open a pipe would wait for whoever writes to it
        raise ConfigError(f"The keys file {path} is a folder or a pipe; name a file, which is read again and again.")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"The keys file {path} cannot be read ({error.strerror}); see to it.") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"The keys file {path} has more than {MOST_BYTES:,} bytes; name a file of keys.")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"The keys file {path} is not in UTF-8; name a file of keys.") from error
    keys: dict[str, Key] = {}
    digests: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        try:
            key = parse(line)
            if key is None:
                continue
            if key.name in keys:
                raise ValueError(f"the name {key.name} stands above already; give each key a name of its own")
            if key.digest in digests:
                raise ValueError(f"the key of {digests[key.digest]} stands here again; make another")
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}.") from None
        keys[key.name] = key
        digests[key.digest] = key.name
    return list(keys.values())


def parse(line: str) -> Key | None:
    """None for a line that holds no key. Raises `ValueError`, which never quotes the key."""
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    name, *rest = (part.strip() for part in line.split(":"))
    if not 1 <= len(rest) <= 3:
        raise ValueError("write name:key, and after that, if wanted, :requests a minute and :tokens a minute")
    if not _NAME.fullmatch(name):
        raise ValueError("the name must be 1 to 64 letters, digits, or any of . _ @ -")
    plain = not rest[0].startswith(HASHED)
    if plain:
        digest = _of_plain(rest[0])
    elif _DIGEST.fullmatch(written := rest[0].removeprefix(HASHED)):
        digest = bytes.fromhex(written)
    else:
        raise ValueError(f"after {HASHED} must stand 64 hexadecimal digits")
    for number in rest[1:]:
        if number and not _NUMBER.fullmatch(number):
            raise ValueError(f"{number[:20]!r} must be a whole number from 1 on, or nothing")
    requests, tokens = (int(number) if number else None for number in (*rest[1:], "", "")[:2])
    return Key(name, digest, requests, tokens, plain)


def _of_plain(key: str) -> bytes:
    if not LEAST_CHARACTERS <= len(key) <= MOST_CHARACTERS:
        raise ValueError(
            f"the key has {len(key)} characters and must have {LEAST_CHARACTERS} to {MOST_CHARACTERS}, at random; "
            f"{_command('add')} makes one"
        )
    if not _PLAIN.fullmatch(key):
        raise ValueError("the key may have letters of ASCII, digits and signs, no colon and no space")
    return digest_of(key)


def _command(what: str) -> str:
    return f"python -m engine.tools.keys {what}"
