"""One model over several cards that each hold a share of every layer: a process a card, all of which do the same steps
at once. This side starts them, tells them what to do and is told what came of it; it opens no card itself, so that
whatever happens there can be ended and begun anew. Knows no requests.
"""

import logging
import pickle
import secrets
import subprocess
import sys
import tempfile
import threading
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, Self

import torch

from engine import child, hardware, inventory
from engine.config import Config
from engine.errors import BackendError, ConfigError, StartupError
from engine.footprint import LoadPlan
from engine.inference.checkpoint import model_config, read_config
from engine.inference.collective import Sums
from engine.inference.cuda_runner import LONG_FROM
from engine.inference.kv_cache import Table
from engine.inference.loader import Described, describe
from engine.inference.rank_messages import Advanced, Failed, Ready, Start, packed
from engine.inference.runner import Chunk
from engine.inference.sharding import Share
from engine.progress import Progress, Step, Stopped
from engine.shape import ModelShape
from engine.types import Sampling

BEAT_SECONDS = 0.5
# Ranks are given up that say nothing for so long, while they load or with a step before them. A step of a card takes a
# second at the most.
LOADING_SILENT_SECONDS = 300.0
SILENT_SECONDS = 20.0
CPU_SILENT_SECONDS = 300.0
MEETING_SECONDS = 1_800.0  # in the libraries' own words; we are sooner
KILL_SECONDS = 5.0
# Of a rank, where the user has not set them: nobody but the others is talked to, no thread of torch's ends the process,
# and NVLink's multicast stays off, which saves nothing for a few kB.
ENVIRONMENT = {
    **({"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}

_AGAIN = "all are started again, try again in a few seconds."

log = logging.getLogger(__name__)


def planned(config: Config, folder: Path) -> tuple[Described, LoadPlan]:
    """Of the model in a folder, on the cards of `config.devices` joined by +: all but its weights, and what each card
    is to hold. Raises `ConfigError`, `ModelNotFound`, `UnsupportedModel`."""
    read = read_config(folder)
    shape = ModelShape.read(read, folder)
    Share.of(0, len(config.devices.split("+")), model_config(read), read)
    plan = hardware.plan_shares(config, shape, inventory.survey_shares(config.devices))
    if not torch.distributed.is_nccl_available():
        raise ConfigError("--split tensor needs NCCL, which this build of torch lacks; use --split layers.")
    widened = plan.weights == plan.dtype and shape.quantized_parameters
    shown = f"{shape.stored}, widened" if widened else plan.weights
    return describe(config.model, folder, read, shown, config.devices), plan


@dataclass(frozen=True, slots=True)
class _Process:
    """A rank, seen from here."""

    rank: int
    device: str
    process: subprocess.Popen[bytes]
    outgoing: IO[bytes]
    incoming: IO[bytes]


class ParallelRunner:
    """A `Runner`. `ended` has a result once its processes are gone, for whatever reason but `close`; all steps then
    raise `BackendError`."""

    device = "processes"  # none of this process's

    def __init__(
        self, processes: Sequence[_Process], plan: LoadPlan, meeting: tempfile.TemporaryDirectory[str]
    ) -> None:
        """Of processes that have been started; `load` waits for them."""
        self.slots, self.pages = plan.slots, plan.pages
        self.ended: Future[BackendError] = Future()
        self._processes, self._meeting = processes, meeting
        self._said: SimpleQueue[tuple[int, Advanced | Ready | Failed | None]] = SimpleQueue()  # while they load
        self._tokens: SimpleQueue[list[int] | None] = SimpleQueue()  # None: there come no more
        self._ready: list[Ready] = []  # by rank
        self._silent_seconds = CPU_SILENT_SECONDS if plan.device == "cpu" else SILENT_SECONDS
        self._launched = self._told = self._read = 0  # steps: sent, answered, and read here
        self._silent_beats = 0
        self._closed = threading.Event()
        self._lock = threading.RLock()  # of the end, which comes once, and which others wait for
        for process in processes:
            threading.Thread(target=self._listen, args=(process,), name="rank-listening", daemon=True).start()
        threading.Thread(target=self._watch, name="rank-watching", daemon=True).start()

    @classmethod
    def load(
        cls,
        folder: Path,
        devices: Sequence[str],
        plan: LoadPlan,
        config: Config,
        progress: Progress | None = None,
        sums: Sums = "fused",
    ) -> Self:
        """`plan`: of each of the devices. Raises what loading a model raises."""
        # a file that only we can reach, and not a port that anybody on this machine could
        meeting = tempfile.TemporaryDirectory(prefix="yiwen-", ignore_cleanup_errors=True)
        start = Start(
            rank=0,
            devices=tuple(devices),
            meeting=str(Path(meeting.name) / "meeting"),
            folder=folder.resolve(),
            plan=plan,
            deterministic=config.deterministic,
            sums=sums,
            meeting_seconds=MEETING_SECONDS,
            ceiling_gb=None if plan.device == "cpu" else config.max_vram_gb,
            log_level=config.log_level,
            log_format=config.log_format,
        )
        processes = [_started(rank, device) for rank, device in enumerate(devices)]
        runner = cls(processes, plan, meeting)
        try:
            for process in processes:
                runner._send_to(process, pickle.dumps(replace(start, rank=process.rank)))
            runner._wait_for(progress or Progress())
        except BaseException:
            runner.close()
            raise
        return runner

    @property
    def ahead(self) -> bool:
        return self._ready[0].ahead

    @property
    def kernel(self) -> str:
        return self._ready[0].kernel

    @property
    def prefill_tokens(self) -> int:
        return self._ready[0].prefill_tokens

    def beside(self, rows: int, before: int) -> int:
        return self._ready[0].beside[rows][before >= LONG_FROM]

    def memory(self) -> dict[str, int]:
        """Of all together, and of each card."""
        summed: dict[str, int] = {}
        for process, ready in zip(self._processes, self._ready, strict=True):
            for use, size in ready.memory.items():
                summed[use] = summed.get(use, 0) + size
                summed[f"{process.device}/{use}"] = size
        return summed

    def begin(self, slot: int, sampling: Sampling, ids: Sequence[int], made: int) -> None:
        if sampling.seed is None:  # each rank would draw its own
            sampling = replace(sampling, seed=secrets.randbits(64))
        self._send((slot, sampling, array("i", ids), made))

    def step(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> "_Launched":
        if self._launched == self._told:
            self._silent_beats = 0
        self._launched += 1
        self._send(packed(chunks, slots, tables))
        return _Launched(self, self._launched)

    def read(self, step: int) -> list[int]:
        """The tokens of the step of that number; waits for them. Those of steps before it, which nobody wanted to read,
        are dropped."""
        tokens: list[int] = []
        while self._read < step:
            told = self._tokens.get()
            if told is None:
                self._tokens.put(None)  # for who comes after
                raise self._gone()
            tokens, self._read = told, self._read + 1
        return tokens

    def close(self) -> None:
        self._end(None)

    # ------------------------------------------------------------------------------------------------------- processes

    def _gone(self) -> BackendError:
        """Anew: who raises it adds the frames it passes."""
        return BackendError(str(self.ended.result()) if self.ended.done() else "The model has been shut down.")

    def _send(self, message: object) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        for process in self._processes:
            self._send_to(process, data)

    def _send_to(self, process: _Process, data: bytes) -> None:
        """Who does not read is ended by `_watch`, and then this ends too."""
        try:
            process.outgoing.write(data)
            process.outgoing.flush()
        except (OSError, ValueError) as error:  # its end is gone, or ours is closed
            self._fail(process)
            raise self._gone() from error

    def _wait_for(self, progress: Progress) -> None:
        """Until all have loaded their share. The slowest says how far they are."""
        steps: tuple[Step, Step] = ("weights", "prepare")
        done = {process.rank: 0.0 for process in self._processes}  # of the two together
        ready: dict[int, Ready] = {}
        while len(ready) < len(done):
            try:
                rank, said = self._said.get(timeout=BEAT_SECONDS)
            except Empty:
                if progress.stopped:
                    raise Stopped from None
                continue
            match said:
                case Advanced(step, share):
                    done[rank] = steps.index(step) + min(share, 0.999)
                case Ready():
                    ready[rank], done[rank] = said, 1.999
                case Failed(error):
                    raise error
                case None:
                    raise StartupError(str(self._gone()))
            place, share = divmod(min(done.values()), 1)
            progress.report(steps[int(place)], share)
        self._ready = [ready[rank] for rank in sorted(ready)]

    def _listen(self, process: _Process) -> None:
        """Until the process has ended."""
        with suppress(EOFError, OSError, ValueError, pickle.UnpicklingError), process.incoming:
            while True:
                said: Any = pickle.load(process.incoming)
                self._silent_beats = 0
                if isinstance(said, list):
                    self._told += 1
                    self._tokens.put(said)
                elif self._ready and isinstance(said, Failed):
                    self._closed.wait(BEAT_SECONDS)  # for it may have failed because another has ended, which says more
                    return self._end(BackendError(str(said.error)))
                else:
                    self._said.put((process.rank, said))
        self._fail(process)

    def _watch(self) -> None:
        """In beats and not by the clock: who was stopped together with the ranks, as by Ctrl-Z, finds them alive."""
        while not self._closed.wait(BEAT_SECONDS):
            busy = not self._ready or self._launched > self._told
            self._silent_beats = self._silent_beats + 1 if busy else 0
            most = self._silent_seconds if self._ready else LOADING_SILENT_SECONDS
            if self._silent_beats * BEAT_SECONDS > most:
                return self._end(BackendError(f"The processes of the model did nothing for {most:.0f} s; {_AGAIN}"))

    def _fail(self, process: _Process) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.process.wait(BEAT_SECONDS)
        status = process.process.returncode
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        count = len(self._processes)
        self._end(
            BackendError(
                f"The process of {process.device}, one of {count} that share the model, ended ({how}); {_AGAIN}"
            )
        )

    def _end(self, why: BackendError | None) -> None:
        """Of all of them, since none can go on alone; and of whoever waits for them. Without a reason it was asked
        for."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            for process in self._processes:
                process.process.kill()
            for process in self._processes:
                with suppress(subprocess.TimeoutExpired):
                    process.process.wait(KILL_SECONDS)
                with suppress(OSError):  # what was written and never read
                    process.outgoing.close()
            self._meeting.cleanup()
            if why:
                log.error("%s", why)
                self.ended.set_result(why)  # before its readers wake, who would ask again
            self._tokens.put(None)
            self._said.put((0, None))


@dataclass(frozen=True, slots=True)
class _Launched:
    """The tokens of a step, which are read in the order of the steps."""

    runner: ParallelRunner
    step: int

    def tokens(self) -> list[int]:
        return self.runner.read(self.step)


def _started(rank: int, device: str) -> _Process:
    """Raises `StartupError`."""
    process = child.start("engine.inference.rank", unless_set=ENVIRONMENT)
    assert process.stdin
    assert process.stdout
    return _Process(rank, device, process, process.stdin, process.stdout)
