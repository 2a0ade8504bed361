"""`assets/start.sh` from a fresh checkout on: in a copy of it, with a pip, a torch and an nvidia-smi that only say so;
and once with the real ones, up to a translation."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from string import Formatter
from typing import Any

import httpx
import pytest

from assets.start_words import TEXTS
from tests.conftest import soon

ROOT = Path(__file__).parents[1]
BARE = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"  # without the packages of this environment
SMI = "NVIDIA-SMI {driver}   Driver Version: {driver}   CUDA Version: {cuda}"
NEW_DRIVER = SMI.format(driver="580.65.06", cuda="13.0")
RTX_4090 = "0, NVIDIA GeForce RTX 4090, 24564, 24080, 8.9"
TEN_GB = "0, NVIDIA GeForce RTX 3080, 10240, 9900, 8.6"
FOUR_GB = "0, NVIDIA T1000, 4096, 4000, 7.5"

PIP = """
import json, os, sys
if sys.argv[1] == "config":
    print(os.environ.get("FAKE_PIP_CONFIG", "global.proxy='none'"))  # with a proxy pip's index is not tried
    sys.exit()
with open(os.environ["FAKE_LOG"], "a") as log:
    print(json.dumps(["pip", *sys.argv[1:]]), file=log)
sys.exit(int(os.environ.get("FAKE_PIP_STATUS", "0")))
"""
APP = """
import json, os, sys
names = ("HF_HUB_OFFLINE", "YIWEN_LANG", "YIWEN_VENV")
said = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
again = os.path.exists(os.environ["FAKE_LOG"])
with open(os.environ["FAKE_LOG"], "a") as log:
    print(json.dumps(["app", *sys.argv[1:], *said]), file=log)
sys.exit(0 if again else int(os.environ.get("FAKE_FIRST_STATUS", "0")))
"""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A copy, and a machine around it: PATH has the programs in `bin` and no others."""

    root: Path
    bin: Path
    fakes: Path
    environ: dict[str, str] = field(default_factory=dict)

    def start(self, *flags: str, script: Path | None = None, typed: str = "", **environ: str) -> tuple[int, str]:
        """(exit status, all that was said). `typed`: on a terminal."""
        command = ["/bin/sh", str(script or self.root / "assets" / "start.sh"), *flags]
        if not any(flag.startswith("--port") for flag in flags):
            command += ["--port", "0"]
        keyboard, terminal = pty.openpty()
        os.write(keyboard, typed.encode())
        try:
            done = subprocess.run(
                command, cwd="/", env=self.environ | environ, stdin=terminal if typed else subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=50,
            )  # fmt: skip
        finally:
            os.close(keyboard)
            os.close(terminal)
        return done.returncode, done.stdout

    @property
    def calls(self) -> list[list[str]]:
        """Of pip and of app.py, since it was last asked."""
        log = Path(self.environ["FAKE_LOG"])
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def card(self, row: str, header: str = NEW_DRIVER, torch: str = "'13.0'") -> None:
        """As nvidia-smi says it, and the CUDA that torch was built with."""
        self.program(
            "nvidia-smi", f'case "$*" in *query*) echo {shlex.quote(row)};; *) echo {shlex.quote(header)};; esac'
        )
        (self.fakes / "torch" / "version.py").write_text(f"cuda: Optional[str] = {torch}\n")

    def weights(self, folder: str) -> str:
        """Of a tiny model, as far as a plan is concerned."""
        place = self.root.parent / folder
        place.mkdir(parents=True)
        shutil.copy(self.root / "assets/models/yiwen-mini/config.json", place)
        (place / "model.safetensors").write_bytes(b"")
        return str(place)


@pytest.fixture
def checkout(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    root, bin, fakes = tmp_path / "a copy of 译文", tmp_path / "bin", tmp_path / "fakes"
    packages = [fakes / name for name in ("pip", "pip-1.dist-info", "torch", "torch-2.13.0.dist-info")]
    for folder in (root / "assets/models/yiwen-mini", root / ".venv/bin", bin, *packages):
        folder.mkdir(parents=True)
    for name in ("start.sh", "start.py", "start_words.py", "models/yiwen-mini/config.json"):
        shutil.copy(ROOT / "assets" / name, root / "assets" / name)
    (root / "engine").symlink_to(ROOT / "engine")
    (root / "app.py").write_text(APP)
    (root / "requirements.txt").write_text("torch==2.13.0\n")
    (root / ".venv/yiwen-installed").write_text(sha256(b"torch==2.13.0\n").hexdigest())
    (fakes / "pip/__init__.py").touch()
    (fakes / "pip/__main__.py").write_text(PIP)
    (fakes / "torch/__init__.py").touch()
    (fakes / "torch/version.py").write_text("cuda: Optional[str] = None\n")
    for name in ("sh", "dirname", "readlink"):
        (bin / name).symlink_to(str(shutil.which(name)))
    environ = {"PATH": str(bin), "PYTHONPATH": str(fakes), "HOME": str(tmp_path), "FAKE_LOG": str(tmp_path / "log")}
    compiled = str(tmp_path_factory.getbasetemp() / "compiled")
    made = Checkout(root, bin, fakes, environ | {"PYTHONPYCACHEPREFIX": compiled})
    made.program("python3.13", f'exec {BARE} -S "$@"')
    (root / ".venv/pyvenv.cfg").touch()
    (root / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {BARE} -S "$@"\n')
    (root / ".venv/bin/python").chmod(0o755)
    return made


# ------------------------------------------------------------------------------------------------------ installing


def test_the_first_start_installs_and_the_next_does_not_until_the_requirements_change(checkout: Checkout) -> None:
    link = checkout.root.parent / "译文 starten"
    link.symlink_to(checkout.root / "assets" / "start.sh")
    (checkout.root / ".venv/yiwen-installed").unlink()
    assert checkout.start(script=link)[0] == 0
    pip, app = checkout.calls
    assert pip[:2] == ["pip", "install"]
    assert pip[pip.index("-r") + 1] == str(checkout.root / "requirements.txt")
    assert app == ["app", "--port", "0"]
    assert checkout.start("--log-level", "debug", YIWEN_LANG="en")[0] == 0
    assert checkout.calls == [["app", "--log-level", "debug", "--port", "0"]]
    (checkout.root / "requirements.txt").write_text("torch==2.14.0\n")
    checkout.start()
    assert [call[0] for call in checkout.calls] == ["pip", "app"]


def test_an_install_that_was_cut_off_is_done_again(checkout: Checkout) -> None:
    (checkout.root / ".venv/yiwen-installed").unlink()
    status, said = checkout.start(FAKE_PIP_STATUS="1")
    assert (status, [call[0] for call in checkout.calls]) == (2, ["pip"])
    assert "pip ended with 1" in said
    checkout.start()
    assert [call[0] for call in checkout.calls] == ["pip", "app"]


def test_packages_in_a_folder_are_installed_without_a_network(checkout: Checkout) -> None:
    (checkout.root / ".venv/yiwen-installed").unlink()
    (checkout.root / "wheels").mkdir()
    checkout.start()
    assert checkout.calls[0][-3:] == ["--no-index", "--find-links", str(checkout.root / "wheels")]


def test_a_mirror_is_named_where_the_index_does_not_answer(checkout: Checkout) -> None:
    (checkout.root / ".venv/yiwen-installed").unlink()
    with socket.create_server(("127.0.0.1", 0)) as other:
        index = f"http://127.0.0.1:{other.getsockname()[1]}/simple"
    _, said = checkout.start(LC_ALL="zh_CN.UTF-8", FAKE_PIP_CONFIG=f"global.index-url='{index}'")
    assert f"软件源 {index} 无法访问" in said
    assert "PIP_INDEX_URL=https://pypi.tuna.tsinghua.edu.cn/simple" in said


def test_without_a_python_that_will_do_it_says_how_to_get_one(checkout: Checkout) -> None:
    checkout.program("python3.13", "exit 1")
    status, said = checkout.start(LANG="de_DE.UTF-8")
    assert status == 2
    assert "Python 3.11 or newer is needed, and none was found; install one" in said
    assert "没有找到" in checkout.start(LANG="zh_TW.UTF-8")[1]


def test_a_python_that_makes_no_environments_is_told_with_the_package_that_is_missing(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / ".venv")
    (checkout.fakes / "ensurepip.py").write_text("raise ImportError")
    status, said = checkout.start()
    assert status == 2
    assert f"apt install python3.{sys.version_info.minor}-venv" in said


def test_a_full_disk_is_told_before_anything_is_written(checkout: Checkout) -> None:
    (checkout.root / ".venv/yiwen-installed").unlink()
    shutil.rmtree(checkout.fakes / "torch")
    full = "import shutil; shutil.disk_usage = lambda _: shutil._ntuple_diskusage(2 * 10**9, 10**9, 10**9)"
    (checkout.fakes / "sitecustomize.py").write_text(full)
    checkout.program("python3.13", f'exec {BARE} "$@"')
    status, said = checkout.start()
    assert (status, checkout.calls) == (2, [])
    assert "takes 1.9 GB" in said
    assert "1.0 GB are free" in said


def test_a_folder_that_is_no_environment_is_left_alone(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    status, said = checkout.start(YIWEN_VENV=str(tmp_path / "mine"))
    assert (status, (tmp_path / "mine" / "letter.txt").read_text()) == (2, "keep")
    assert "no Python environment" in said


# -------------------------------------------------------------------------------------------------------- the model


def test_what_suits_the_card_is_named_but_not_fetched(checkout: Checkout) -> None:
    checkout.card(RTX_4090)
    assert "has room for Hy-MT2-7B (Apache-2.0" in checkout.start()[1]
    assert checkout.calls == [["app", "--port", "0"]]


def test_what_suits_the_card_is_fetched_when_it_is_asked_for(checkout: Checkout) -> None:
    checkout.card(TEN_GB)
    checkout.start("--download", HF_ENDPOINT="file:///mirror")
    download, app = checkout.calls
    assert download == ["app", "models", "download", "tencent/Hy-MT2-1.8B", "--from", "hf"]
    assert app == ["app", "--port", "0", "--model", "tencent/Hy-MT2-1.8B"]


def test_on_a_terminal_it_asks_whether_to_fetch_it_after_the_first_install_and_never_again(checkout: Checkout) -> None:
    checkout.card(RTX_4090)
    (checkout.root / ".venv/yiwen-installed").unlink()
    checkout.start(typed="y\n", HF_ENDPOINT="file:///mirror")
    assert checkout.calls[1][:4] == ["app", "models", "download", "tencent/Hy-MT2-7B"]
    checkout.start(typed="y\n")
    assert checkout.calls == [["app", "--port", "0"]]


def test_on_a_small_card_the_model_that_ships_is_taken(checkout: Checkout) -> None:
    checkout.card(FOUR_GB)
    _, said = checkout.start()
    assert "T1000 (cuda:0)" in said.split("Model")[1]
    assert "room for" not in said


@pytest.mark.parametrize(
    ("row", "header", "torch", "reason"),
    [
        (RTX_4090, SMI.format(driver="550.54", cuda="12.4"), "'13.0'", "Driver 550.54 knows CUDA up to 12.4"),
        (RTX_4090, NEW_DRIVER, "None", "The installed torch has no CUDA"),
        ("0, NVIDIA TITAN V, 12288, 12000, 7.0", NEW_DRIVER, "'13.0'", "TITAN V is too old for CUDA 13.0"),
        ('Field "compute_cap" is not a valid field to query.', NEW_DRIVER, "'13.0'", "the CPU translates"),
    ],
)  # fmt: skip
def test_a_card_that_cannot_be_used_is_told_with_its_reason(
    checkout: Checkout, row: str, header: str, torch: str, reason: str
) -> None:
    checkout.card(row, header, torch)
    status, said = checkout.start()
    assert (status, checkout.calls) == (0, [["app", "--port", "0"]])
    assert reason in said
    assert "on CPU" in said.split("Model")[1]


def test_a_driver_that_does_not_answer_is_told_in_its_own_words(checkout: Checkout) -> None:
    checkout.program("nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not talk to the driver.'; exit 9")
    assert "(NVIDIA-SMI has failed because it could not talk to the driver)" in checkout.start()[1]


def test_weights_in_a_folder_are_served_without_a_network(checkout: Checkout) -> None:
    here = checkout.weights(f"{checkout.root.name}/models/my model")
    (Path(checkout.weights(f"{checkout.root.name}/models/half")) / "model.safetensors").unlink()
    _, said = checkout.start()
    assert checkout.calls == [["app", "--port", "0", "--model", here]]
    assert "my model, whose weights are here" in said


def test_the_model_that_is_asked_for_comes_before_all_others(checkout: Checkout) -> None:
    checkout.weights(f"{checkout.root.name}/models/mine")
    checkout.start("--model", "embedded")
    assert checkout.calls == [["app", "--model", "embedded", "--port", "0"]]


def test_weights_in_the_hubs_cache_are_served_without_asking_the_hub(checkout: Checkout) -> None:
    checkout.card(RTX_4090)
    checkout.weights("cache/models--tencent--Hy-MT2-7B/snapshots/1a2b")
    checkout.start(HF_HUB_CACHE=str(checkout.root.parent / "cache"))
    assert checkout.calls == [["app", "--port", "0", "--model", "tencent/Hy-MT2-7B", "HF_HUB_OFFLINE=1"]]


# ---------------------------------------------------------------------------------------------------------- serving


@contextmanager
def answering(said: dict[str, Any]) -> Iterator[str]:
    """The port of a server that says this to whatever is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield str(server.server_port)
        server.shutdown()
        thread.join()


def test_a_yiwen_that_runs_already_is_named_by_its_address(checkout: Checkout) -> None:
    with answering({"status": "ok"}) as port:
        status, said = checkout.start("--port", port, YIWEN_LANG="zh")
    assert (status, checkout.calls) == (0, [])
    assert said == f"译文已在运行：http://127.0.0.1:{port}/\n"


def test_a_port_that_another_program_has_is_told_with_a_free_one(checkout: Checkout) -> None:
    with answering({"hello": "world"}) as port:
        status, said = checkout.start("--port", port)
    assert (status, checkout.calls) == (2, [])
    assert re.fullmatch(rf"yiwen: Port {port} is taken by another program; start with --port \d+, or .*\n", said)


def test_a_process_that_has_lost_its_card_is_followed_by_another(checkout: Checkout) -> None:
    assert checkout.start(FAKE_FIRST_STATUS="75")[0] == 0
    assert checkout.calls == [["app", "--port", "0"]] * 2
    assert checkout.start(FAKE_FIRST_STATUS="2")[0] == 2  # what ends for another reason is not


def test_a_flag_that_app_py_does_not_know_is_told_before_anything_is_installed(checkout: Checkout) -> None:
    assert checkout.start("--prot", "1") == (2, "yiwen: Unknown flag --prot; did you mean --port?; see --help.\n")
    assert checkout.calls == []


def test_help_tells_both_its_own_flags_and_those_of_app_py(checkout: Checkout) -> None:
    status, said = checkout.start("--help", LANG="zh_CN.UTF-8")
    assert status == 0
    assert "下载适合这块显卡的模型" in said
    assert "--max-vram-gb" in said


def test_it_says_everything_in_both_languages_with_the_same_figures() -> None:
    places = {
        key: [{name for _, name, _, _ in Formatter().parse(text) if name} for text in TEXTS[key]] for key in TEXTS
    }
    only_in_chinese = {"mirror"}
    assert {key for key, (english, chinese) in places.items() if english != chinese - only_in_chinese} == set()
    assert [key for key, (english, chinese) in TEXTS.items() if english == chinese] == []


@pytest.mark.timeout(120)
def test_the_real_one_serves_translates_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    """With an environment in which all is installed already."""
    subprocess.run([BARE, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    packages = next((tmp_path / "venv/lib").glob("python3.*")) / "site-packages"
    (packages / "tests.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
    installed = sha256((ROOT / "requirements.txt").read_bytes()).hexdigest()
    (tmp_path / "venv/yiwen-installed").write_text(installed)  # pip would look for three seconds, and find all there
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    environ = os.environ | {
        "YIWEN_VENV": str(tmp_path / "venv"),
        "YIWEN_LANG": "zh",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/anna/",
    }
    command = ["bash", str(ROOT / "assets/start.sh"), "--port", port, "--data-dir", str(tmp_path), "--backend", "echo"]
    log = tmp_path / "log"
    with log.open("wb") as out, subprocess.Popen(command, env=environ, cwd="/", stdout=out, stderr=out) as program:
        try:
            soon(lambda: f"可以翻译了：http://127.0.0.1:{port}/" in log.read_text(), seconds=90, every_seconds=0.1)
            asked = {"text": "The river is wide.", "target_lang": "zh"}
            answer = httpx.post(f"http://127.0.0.1:{port}/translate", json=asked)
            assert answer.json()["translation"] == "The river is wide."
        finally:
            program.send_signal(signal.SIGTERM)
            status = program.wait(timeout=20)
    assert status == 0
    assert f"--root-path /user/anna/proxy/{port}" in log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")


# ------------------------------------------------------------------------------------------------------ the scripts


def test_shellcheck_finds_nothing_in_start_sh() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), ROOT / "assets/start.sh"], capture_output=True
    )
    assert (checked.returncode, checked.stdout) == (0, b"")


def test_start_bat_is_what_cmd_reads() -> None:
    """No Windows is here: its lines end as cmd wants them, every label is there, what is not ASCII stands last."""
    text = (ROOT / "assets/start.bat").read_bytes().decode()
    lines = text.split("\r\n")
    assert "\n" not in "".join(lines)
    labels = {line[1:] for line in lines if line.startswith(":")}
    assert set(re.findall(r"goto (\w+)", text)) == labels == {"found", "missing"}
    assert all(line.isascii() for line in lines[: lines.index(":missing")])
    assert lines.index("chcp 65001 >nul") < lines.index(":missing")
    assert '"%~dp0start.py" %*' in text
