"""Make, list and remove the keys of `--api-keys`, or hash those that stand in the file as they are."""

import argparse
import json
import re
import secrets
import sys
from pathlib import Path
from typing import Any

from engine import files
from engine.errors import ConfigError
from engine.server.keys import HASHED, digest_of, parse, read
from engine.tools.asked import count

PRIVATE = 0o600
RANDOM_BYTES = 32


def add(path: Path, name: str, requests: int | None = None, tokens: int | None = None) -> dict[str, Any]:
    """The new key, which nobody can ask for again."""
    if path.exists() and name in (key.name for key in read(path)):
        raise ConfigError(f"{path} has a key named {name!r} already; choose another name, or remove that one first.")
    key = f"yw-{secrets.token_urlsafe(RANDOM_BYTES)}"
    line = f"{name}:{HASHED}{digest_of(key).hex()}:{requests or ''}:{tokens or ''}".rstrip(":")
    try:
        parse(line)
    except ValueError as error:
        raise ConfigError(f"This cannot be a key: {error}.") from None
    _write(path, [*_lines(path), line])
    return {"name": name, "key": key}


def remove(path: Path, name: str) -> dict[str, Any]:
    if name not in (key.name for key in read(path)):
        raise ConfigError(f"{path} has no key named {name!r}; `list` says which it has.")
    _write(path, [line for line in _lines(path) if (key := parse(line)) is None or key.name != name])
    return {"removed": name}


def hash_all(path: Path) -> dict[str, Any]:
    """What stands there as it is becomes its hash; all else stays."""
    hashed = [key.name for key in read(path) if key.plain]
    if hashed:
        _write(path, [_hashed(line) for line in _lines(path)])
    return {"hashed": hashed}


def list_all(path: Path) -> dict[str, Any]:
    return {
        "keys": [
            {
                "name": key.name,
                "requests_per_minute": key.requests_per_minute,
                "tokens_per_minute": key.tokens_per_minute,
                "hashed": not key.plain,
            }
            for key in read(path)
        ]
    }


def _hashed(line: str) -> str:
    key = parse(line)
    if key is None or not key.plain:
        return line
    return re.sub(r":\s*[^:\s]+", f":{HASHED}{key.digest.hex()}", line, count=1)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []


def _write(path: Path, lines: list[str]) -> None:
    try:
        files.write_whole(path, "".join(f"{line}\n" for line in lines).encode(), PRIVATE)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}).") from error


def main() -> None:
    parser = argparse.ArgumentParser(description="The keys of `python app.py --api-keys FILE`.")
    commands = parser.add_subparsers(dest="command", required=True)
    described = {
        "add": "make a random key, print it once and keep its hash",
        "remove": "take a key out; who has it is out within a second",
        "hash": "replace keys that stand in the file as they are by their hashes",
        "list": "names and limits",
    }
    for name, description in described.items():
        command = commands.add_parser(name, help=description, description=description)
        command.add_argument("file", metavar="FILE", type=Path)
        if name in ("add", "remove"):
            command.add_argument("name", metavar="NAME", help="whose key it is, as it stands in the file and the log")
        if name == "add":
            command.add_argument("--requests-per-minute", type=count, metavar="N", help="instead of the flag's")
            command.add_argument("--tokens-per-minute", type=count, metavar="N", help="instead of the flag's")
    asked = parser.parse_args()
    try:
        match asked.command:
            case "add":
                result = add(asked.file, asked.name, asked.requests_per_minute, asked.tokens_per_minute)
                print("Keep this key now: only its hash is in the file.", file=sys.stderr)
            case "remove":
                result = remove(asked.file, asked.name)
            case "hash":
                result = hash_all(asked.file)
            case _:
                result = list_all(asked.file)
    except ConfigError as error:
        raise SystemExit(str(error)) from error
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
