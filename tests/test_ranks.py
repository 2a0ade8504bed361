"""`accelerate launch app.py`: the first rank serves, every rank hosts a model, and whatever becomes of one of them,
nothing that was asked is lost and nothing of them stays behind.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file

from engine.backends import process as process_module
from engine.backends import ranks
from engine.backends.base import Backend
from engine.backends.ranks import Others, Rank, as_launched, meeting, rank_of
from engine.cards import Card
from engine.child import ROOT
from engine.config import Config
from engine.errors import BackendError, ConfigError, StartupError
from engine.progress import Progress, Stopped
from tests.conftest import Serve, soon
from tests.streams import LONG, answer, ask, text_of

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29500"}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
CONFIG = ROOT / "assets" / "accelerate.yaml"
TEXTS = [f"The committee has read page {number} of the report." for number in range(24)]
BOOK = 10_000 * "The committee has not decided yet. "


# ------------------------------------------------------------------------------------------------ what a launcher says


def test_a_rank_is_one_of_several_on_this_machine() -> None:
    assert rank_of(TORCHRUN) == Rank(1, 2, "29500")
    assert rank_of({}) is None
    assert rank_of(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}) is None
    assert rank_of({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}) is None  # a pod, alone on its machine


def test_ranks_on_other_machines_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^The launcher started 6 of 8 processes on other machines, .*--remote-url"):
        rank_of(TORCHRUN | {"WORLD_SIZE": "8"})


@pytest.mark.parametrize(
    ("cards", "size", "environ", "devices"),
    [
        (4, 4, {}, "cuda:0,cuda:1,cuda:2,cuda:3"),
        (4, 2, {}, "cuda:0,cuda:1"),
        (0, 2, {}, "cpu,cpu"),
        (4, 2, {"ACCELERATE_USE_CPU": "true"}, "cpu,cpu"),
        (4, 1, {}, "auto"),
        (4, 1, {"ACCELERATE_USE_CPU": "True"}, "cpu"),
    ],
)
def test_each_rank_has_a_card_or_its_share_of_the_cpu(
    cards: int, size: int, environ: Mapping[str, str], devices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there(monkeypatch, cards)
    assert as_launched(Config(), Rank(0, size, "29500") if size > 1 else None, environ).devices == devices


def test_more_ranks_than_cards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, 1)
    with pytest.raises(ConfigError, match=r"^2 processes are asked for, and there is one card; ask for --num_proc"):
        as_launched(Config(), Rank(0, 2, "29500"), {})


def test_devices_beside_those_of_a_launcher_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--devices is 'cpu,cpu'; leave it out, or start python app.py --devices"):
        as_launched(Config(devices="cpu,cpu"), Rank(0, 2, "29500"), {})
    assert as_launched(Config(devices="cpu,cpu"), None, ACCELERATE).devices == "cpu,cpu"


@pytest.mark.parametrize(
    ("flags", "environ", "devices"),
    [
        (["--cpu", "--num_processes", "3"], {"MASTER_ADDR": "127.0.0.1"}, "cpu,cpu,cpu"),
        (["--cpu", "--num-processes=2"], {"MASTER_ADDR": "127.0.0.1"}, "cpu,cpu"),
        (["--cpu"], {}, "cpu"),
    ],
)
def test_of_one_process_that_accelerate_starts_for_several_they_are_started(
    flags: list[str], environ: Mapping[str, str], devices: str
) -> None:
    program = (
        "import subprocess, sys\n"
        "asked = 'import os\\nfrom engine.backends.ranks import as_launched\\nfrom engine.config import Config\\n'\n"
        "asked += 'print(as_launched(Config(), None, os.environ).devices)'\n"
        "subprocess.run([sys.executable, '-c', asked])\n"
    )
    command = [sys.executable, "-c", program, "launch", *flags, "app.py", "--port", "0"]
    said = subprocess.run(command, cwd=ROOT, env=os.environ | ACCELERATE | environ, capture_output=True, check=True)
    assert said.stdout.decode().strip() == devices


def there(monkeypatch: pytest.MonkeyPatch, cards: int) -> None:
    found = [Card(f"cuda:{number}", "Card", 10**9, 0) for number in range(cards)]
    monkeypatch.setattr(ranks.Cards, "read", lambda _: found)


# --------------------------------------------------------------------------------------------------- how ranks behave


@contextmanager
def a_rank(number: int, rank: Rank) -> Iterator[subprocess.Popen[bytes]]:
    program = f"from engine.backends.ranks import Rank, host; host(Rank({number}, {rank.size}, {rank.port!r}))"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def rank() -> Rank:
    return Rank(0, 2, f"test-{os.getpid()}")


@pytest.fixture
def config(tiny_checkpoint: Path) -> Config:
    """Of a worker that is there at once; here its tokens are counted as the model's."""
    return Config(model=str(tiny_checkpoint), backend="echo")


def test_a_model_of_another_rank_that_dies_or_hangs_comes_again_until_the_first_has_gone(
    config: Config, rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(others: Others) -> process_module.ProcessBackend:
        return others.load(1, config, Progress(), cores=[min(os.sched_getaffinity(0))], name="cpu#2")

    async def broken_by(sent: signal.Signals, backend: process_module.ProcessBackend) -> str:
        stream = backend.stream(ask(BOOK, LONG))
        await anext(stream)
        os.kill(backend.pid, sent)
        with pytest.raises(BackendError) as caught:
            async for _ in stream:
                pass
        await backend.close()
        return str(caught.value)

    with a_rank(1, rank) as hosting:
        with meeting(rank) as others:
            assert others
            first = load(others)
            assert os.sched_getaffinity(first.pid) == {min(os.sched_getaffinity(0))}
            assert psutil.Process(first.pid).ppid() == hosting.pid
            assert "(that of rank 1, which logs how)" in asyncio.run(broken_by(signal.SIGKILL, first))
            hosting.terminate()  # as all of a group are told; but the first says when it is the end
            with monkeypatch.context() as patch:
                patch.setattr(process_module, "SILENT_SECONDS", 1.0)
                second = load(others)
                assert "said nothing for 1 s" in asyncio.run(broken_by(signal.SIGSTOP, second))
            soon(lambda: not psutil.pid_exists(second.pid))
            third = load(others)
            assert text_of(asyncio.run(answer(third, ask("Hello.", LONG)))) == "Hello."
        third._line.end(0)  # as when this process has ended
        assert hosting.wait(9) == 0
        assert not psutil.pid_exists(third.pid)
        asyncio.run(third.close())


def test_a_rank_of_which_nothing_is_wanted_ends_with_the_first(rank: Rank) -> None:
    with a_rank(1, rank) as hosting:
        with meeting(rank) as others:
            assert others
            soon(lambda: 1 in others._guests)
        assert hosting.wait(9) == 0


def test_a_rank_that_does_not_come_is_told(config: Config, rank: Rank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "MEET_SECONDS", 0.2)
    monkeypatch.setattr(ranks, "LOOK_SECONDS", 0.05)
    stopped = Progress()
    stopped.stop()
    with meeting(rank) as others:
        assert others
        with socket.socket(socket.AF_UNIX) as stray:  # which says nothing that makes sense
            stray.connect(str(ranks._place(rank)))
            stray.sendall(b"hello\n")
            with pytest.raises(StartupError, match=r"^Rank 1 did not come within 0 s; "):
                others.load(1, config, Progress())
        with pytest.raises(Stopped):
            others.load(1, config, stopped)
    with pytest.raises(StartupError, match=r"^Rank 0 was not there for 0 s; "):
        ranks.host(Rank(1, 2, rank.port))


# ------------------------------------------------------------------------------------------------------ all of it


class Launched(NamedTuple):
    url: str
    launcher: psutil.Process
    log: Path

    def workers(self, rank: int) -> list[psutil.Process]:
        return next(each for each in self.launcher.children() if each.environ()["RANK"] == str(rank)).children()


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("launched")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG), "--num_processes", "2"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("YIWEN_")}
    with (folder / "log").open("wb") as log:
        started = psutil.Popen(
            [*command, "app.py", "--port", "0", "--data-dir", str(folder)], cwd=ROOT, env=env, stdout=log, stderr=log
        )
    try:
        yield Launched(_address(folder / "log"), started, folder / "log")
    finally:
        left = [*started.children(recursive=True), started] if started.is_running() else []
        for process in left:
            process.kill()
        started.wait()


def _address(log: Path) -> str:
    found = []
    soon(lambda: bool(found.extend(re.findall(r"open (http://\S+)/ ", log.read_text())) or found), seconds=90)
    soon(lambda: _ready(found[0]), seconds=90, every_seconds=0.1)
    return str(found[0])


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=30).json()["status"] == "ready"
    except httpx.TransportError:
        return False


def translated(url: str, text: str) -> str:
    asked = {"text": text, "source_lang": "en", "target_lang": "fr"}
    return str(httpx.post(f"{url}/translate", json=asked, timeout=60).raise_for_status().json()["translation"])


@pytest.mark.timeout(240)
def test_ranks_answer_as_one_model_does_and_one_killed_under_load_loses_nothing(
    launched: Launched, embedded: Backend, serve: Serve
) -> None:
    alone = serve(embedded)
    system = httpx.get(f"{launched.url}/system").json()
    assert [(each["name"], each["state"]) for each in system["replicas"]] == [("cpu#1", "ready"), ("cpu#2", "ready")]
    taken = [process.memory_info().rss for process in launched.launcher.children(recursive=True)]
    assert 0.9 * sum(taken) < system["devices"][0]["used_bytes"]  # of all of them, whoever started them
    with ThreadPoolExecutor(8) as pool:
        expected = [*pool.map(lambda text: translated(alone, text), TEXTS)]
        [worker] = launched.workers(1)
        threading.Timer(0.5, worker.kill).start()
        assert [*pool.map(lambda text: translated(launched.url, text), TEXTS)] == expected
        soon(lambda: not worker.is_running())
    assert "cpu#2 takes no prompts any more rank=0" in launched.log.read_text()
    assert "the model's process ended (signal 9) rank=1" in launched.log.read_text()
    soon(lambda: launched.workers(1) not in ([], [worker]))


@pytest.mark.timeout(60)
def test_who_stops_the_launcher_stops_all_of_it(launched: Launched) -> None:
    family = launched.launcher.children(recursive=True)
    assert len(family) >= 3
    launched.launcher.terminate()
    assert psutil.wait_procs([*family, launched.launcher], timeout=40)[1] == []
    log = launched.log.read_text()
    assert "stopped rank=0" in log
    assert str(ROOT / "engine") not in log.partition("stopped rank=0")[2]  # of tracebacks, the launcher's own is all


def test_the_config_file_is_one_of_accelerates() -> None:
    loaded = load_config_from_file(str(CONFIG))
    assert (loaded.num_machines, loaded.num_processes, loaded.use_cpu) == (1, "gpu", False)
