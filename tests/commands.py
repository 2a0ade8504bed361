"""The programs of `engine/tools` as somebody calls them, in this process."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest


def call(tool: ModuleType, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [tool.__name__.rpartition(".")[2], *map(str, arguments)])
        tool.main()


def result_of(captured: pytest.CaptureFixture[str], tool: ModuleType, *arguments: object) -> tuple[Any, str]:
    """The JSON of its last line, and what it wrote to stderr."""
    call(tool, *arguments)
    out, err = captured.readouterr()
    return json.loads(out.splitlines()[-1]), err


def refusal_of(captured: pytest.CaptureFixture[str], tool: ModuleType, *arguments: object) -> str:
    """What it says of arguments that make no sense, as it ends."""
    with pytest.raises(SystemExit):
        call(tool, *arguments)
    return captured.readouterr().err
