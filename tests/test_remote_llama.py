"""llama.cpp's own server as a backend, and two of them as one."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.backends import late as late_module
from engine.backends import remote as remote_module
from engine.backends.pool import Pool
from engine.backends.remote import RemoteBackend
from engine.config import Config
from engine.errors import BackendError
from engine.progress import Progress
from engine.types import Sampling, TokenChunk
from tests import test_backends
from tests.conftest import soon
from tests.llama import CONTEXT_TOKENS, write_gguf
from tests.streams import answer, ask, text_of
from tests.test_backends import SLOTS, TEXTS

# What every backend promises
test_it_says_what_it_serves = test_backends.test_it_says_what_it_serves
test_the_last_chunk_alone_has_a_finish = test_backends.test_the_last_chunk_alone_has_a_finish_and_tokens_are_counted
test_tokens_are_counted_from_any_thread = test_backends.test_tokens_of_a_text_are_counted_from_any_thread
test_each_stream_gets_its_own = test_backends.test_more_streams_than_slots_each_get_their_own_answer
test_closing_a_stream_frees_its_slot = test_backends.test_closing_a_stream_frees_its_slot
test_memory_is_told_by_use = test_backends.test_memory_is_told_by_use


class Llama:
    """The server in a process, which can be killed and started again where it was."""

    def __init__(self, file: Path) -> None:
        self._file, self._port = file, "0"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.llama", str(self._file), str(SLOTS), self._port]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        self._port = self.url.rpartition(":")[2]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def file(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write_gguf(tiny_checkpoint, target := tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    return target


@pytest.fixture(scope="module")
def servers(file: Path) -> Iterator[list[Llama]]:
    both = [Llama(file), Llama(file)]
    yield both
    for server in both:
        server.kill()


@pytest.fixture(params=["turns", "ids"])
def backend(
    request: pytest.FixtureRequest, servers: list[Llama], tiny_checkpoint: Path, opened: Callable[..., RemoteBackend]
) -> RemoteBackend:
    model = str(tiny_checkpoint) if request.param == "ids" else "embedded"
    backend = opened(servers[0].url, model=model)
    assert request.param in backend.info.plan
    return backend


def test_slots_and_context_are_the_servers(backend: RemoteBackend) -> None:
    assert (backend.slots, backend.info.max_context_tokens) == (SLOTS, CONTEXT_TOKENS)


def test_a_prompt_of_ids_is_the_chats_turn(
    servers: list[Llama], tiny_checkpoint: Path, opened: Callable[..., RemoteBackend]
) -> None:
    backends = [opened(servers[0].url), opened(servers[0].url, model=str(tiny_checkpoint))]
    cold = Sampling(temperature=0.0, repetition_penalty=1.05)
    for text in TEXTS[:3]:
        turn, ids = (text_of(asyncio.run(answer(backend, ask(text, 12, cold)))) for backend in backends)
        assert turn == ids != ""


def test_one_of_two_is_killed_and_only_what_it_had_begun_is_lost(
    servers: list[Llama], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_module, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(remote_module, "DOUBT_SECONDS", 0.05)

    def load(url: str) -> Callable[[Progress], RemoteBackend]:
        return lambda progress: RemoteBackend.load(Config(remote_url=(url,)), progress)

    pool = Pool.load([(server.url, load(server.url)) for server in servers], Progress())
    assert pool.slots == 2 * SLOTS

    async def under_load() -> list[list[TokenChunk] | BaseException]:
        asked = [asyncio.create_task(answer(pool, ask(f"{number}. {TEXTS[0]}", 30))) for number in range(8 * SLOTS)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(servers[1].kill)
        return await asyncio.gather(*asked, return_exceptions=True)

    lost = [each for each in asyncio.run(under_load()) if isinstance(each, BaseException)]
    assert len(lost) <= SLOTS
    assert {type(each) for each in lost} <= {BackendError}
    soon(lambda: [replica.state for replica in pool.replicas()] == ["ready", "loading"])
    assert text_of(asyncio.run(answer(pool, ask(TEXTS[1]))))
    servers[1].start()
    soon(lambda: [replica.state for replica in pool.replicas()] == ["ready", "ready"], seconds=20)
    asyncio.run(pool.close())
