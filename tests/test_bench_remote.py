"""`bench remote`: once through, so briefly that its figures mean nothing."""

import pytest

from engine.backends.echo import EchoBackend
from engine.tools import bench
from tests.commands import result_of
from tests.conftest import Serve

BRIEF = ["--clients", "2", "--rounds", "3", "--tokens", "6"]


def test_both_clients_get_all_tokens_and_none_before_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    result, said = result_of(capsys, bench, "remote", *BRIEF, "--tokens-per-second", "1000")
    assert result["server"] == "paced"
    for name in ("plain", "remote"):
        assert 0 < result[name]["tokens_per_second"] < 1_050
        assert result[name]["cpu_us_a_token"] > 0
    least, most = result["rate_against_plain"]["quartiles"]
    assert least <= result["rate_against_plain"]["median"] <= most
    assert "tokens/s" in said


def test_a_server_that_is_running_is_measured(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    result, _ = result_of(capsys, bench, "remote", *BRIEF, "--url", serve(EchoBackend()))
    assert result["server"] == "echo"
    assert result["remote"]["tokens_per_second"] > 0
