"""`python app.py` as its user meets it: one clear sentence when it cannot start, and a clean stop."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from tests.conftest import soon

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.timeout(60)  # the program loads gradio, and with a model torch


def start(*flags: str, **environ: str) -> subprocess.Popen[str]:
    command = [sys.executable, "app.py", *flags]
    env = {name: value for name, value in os.environ.items() if not name.startswith("YIWEN_")}
    env |= {"YIWEN_DATA_DIR": f"{tempfile.gettempdir()}/yiwen-tests"} | environ
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def refusal(*flags: str, **environ: str) -> str:
    """What it said when it would not start."""
    with start(*flags, **environ) as program:
        said = program.communicate(timeout=45)[1].splitlines()
    assert program.returncode == 2
    assert len(said) == 1, said
    return said[0]


def test_an_unknown_flag_is_named_with_the_nearest_known() -> None:
    assert refusal("--prot", "1") == "yiwen: Unknown flag --prot; did you mean --port?; see --help."


def test_an_unknown_variable_is_named() -> None:
    assert "YIWEN_MODLE; did you mean YIWEN_MODEL?" in refusal(YIWEN_MODLE="x")


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"port {port}" in refusal("--backend", "echo", "--port", port)


def test_a_host_that_does_not_exist_is_named() -> None:
    assert "no.such.host.invalid" in refusal("--host", "no.such.host.invalid")


@pytest.mark.parametrize("name", ["/no/such/folder", "./models", "a/b/c", "yiwen"])
def test_a_model_folder_that_does_not_exist_is_named(name: str) -> None:
    assert repr(str(Path(name))) in refusal("--model", name, "--port", "0")


def test_it_says_its_address_and_stops_cleanly_while_a_page_is_open() -> None:
    with start("--backend", "echo", "--port", "0") as program:
        try:
            before = _log_until(program, "open http")
            url = before.split()[-1].rstrip("/")
            soon(lambda: _ready(url), seconds=45)
            assert httpx.get(url).headers["Content-Type"].startswith("text/html")
            assert httpx.get(f"{url}/translate").status_code == 405  # the page at / does not take it
            answer = httpx.post(f"{url}/translate", json={"text": "Hi there.", "target_lang": "zh"})
            assert answer.json()["translation"] == "Hi there."
            with httpx.stream("GET", f"{url}/gradio_api/heartbeat/tab"):  # what a page holds while it is open
                program.send_signal(signal.SIGINT)
                after = program.communicate(timeout=45)[1]
        finally:
            program.kill()
    assert program.returncode == 0
    assert "Traceback" not in before + after
    assert "ERROR" not in after


def test_it_stops_cleanly_while_it_is_starting() -> None:
    with start("--backend", "echo", "--port", "0") as program:
        try:
            _log_until(program, "backend=echo")
            program.send_signal(signal.SIGTERM)
            after = program.communicate(timeout=45)[1]
        finally:
            program.kill()
    assert program.returncode == 0
    assert "Traceback" not in after


def _log_until(program: subprocess.Popen[str], said: str) -> str:
    assert program.stderr
    log = ""
    while said not in log:
        line = program.stderr.readline()
        assert line, log
        log += line
    return log


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
