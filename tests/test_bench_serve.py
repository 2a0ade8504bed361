"""`bench serve`: once through with so few clients that its figures mean nothing, and its arithmetic."""

import argparse
from urllib.parse import urlsplit

import pytest

from engine.backends.echo import EchoBackend
from engine.errors import StartupError
from engine.tools import bench, bench_serve
from tests.commands import result_of
from tests.conftest import Serve


def test_every_part_measures_a_running_server(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(EchoBackend())
    monkeypatch.setattr(bench_serve, "BOOK_WORDS", 400)
    monkeypatch.setattr(bench_serve, "LINES", 2)
    monkeypatch.setattr(bench_serve, "WARM_SECONDS", 0.1)
    flags = ["--clients", "5", "--seconds", "1.2", "--connections", "2"]
    result, said = result_of(capsys, bench, "serve", "--url", url, *flags)
    assert result["model"] == "echo"
    assert result["short"]["per_second"] > 0 < result["deltas"]["per_second"]
    assert result["crowd"]["done"] > 0 == result["crowd"]["wrong"]
    assert result["crowd"]["fairness"] > 0.5
    assert result["beside"]["alone_ms"] > 0
    assert "requests/s" in said


def test_a_server_that_answers_wrongly_is_found_out(serve: Serve) -> None:
    port = urlsplit(serve(EchoBackend())).port
    server = bench_serve._Server("127.0.0.1", port or 0, "echo", True, None)
    assert server.is_right("Hello.", "Hello.")
    assert not server.is_right("Hello.", "Hallo.")


def test_fairness_is_one_where_all_have_as_much() -> None:
    assert bench_serve.jain([3, 3, 3]) == 1.0
    assert bench_serve.jain([9, 0, 0]) == pytest.approx(1 / 3)


def test_an_unknown_part_is_told() -> None:
    asked = argparse.Namespace(parts="short,none", url=None, model=None)
    with pytest.raises(StartupError, match="there is no none"):
        bench_serve.run(asked)
