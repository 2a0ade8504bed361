"""The processes that `accelerate launch` starts: the first serves, and each of the others hosts a model for it.

They meet at a socket in a folder that only this user may enter, under the port that their launcher has to itself. A
rank that comes there waits until a model is wanted of it, and starts a worker (`backends.worker`) whose standard input
and output are that connection: what is said goes straight between the first rank and the worker. When that has ended
the rank comes again, and when the first rank has gone it ends. Knows no tokens and nothing of what the worker runs.
"""

import argparse
import logging
import os
import select
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from engine.cards import Cards
from engine.config import Config
from engine.errors import ConfigError, StartupError
from engine.progress import Progress

if TYPE_CHECKING:  # it costs half a second, for which nobody waits who is started alone
    from engine.backends.process import ProcessBackend

MEET_SECONDS = 60.0  # in which the others come, at first and again; Python starts within two
HELLO_SECONDS = 5.0  # for one that has come to say which it is
LOOK_SECONDS = 0.5  # between two looks whether somebody still waits, or the launcher still lives
AGAIN_SECONDS = 0.1  # between two tries to find the first
YES = frozenset({"1", "true", "yes", "y", "t", "on"})  # as Accelerate reads its variables

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rank:
    """Of the processes of one launcher, all on this machine."""

    number: int  # the first is 0
    size: int  # how many there are
    port: str  # the launcher's


def rank_of(environ: Mapping[str, str]) -> Rank | None:
    """None: started alone. Raises `ConfigError` where they are on several machines."""
    numbers = [environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    if not all(number.isdecimal() for number in numbers):
        return None
    number, size, here = map(int, numbers)
    if size > here:
        raise ConfigError(
            f"The launcher started {size - here} of {size} processes on other machines, and one Yiwen is one machine; "
            "start one on each, and give one of them the addresses of the others as --remote-url."
        )
    return Rank(number, size, environ.get("MASTER_PORT", "")) if size > 1 else None


def as_launched(config: Config, rank: Rank | None, environ: Mapping[str, str]) -> Config:
    """With the devices that the launcher means, one for each process. Raises `ConfigError`."""
    if config.devices != "auto":
        if rank:
            raise ConfigError(
                f"The launcher gives each process its device, and --devices is {config.devices!r}; leave it out, or "
                f"start python app.py --devices {config.devices} without a launcher."
            )
        return config
    size = rank.size if rank else _asked(environ)
    on_cpu = environ.get("ACCELERATE_USE_CPU", "").lower() in YES
    if size == 1:
        return replace(config, devices="cpu") if on_cpu else config
    cards = 0 if on_cpu else len(Cards(environ).read())
    if cards and size > cards:
        raise ConfigError(
            f"{size} processes are asked for, and there {'is one card' if cards == 1 else f'are {cards} cards'}; ask "
            f"for --num_processes {cards}, or set ACCELERATE_USE_CPU=true to stay off the cards."
        )
    return replace(config, devices=",".join(f"cuda:{number}" if cards else "cpu" for number in range(size)))


def settle(environ: MutableMapping[str, str]) -> None:
    """Under a launcher: to end when it does, since one that is killed tells nobody; and to compute on more than the one
    core that it allows each process, where its user said nothing. Ours divide the cores."""
    if not environ.keys() & {"ACCELERATE_MIXED_PRECISION", "LOCAL_WORLD_SIZE"}:
        return
    if environ.get("OMP_NUM_THREADS") == "1":
        del environ["OMP_NUM_THREADS"]
    threading.Thread(target=_follow, args=(os.getppid(),), name="launcher", daemon=True).start()


def _follow(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _asked(environ: Mapping[str, str]) -> int:
    """How many processes Accelerate was asked for where it starts one alone: without several cards it leaves the others
    to MPI, and tells no more than that there would be some."""
    if not environ.keys() >= {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"}:
        return 1
    import psutil

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--num_processes", "--num-processes", type=int, default=0)
    with suppress(psutil.Error):
        if asked := parser.parse_known_args(psutil.Process(os.getppid()).cmdline())[0].num_processes:
            return int(asked)
    log.warning("the launcher started one process alone; for several on the CPU tell it --num_processes")
    return 1


class _Guest(NamedTuple):
    """A rank that has come, and waits until its model is wanted."""

    connection: socket.socket
    said: IO[bytes]  # what it says, and its worker


class Others:
    """Those that host models, as the first rank sees them."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._guests: dict[int, _Guest] = {}
        self._came = threading.Condition()
        threading.Thread(target=self._welcome, name="ranks", daemon=True).start()

    def load(
        self, number: int, config: Config, progress: Progress, cores: Sequence[int] = (), name: str = ""
    ) -> "ProcessBackend":
        """As `ProcessBackend.load`, in a process of that rank. Raises `StartupError` too where the rank does not come,
        which it does once its last process has ended."""
        from engine.backends.process import Line, ProcessBackend

        connection, said = self._called(number, cores, progress)

        def end(_seconds: float) -> str:
            """The rank does it, as soon as nobody is at this end."""
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            return f"that of rank {number}, which logs how"

        line = Line(said, connection.makefile("wb"), end)
        connection.close()  # as soon as both files are
        return ProcessBackend.over(line, config, progress, name)

    def _called(self, number: int, cores: Sequence[int], progress: Progress) -> _Guest:
        """Waits for it, and tells it to start a worker on these cores."""
        until = time.monotonic() + MEET_SECONDS
        while time.monotonic() < until:
            progress.report("libraries")
            with self._came:
                self._came.wait_for(lambda: number in self._guests, LOOK_SECONDS)
                guest = self._guests.pop(number, None)
            if guest:
                with suppress(OSError):  # it has gone since
                    guest.connection.sendall(b"%s\n" % " ".join(map(str, cores)).encode())
                    return guest
                _leave(guest)
        raise StartupError(
            f"Rank {number} did not come within {MEET_SECONDS:.0f} s; what it logged may say why, or else start the "
            "launcher again."
        )

    def _welcome(self) -> None:
        """Until nobody listens any more."""
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(HELLO_SECONDS)
                guest = _Guest(connection, connection.makefile("rb"))
                try:
                    number = int(guest.said.readline(16))
                    connection.settimeout(None)
                except (OSError, ValueError):
                    _leave(guest)
                    continue
                with self._came:
                    last, self._guests[number] = self._guests.get(number), guest
                    self._came.notify_all()
                if last:
                    _leave(last)
        for guest in self._guests.values():
            _leave(guest)


def _leave(guest: _Guest) -> None:
    guest.said.close()
    guest.connection.close()


@contextmanager
def meeting(rank: Rank | None) -> Iterator[Others | None]:
    """Of the first rank with the others, which end when it does. Raises `StartupError`."""
    if not rank:
        yield None
        return
    place = _place(rank)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            place.unlink(missing_ok=True)  # of one that was killed; its launcher would have the port, if it were there
            listener.bind(str(place))
            listener.listen(rank.size)
        except OSError as error:
            raise StartupError(f"The ranks cannot meet in {place} ({error}); set TMPDIR to another folder.") from error
        try:
            yield Others(listener)
        finally:
            place.unlink(missing_ok=True)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # who waits in `accept` hears of no other end


def host(rank: Rank) -> None:
    """A model for the first rank, and again whenever it has ended, until the first rank has gone. Raises
    `StartupError` where there is none."""
    place = _place(rank)
    until = time.monotonic() + MEET_SECONDS
    while not (connection := _connected(place)):
        if time.monotonic() > until:
            away = f"Rank 0 was not there for {MEET_SECONDS:.0f} s; start the launcher again."
            log.error("%s", away)  # what is wrong with all ranks the first one says
            raise StartupError(away)
        time.sleep(AGAIN_SECONDS)
    for stopping in (signal.SIGINT, signal.SIGTERM):  # they mean all processes, and what is under way is waited for:
        signal.signal(stopping, signal.SIG_IGN)  # the first rank says when it is the end
    while connection:
        with connection:
            how = _work(connection, rank)
        connection = _connected(place)
        if connection and how not in ("", "exit status 0"):  # by itself it ends only when it is let go
            log.warning("the model's process ended (%s)", how)


def _work(connection: socket.socket, rank: Rank) -> str:
    """How the worker ended that was wanted here; empty: none was."""
    from engine.backends.process import END_SECONDS, ended, spawn

    try:
        connection.sendall(b"%d\n" % rank.number)
        with connection.makefile("rb", buffering=0) as file:  # what comes after the line is the worker's
            line = file.readline()
    except OSError:
        line = b""
    if not line:
        return ""
    try:
        here = connection.fileno()
        process = spawn([int(core) for core in line.split()], incoming=here, outgoing=here)
    except StartupError as error:
        return str(error)

    def watch() -> None:
        let_go = select.poll()
        let_go.register(connection, 0)
        let_go.poll()  # until the first rank lets go of it, or we
        ended(process, END_SECONDS)

    watching = threading.Thread(target=watch, name="watching", daemon=True)
    watching.start()
    process.wait()
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    watching.join()
    return ended(process, 0.0)


def _connected(place: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(place))
    except OSError:
        connection.close()
        return None
    return connection


def _place(rank: Rank) -> Path:
    """Where the ranks of one launcher meet. Raises `StartupError` where others could be there too."""
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("Several processes of one launcher need Linux or macOS; use python app.py --devices instead.")
    folder = Path(tempfile.gettempdir()) / f"yiwen-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise StartupError(f"The ranks cannot meet in {folder} ({error}); set TMPDIR to another folder.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StartupError(f"{folder} is open to other users; delete it.")
    return folder / f"ranks-{rank.port}"
