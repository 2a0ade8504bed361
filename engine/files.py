"""The data folder: files written whole or not at all, in folders no other Yiwen has. Knows not what is in them."""

import errno
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
_NO_SUCH_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of a folder's names: some network shares have none


def why(error: Exception) -> str:
    """What the system says of it, or else its kind: never its own words, which may quote what is in a file."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Whoever reads `path`, also after the power has failed, finds what was there before or all of `data`."""
    passing = path.with_name(f"{path.name}.new")
    try:
        with open(passing, "wb", opener=partial(os.open, mode=mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
    except OSError:  # a full disk gets its room back
        passing.unlink(missing_ok=True)
        raise
    sync_names(path.parent)


@dataclass(frozen=True, slots=True)
class Taken:
    """A folder of one's own, until `leave`. Without a lock it is a passing one, or one that cannot even be made: then
    whatever is written there fails."""

    path: Path
    lock: FileLock | None
    passing: bool = False


def take(folder: Path) -> Taken:
    """`folder`, which is made where it is missing, or a passing one where it cannot be had."""
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(folder / ".lock", thread_local=False)
        lock.acquire(blocking=False)
        return Taken(folder, lock)
    except Timeout:
        reason = "another Yiwen works in it"
    except OSError as error:
        reason = why(error)
    what = f"{folder.name} will not outlive a restart"
    log.warning("%s cannot be used (%s): %s; choose another --data-dir", folder, reason, what)
    try:
        return Taken(Path(tempfile.mkdtemp(prefix="yiwen-")), None, passing=True)
    except OSError as error:
        log.warning("no temporary folder can be had (%s): %s cannot be stored at all", why(error), folder.name)
        return Taken(folder / "none", None)


def leave(taken: Taken) -> None:
    """Of a passing folder nothing is left."""
    if taken.lock:
        taken.lock.release()
    elif taken.passing:
        shutil.rmtree(taken.path, ignore_errors=True)


def sync_names(folder: Path) -> None:
    """A file's new name is on the disk once its folder is."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_SYNC:
            raise
    finally:
        os.close(descriptor)
