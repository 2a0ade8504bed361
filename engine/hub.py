"""Model hubs: what they hold, and how it comes here. Files come side by side, go on where they were cut off, and are
checked against the hub's own checksums; Hugging Face's cache is filled as its library fills it, which finds them there.

That library (1.33) begins a file anew in each process, and checks no checksum of what comes by plain HTTPS: over a slow
line 16 GB would never come to an end. Knows no tensor, and asks nobody: see `licences`.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, snapshot_download
from huggingface_hub.errors import DryRunError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import tqdm

from engine.errors import ConfigError, ModelNotFound
from engine.files import why
from engine.known_models import licence_to_accept
from engine.licences import is_accepted, unaccepted
from engine.progress import Advance, untold

FILES = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.md"]  # that are fetched of a model
SIDE_BY_SIDE = 4
CHUNK_BYTES = 1 << 17  # what is lost at the most where a line breaks
TRIES = 6  # of a file, of which none brought a byte
PAUSE_SECONDS = 1.0  # before the second of them; twice as long before each further one
LOGGED_SHARE = 0.1  # of a download is told in the log, where no bar can be drawn
_PART = ".part"
_FAULTS = (httpx.HTTPError, HFValidationError, LocalEntryNotFoundError, OSError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str  # its path in the repository
    size: int
    digest: str  # in hexadecimal
    method: Literal["sha256", "git-sha1"]  # the latter of small files on Hugging Face: over a header, then the bytes
    url: str
    headers: dict[str, str] = field(default_factory=dict)


Wanted = Sequence[tuple[RemoteFile, Path]]


# ---------------------------------------------------------------------------------------------------- Hugging Face


def cache_folder(name: str) -> Path:
    """Of a model in Hugging Face's cache, whether it is there or not."""
    return Path(constants.HF_HUB_CACHE).expanduser() / "--".join(["models", *name.split("/")])


def cached(name: str) -> Path | None:
    """The folder of a hub id, if all of it is here. No network is asked."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True, tqdm_class=_Undrawn))
    except _FAULTS:
        return None
    return folder if is_whole(folder) else None


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a model with all the files of its weights."""
    if not (folder / "config.json").is_file():
        return False
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        names = {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = {"model.safetensors"}
    return all((folder / name).is_file() for name in names)


def folder_of(
    name: str, told: Advance = untold, expect: Callable[[int], None] = lambda _: None, check: bool = False
) -> Path:
    """Of a hub id, in the cache, which is filled with what is missing there. `told` learns which share of that is here,
    `expect` before how many bytes it is. `check`: what was there before is held against its checksums too.

    Raises `ModelNotFound`, and `ConfigError` for a disk without room or a licence that was not accepted.
    """
    try:
        wanted = _wanted(name, check)
        licence = licence_to_accept(name)
        if wanted and licence and not is_accepted(cache_folder(name)) and not cached(name):
            raise ConfigError(unaccepted(name, licence))
        expect(sum(file.size for file, place in wanted if not place.is_file()))
        fetch(name, wanted, cache_folder(name), told, check)
        return Path(snapshot_download(name, allow_patterns=FILES, tqdm_class=_Undrawn))
    except _FAULTS as error:
        raise ModelNotFound(
            f"There is no folder {name!r}, and the model hub did not give a model of that name "
            f"({type(error).__name__}); check the name, the network, or HF_ENDPOINT."
        ) from error


def _wanted(name: str, all_files: bool) -> Wanted:
    """Those that are not in the cache yet, or all; none where the hub is out of reach."""
    try:
        seen = snapshot_download(name, allow_patterns=FILES, dry_run=True, tqdm_class=_Undrawn)
    except DryRunError:  # what is in the cache may be enough; if not, it is said when that is looked at
        return []
    chosen = [each for each in seen if each.will_download or all_files]
    if not chosen:
        return []
    files = {file.name: file for file in hub_files(name, chosen[0].commit_hash)}
    blobs = cache_folder(name) / "blobs"
    # what is there may be a link to a blob, or where the system has none the file itself
    places = [Path(each.local_path).resolve() if not each.will_download else None for each in chosen]
    return [
        (files[each.filename], place if place and place.is_file() else blobs / files[each.filename].digest)
        for each, place in zip(chosen, places, strict=True)
    ]


def hub_files(name: str, revision: str | None = None) -> list[RemoteFile]:
    """What Hugging Face, or the mirror that HF_ENDPOINT names, has of a model."""
    headers = build_hf_headers()
    found = []
    for entry in HfApi().list_repo_tree(name, recursive=True, revision=revision):
        if isinstance(entry, RepoFile) and any(fnmatch(entry.path, pattern) for pattern in FILES):
            url = hf_hub_url(name, entry.path, revision=revision)
            if entry.lfs:
                found.append(RemoteFile(entry.path, entry.size, entry.lfs.sha256, "sha256", url, headers))
            else:
                found.append(RemoteFile(entry.path, entry.size, entry.blob_id, "git-sha1", url, headers))
    return found


def remove(folder: Path) -> int:
    """All of a model, from the cache or elsewhere; how many bytes that were."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    shutil.rmtree(folder)
    return size


class _Undrawn(tqdm):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"disable": True})  # type: ignore[no-untyped-call]


# ------------------------------------------------------------------------------------------------------ ModelScope


def modelscope_files(name: str) -> list[RemoteFile]:
    """What ModelScope has of a model. MODELSCOPE_DOMAIN names another, as for its own client.

    Raises `ModelNotFound`.
    """
    domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    host = domain if "://" in domain else f"https://{domain}"
    try:
        answer = get_session().get(
            f"{host}/api/v1/models/{name}/repo/files",
            params={"Revision": "master", "Recursive": "true"},
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
        answer.raise_for_status()
        return [
            RemoteFile(
                entry["Path"],
                entry["Size"],
                entry["Sha256"],
                "sha256",
                f"{host}/models/{name}/resolve/master/{quote(entry['Path'])}",
            )
            for entry in answer.json()["Data"]["Files"]
            if entry["Type"] == "blob" and any(fnmatch(entry["Path"], pattern) for pattern in FILES)
        ]
    except (*_FAULTS, ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(
            f"ModelScope did not give a model {name!r} ({type(error).__name__}); check the network, or "
            "MODELSCOPE_DOMAIN."
        ) from error


# ----------------------------------------------------------------------------------------------------- any of them


def in_folder(files: Sequence[RemoteFile], folder: Path) -> Wanted:
    """Those of the repository's own folder, each under its name."""
    return [(file, folder / file.name) for file in files if Path(file.name).name == file.name]


def fetch(name: str, wanted: Wanted, folder: Path, told: Advance = untold, check: bool = False) -> None:
    """All that is not in its place; with `check` also what has another checksum there. `folder`: on the disk that it
    goes to, where only one process at a time fetches.

    Raises `ModelNotFound` where it breaks off or comes damaged, `ConfigError` where there is no room for it.
    """
    if not wanted or (not check and all(place.is_file() for _, place in wanted)):
        return
    with _alone(folder, told):
        missing = [each for each in wanted if not _is_there(name, *each, check)]
        _check_room(name, missing, folder)
        download = _Download(name, missing, told)
        try:
            download.run()
        except (httpx.HTTPError, OSError) as error:
            raise ModelNotFound(
                f"The download of {name} broke off ({why(error)}) with {_gb(download.bytes)} of "
                f"{_gb(download.size)} GB here; start again, and it goes on from there."
            ) from error


def _is_there(name: str, file: RemoteFile, place: Path, check: bool) -> bool:
    if not place.is_file():
        return False
    if check and not _is_right(file, place):
        log.warning("%s of %s is damaged here; it is fetched again", file.name, name)
        return False
    return True


@contextmanager
def _alone(folder: Path, told: Advance) -> Iterator[None]:
    """Others wait: of several devices, each of which has a process, one fetches the model."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".download.lock", thread_local=False)
        while True:
            try:
                lock.acquire(timeout=1)
                break
            except Timeout:
                told(0.0)
    except OSError as error:
        raise ConfigError(
            f"Nothing can be written to {str(folder)!r} ({error.strerror}); give another folder, or set HF_HOME."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_room(name: str, missing: Wanted, folder: Path) -> None:
    needed = sum(file.size - min(file.size, _size(_part(place))) for file, place in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{name} needs {_gb(needed)} GB more in {str(folder)!r}, and {_gb(free)} GB are free there; make room, or "
            "choose a larger disk (HF_HOME)."
        )


class _Ended(Exception):
    """Another file has failed, or nobody waits any more."""


class _Download:
    """Some files, under way at once. Any of them that fails ends all."""

    def __init__(self, name: str, wanted: Wanted, told: Advance) -> None:
        self.size = sum(file.size for file, _ in wanted)
        self.bytes = 0
        self._name, self._wanted, self._told = name, wanted, told
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._logged = 0.0

    def run(self) -> None:
        # `disable` None: no bar where there is no terminal
        with tqdm(total=self.size, unit="B", unit_scale=True, desc=self._name, disable=None) as bar:  # type: ignore[no-untyped-call]
            self._bar = bar
            pool = ThreadPoolExecutor(SIDE_BY_SIDE)
            try:
                done, _ = wait([pool.submit(self._file, *each) for each in self._wanted], return_when=FIRST_EXCEPTION)
                for each in done:
                    each.result()
            finally:
                self._ended.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _file(self, file: RemoteFile, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = _part(place)
        self._moved(_size(part))
        for _ in range(2):
            self._complete(file, part)
            if _is_right(file, part):
                part.replace(place)
                return
            log.warning("%s of %s came damaged", file.name, self._name)
            self._moved(-_size(part))
            part.unlink()
        raise ModelNotFound(
            f"{file.name} of {self._name} came damaged twice: it has not the checksum that the hub gives for it; try "
            "again later, or another hub."
        )

    def _complete(self, file: RemoteFile, part: Path) -> None:
        """Until the whole size is there. Each try that brings something is followed by another."""
        part.touch()
        tries = 0
        while (before := _size(part)) < file.size:
            fault: httpx.HTTPError | None = None
            try:
                self._append(file, part, before)
            except httpx.TransportError as error:
                fault = error
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in (408, 429) and error.response.status_code < 500:
                    raise
                fault = error
            if _size(part) > before:
                tries = 0
                continue
            tries += 1
            if tries >= TRIES:
                raise fault or httpx.RemoteProtocolError(f"{file.name} ended at {before} of {file.size} bytes")
            self._ended.wait(PAUSE_SECONDS * 2 ** (tries - 1))

    def _append(self, file: RemoteFile, part: Path, have: int) -> None:
        headers = {**file.headers, "Accept-Encoding": "identity"}  # so that bytes here are bytes there
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream(
            "GET", file.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as answer:
            answer.raise_for_status()
            if have and answer.status_code != 206:  # whoever knows no ranges sends all
                self._moved(-have)
                have = 0
            with part.open("ab" if have else "wb") as out:
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    out.write(chunk)
                    self._moved(len(chunk))

    def _moved(self, count: int) -> None:
        if self._ended.is_set():
            raise _Ended
        with self._lock:
            self.bytes += count
            self._bar.update(count)
            share = self.bytes / self.size if self.size else 1.0
            if self._bar.disable and share >= self._logged + LOGGED_SHARE:
                self._logged = share
                log.info("%s: %.0f%% of %s GB are here", self._name, 100 * share, _gb(self.size))
            self._told(min(1.0, share))


def _is_right(file: RemoteFile, path: Path) -> bool:
    if _size(path) != file.size or not path.is_file():
        return False
    digest = (
        hashlib.sha256() if file.method == "sha256" else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    )
    with path.open("rb") as data:
        while chunk := data.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.digest.lower()


def _part(place: Path) -> Path:
    return place.with_name(place.name + _PART)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f}" if count >= 1e9 else f"{count / 1e9:.3f}"
