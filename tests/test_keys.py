"""The keys file: what it may say, how it is kept, when it is read again."""

import logging
import os
import stat
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.server.keys import Keys
from engine.tools import keys as tool
from tests.commands import call, result_of

PLAIN = "correct-horse-battery"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 10  # each question is asked after the next look
        return self.now


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("anna", "write name:key"),
        (f"anna:{PLAIN}:1:2:3", "write name:key"),
        ("anna:short", "the key has 5 characters and must have 16 to 256"),
        ("anna:sha256=abc", "64 hexadecimal digits"),
        (f"an na:{PLAIN}", "the name must be 1 to 64 letters"),
        (f"anna:{PLAIN}:many", "'many' must be a whole number from 1 on, or nothing"),
        (f"anna:{PLAIN}:0", "'0' must be"),
        ("anna:сorrect-horse-battery", "letters of ASCII"),
        (f"two:{PLAIN}", "the key of one stands here again"),
        ("one:another-horse-battery", "the name one stands above already"),
    ],
)
def test_a_line_that_is_off_is_named_and_its_key_is_not(path: Path, line: str, said: str) -> None:
    path.write_text(f"# ours\n\none:{PLAIN}\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 4") as raised:
        Keys(path)
    assert said in str(raised.value)
    assert "horse" not in str(raised.value)


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"", "has no key"), (b"\xff", "UTF-8")])
def test_a_server_does_not_start_without_keys(path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        Keys(path)


def test_nobody_waits_for_a_keys_file_that_has_become_a_pipe(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(f"anna:{PLAIN}\n")
    keys = Keys(path, Clock())
    path.unlink()
    os.mkfifo(path)
    assert keys.find(PLAIN)
    assert "is a folder or a pipe" in caplog.text


def test_keys_are_found_with_their_limits(path: Path) -> None:
    path.write_text(f"anna:{PLAIN}:60:5000\nbert:{PLAIN}2::700\n")
    keys = Keys(path)
    anna, bert = keys.find(PLAIN), keys.find(f"{PLAIN}2")
    assert anna
    assert (anna.name, anna.requests_per_minute, anna.tokens_per_minute) == ("anna", 60, 5000)
    assert bert
    assert (bert.name, bert.requests_per_minute, bert.tokens_per_minute) == ("bert", None, 700)
    assert [keys.find(wrong) for wrong in ("", PLAIN[:-1], "\ud800", "sha256=" + "0" * 64)] == [None] * 4


def test_a_changed_file_counts_and_a_broken_one_does_not(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(f"anna:{PLAIN}\n")
    keys = Keys(path, Clock())
    anna = keys.find(PLAIN)
    assert anna
    assert keys.has(anna)
    path.write_text("anna:oops\n")
    assert keys.has(anna)
    path.unlink()
    assert keys.has(anna)
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 2
    path.write_text("anna:another-horse-battery\n")
    assert not keys.has(anna)
    assert keys.find(PLAIN) is None
    path.write_text("")
    assert keys.find("another-horse-battery") is None
    assert "horse" not in caplog.text


def test_the_tool_makes_hashes_lists_and_removes(
    path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = result_of(capsys, tool, "add", path, "anna", "--requests-per-minute", 60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(made["key"]) not in path.read_text()
    with path.open("a") as file:
        file.write(f"# by hand\nbert : {PLAIN} : : 9\n")
    found = Keys(path).find(str(made["key"]))
    assert found
    assert (found.name, found.requests_per_minute) == ("anna", 60)
    assert "python -m engine.tools.keys hash" in caplog.text
    assert result_of(capsys, tool, "hash", path)[0] == {"hashed": ["bert"]}
    assert (PLAIN in path.read_text(), "# by hand" in path.read_text()) == (False, True)
    bert = Keys(path).find(PLAIN)
    assert bert
    assert bert.tokens_per_minute == 9
    assert result_of(capsys, tool, "remove", path, "anna")[0] == {"removed": "anna"}
    assert result_of(capsys, tool, "list", path)[0] == {
        "keys": [{"name": "bert", "requests_per_minute": None, "tokens_per_minute": 9, "hashed": True}]
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("add", "anna"), "already"), (("add", "x:y"), "cannot be a key"), (("remove", "bert"), "no key named 'bert'")],
)
def test_the_tool_says_what_it_cannot_do(path: Path, arguments: tuple[str, str], said: str) -> None:
    path.write_text(f"anna:{PLAIN}\n")
    command, name = arguments
    with pytest.raises(SystemExit, match=said):
        call(tool, command, path, name)
    assert path.read_text() == f"anna:{PLAIN}\n"
