"""`python app.py` as its user meets it: one clear sentence when it cannot start, and a clean stop."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.sync.client import connect

from tests.conftest import soon

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.timeout(120)  # the program loads gradio, and with a model torch


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


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    said = refusal("--model", str(tmp_path), "--port", "0")
    assert said == f"yiwen: The folder {str(tmp_path)!r} holds no config.json, so it is no model."


def test_it_says_its_address_and_stops_cleanly_while_a_page_is_open() -> None:
    with start("--backend", "echo", "--port", "0") as program:
        try:
            before = _log_until(program, "open http")
            url = before.split()[-1].rstrip("/")
            soon(lambda: _ready(url), seconds=45, every_seconds=0.1)
            assert httpx.get(url).headers["Content-Type"].startswith("text/html")
            assert httpx.get(f"{url}/translate").status_code == 405  # the page at / does not take it
            answer = httpx.post(f"{url}/translate", json={"text": "Hi there.", "target_lang": "zh"})
            assert answer.json()["translation"] == "Hi there."
            with connect(f"ws{url[4:]}/ws/translate"):  # as a page holds one while it is open
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


def test_the_page_is_up_while_the_model_loads_and_says_how_far_it_is() -> None:
    with start("--port", "0") as program:
        try:
            url = _log_until(program, "open http").split()[-1].rstrip("/")
            assert httpx.get(url, timeout=30).headers["Content-Type"].startswith("text/html")
            states = [httpx.get(f"{url}/system").json()["state"]]
            assert states[0]["status"] == "loading"
            while states[-1]["status"] == "loading":
                time.sleep(0.1)  # to ask takes time from who loads
                states.append(httpx.get(f"{url}/system").json()["state"])
            program.send_signal(signal.SIGINT)
            program.communicate(timeout=45)
        finally:
            program.kill()
    assert states[-1] == {"status": "ready", "stage": "", "done": 1.0, "seconds_left": 0.0, "reason": ""}
    assert list(dict.fromkeys(state["stage"] for state in states)) == ["weights", "prepare", "test", ""]
    done = [state["done"] for state in states]
    assert done == sorted(done)
    assert len(set(done)) > 10
    assert any(state["seconds_left"] for state in states)


def test_it_stops_cleanly_while_the_model_loads() -> None:
    with start("--port", "0") as program:
        try:
            before = _log_until(program, "open http")
            url = before.split()[-1].rstrip("/")
            soon(lambda: _state(url) == "loading", seconds=45, every_seconds=0.1)
            program.send_signal(signal.SIGINT)
            after = program.communicate(timeout=45)[1]
        finally:
            program.kill()
    assert program.returncode == 0
    assert "stopped" in after
    assert "Traceback" not in before + after
    assert "ERROR" not in after


def test_a_model_that_cannot_be_read_is_told_on_the_page_and_then_at_the_end(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(tiny_checkpoint, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with start("--model", str(folder), "--port", "0", "--log-level", "warning") as program:
        try:
            url = f"http://127.0.0.1:{_port(program)}"
            soon(lambda: _state(url) == "failed", seconds=45, every_seconds=0.1)
            said = program.communicate(timeout=45)[1]
        finally:
            program.kill()
    assert program.returncode == 2
    assert len(said.splitlines()) == 1, said
    assert said.startswith(f"yiwen: {str(weights)!r} cannot be read")


def _log_until(program: subprocess.Popen[str], said: str) -> str:
    assert program.stderr
    log = ""
    while said not in log:
        line = program.stderr.readline()
        assert line, log
        log += line
    return log


def _port(program: subprocess.Popen[str]) -> int:
    """Of one that logs nothing."""
    process = psutil.Process(program.pid)
    soon(lambda: bool(process.net_connections()), seconds=45, every_seconds=0.1)
    return int(process.net_connections()[0].laddr.port)


def _state(url: str) -> str:
    try:
        status: str = httpx.get(f"{url}/readyz", timeout=30).json()["status"]
        return status
    except httpx.TransportError:
        return ""


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
