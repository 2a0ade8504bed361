"""Suggestions are on the disk, a line each, whatever happened before."""

import asyncio
import json
from pathlib import Path

import pytest

from engine import suggestions
from engine.errors import NotStored
from engine.suggestions import NAME, Suggestion, Suggestions

HELLO = Suggestion("en", "de", "Hello", "Hallo")


def lines(folder: Path) -> list[str]:
    return (folder / "suggestions" / NAME).read_text(encoding="utf-8").splitlines()


def test_a_line_that_the_power_failed_in_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "suggestions").mkdir()
    (tmp_path / "suggestions" / NAME).write_text('{"source_lang": "e', encoding="utf-8")
    store = Suggestions(tmp_path)
    asyncio.run(store.add(HELLO))
    asyncio.run(store.add(HELLO))
    store.close()
    torn, *whole = lines(tmp_path)
    assert torn == '{"source_lang": "e'
    assert [json.loads(line)["translation"] for line in whole] == ["Hallo", "Hallo"]


def test_no_more_are_kept_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "MOST_BYTES", 200)
    store = Suggestions(tmp_path)
    asyncio.run(store.add(HELLO))
    asyncio.run(store.add(HELLO))
    with pytest.raises(NotStored, match="the most that are kept"):
        asyncio.run(store.add(HELLO))
    store.close()
    assert len(lines(tmp_path)) == 2


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "suggestions" / NAME).mkdir(parents=True)  # as little to be written to as a full disk
    store = Suggestions(tmp_path)
    with pytest.raises(NotStored, match="could not be stored"):
        asyncio.run(store.add(HELLO))
    store.close()
