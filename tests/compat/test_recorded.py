"""Requests as programs send them that were told our address in the place of the service they know: `recorded.json`.

Taken from what their sources say they send.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.backends.echo import EchoBackend
from tests.conftest import Serve

RECORDED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("recorded.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def holds(answer: Any, expected: Any) -> bool:
    """Whether all that is expected is there; there may be more."""
    if isinstance(expected, dict):
        return all(name in answer and holds(answer[name], value) for name, value in expected.items())
    if isinstance(expected, list) and expected:
        return all(any(holds(each, one) for each in answer) for one in expected)
    return bool(answer == expected)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["client"])
def test_a_program_gets_what_it_expects(url: str, recorded: dict[str, Any]) -> None:
    files = {name: (None, value) for name, value in recorded.get("multipart", {}).items()} or None
    answer = httpx.request(
        recorded["method"],
        url + recorded["path"],
        headers=recorded["headers"],
        json=recorded.get("json"),
        data=recorded.get("form"),
        files=files,
    )
    assert answer.status_code < 300, answer.text
    assert holds(answer.json(), recorded["answer"]), answer.text
