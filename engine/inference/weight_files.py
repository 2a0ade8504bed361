"""The files of a checkpoint: written a tensor at a time, and put in place whole or not at all. Knows no model.

They are written into `.writing` inside the checkpoint's folder. From the moment that is renamed to `.written`, they are
the checkpoint: our readers look there first (`place`, `in_shards`). Then each file is moved to where everybody looks,
after the old config.json has gone and before the new one comes: whoever knows nothing of `.written` finds the old
checkpoint, or none, or the new one, never a mix. Whatever else lies in the folder stays. One writes there at a time.
"""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor

from engine.errors import ConfigError
from engine.files import sync_names, why, write_whole

CONFIG = "config.json"
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
WRITING, WRITTEN, LOCK = ".writing", ".written", ".writing.lock"
WHOLE_BYTES = 5_000_000_000  # the hub's own bound of one file
_RESUMED = "resumed.json"  # in `WRITING`: what would go on from there
_OURS = re.compile(r"config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
_DTYPES = {  # as safetensors calls them
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNCHANGED = "What was there before is unchanged."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """Tensors that are made together."""

    forms: Mapping[str, Tensor]  # shape and dtype by name, on the meta device
    make: Callable[[], Mapping[str, Tensor]]  # the same with values, on any device


@dataclass(frozen=True, slots=True)
class _File:
    """One safetensors file, laid out before anything is written."""

    head: bytes
    starts: Mapping[str, int]  # where each tensor's bytes go
    size: int


def place(folder: Path, name: str) -> Path:
    """Where a file of a checkpoint is to be read, though its writing may have been cut short."""
    passing = folder / WRITTEN / name
    return passing if passing.exists() else folder / name


def in_shards(folder: Path) -> bool:
    """Where a whole file and an index are both there, the whole file counts, as for transformers."""
    for there in (folder / WRITTEN, folder):
        if (there / WHOLE).exists() or (there / INDEX).exists():
            return not (there / WHOLE).exists()
    return False


def write(
    pieces: Sequence[Piece],
    config: Mapping[str, Any],
    folder: Path,
    shard_bytes: int = WHOLE_BYTES,
    beside: Iterable[Path] = (),
    resumed: Mapping[str, Any] | None = None,
    told: Callable[[int], object] = lambda _: None,
) -> None:
    """`config.json` and `model.safetensors`, or several with an index above `shard_bytes`; copies of the files `beside`
    come along, each whole. No more than one piece is in memory at a time. `told` learns of bytes as they are written.

    With `resumed`, which says what is written from what, shards that an equal writing finished before it was killed are
    kept. Raises `ConfigError` where the disk has no room or refuses, or another writes there: then what was in the
    folder is there as before.
    """
    forms = {name: form for piece in pieces for name, form in piece.forms.items()}
    files, file_of, index = _split(forms, shard_bytes)
    stage = folder / WRITING
    try:
        with alone(folder), _removed_if_failed(stage, resumed is not None):
            _finish(folder)
            kept = _kept(stage, files, resumed)
            _check_room(folder, sum(file.size for name, file in files.items() if name not in kept))
            _write_files(stage, pieces, files, file_of, kept, told)
            if index:
                write_whole(stage / INDEX, _json(index))
            for path in beside:
                write_whole(stage / path.name, path.read_bytes())
            write_whole(stage / CONFIG, _json(config))
            stage.rename(folder / WRITTEN)
            sync_names(folder)
            _finish(folder)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ConfigError(
                f"{str(folder)!r} takes no file as large as {_mb(max(file.size for file in files.values()))} "
                f"({why(error)}); write smaller ones (--shard-mb). {_UNCHANGED}"
            ) from error
        if error.errno in _NO_ROOM:
            raise _no_room(folder, sum(file.size for file in files.values())) from error
        raise ConfigError(f"{str(folder)!r} cannot be written ({why(error)}); name another folder.") from error


@contextmanager
def alone(folder: Path, beside: bool = False) -> Iterator[None]:
    """Two that write into one folder would remove each other's files. What a killed one locked is free again. `folder`
    is made, and if nothing comes of it, it goes again; `beside`: the one around it, for a folder that is replaced.

    Raises `ConfigError` where another writes there, and `OSError`.
    """
    file = folder.with_name(f".{folder.name}{LOCK}") if beside else folder / LOCK
    lock = FileLock(file)
    made = [each for each in file.parents if not each.exists()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ConfigError(
                f"Another run is writing into {str(folder)!r}; wait until it is done, or name another folder."
            ) from None
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file, but this one by itself once it is released
                file.unlink()
            lock.release()
    except BaseException:
        with suppress(OSError):  # what has something in it stays
            for each in made:
                each.rmdir()
        raise


@contextmanager
def _removed_if_failed(stage: Path, resumable: bool) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not (resumable and isinstance(error, KeyboardInterrupt)):
            shutil.rmtree(stage, ignore_errors=True)  # a full disk gets its room back
        raise


def _split(
    forms: Mapping[str, Tensor], shard_bytes: int
) -> tuple[dict[str, _File], dict[str, str], dict[str, Any] | None]:
    """(the files by name, the file of each tensor, the index where there are several)."""
    split = split_state_dict_into_shards_factory(
        dict(forms),
        get_storage_size=lambda form: form.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    files = {
        file: _laid_out({name: forms[name] for name in names}) for file, names in split.filename_to_tensors.items()
    }
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename} if split.is_sharded else None
    return files, split.tensor_to_filename, index


def _laid_out(forms: Mapping[str, Tensor]) -> _File:
    """The widest values first, so that each stands at a multiple of its own size."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, form in sorted(forms.items(), key=lambda item: -item[1].itemsize):
        offsets = [end, end + form.nbytes]
        described[name] = {"dtype": _DTYPES[form.dtype], "shape": list(form.shape), "data_offsets": offsets}
        end += form.nbytes
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return _File(head, {name: len(head) + described[name]["data_offsets"][0] for name in forms}, len(head) + end)


def _kept(stage: Path, files: Mapping[str, _File], resumed: Mapping[str, Any] | None) -> set[str]:
    """Makes `stage`, with what can be kept of it: files that are whole, of an equal writing."""
    said = stage / _RESUMED
    if stage.exists():
        if resumed is not None and said.exists() and said.read_bytes() == _json(resumed):
            whole = {name for name, file in files.items() if _size(stage / name) == file.size}
            log.warning("%d of %d files in %s were finished before and are kept", len(whole), len(files), stage)
            return whole
        log.warning("what an earlier writing left in %s is of no use to this one and is removed", stage)
        shutil.rmtree(stage)
    stage.mkdir()
    if resumed is not None:
        write_whole(said, _json(resumed))
    return set()


def _write_files(
    stage: Path,
    pieces: Sequence[Piece],
    files: Mapping[str, _File],
    file_of: Mapping[str, str],
    kept: Collection[str],
    told: Callable[[int], object],
) -> None:
    """A file has its own name once it is whole and on the disk."""
    left = {name: len(file.starts) for name, file in files.items()}
    opened: dict[str, BinaryIO] = {}
    with ExitStack() as closing:
        for piece in pieces:
            wanted = [name for name in piece.forms if file_of[name] not in kept]
            made = piece.make() if wanted else {}
            for name, form in piece.forms.items():
                if name in wanted:
                    assert (made[name].shape, made[name].dtype) == (form.shape, form.dtype), name
                    file = file_of[name]
                    if file not in opened:
                        opened[file] = closing.enter_context((stage / f"{file}.part").open("wb"))
                        opened[file].write(files[file].head)
                    opened[file].seek(files[file].starts[name])
                    opened[file].write(_bytes(made[name]))
                    left[file] -= 1
                    if not left[file]:
                        _end(opened[file], stage / file)
                told(form.nbytes)
    sync_names(stage)


def _end(file: BinaryIO, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    Path(file.name).replace(path)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _finish(folder: Path) -> None:
    """Moves what is in `WRITTEN` to where everybody looks, from wherever that was cut short."""
    written = folder / WRITTEN
    if (written / CONFIG).exists():
        kept = {WHOLE}
        if in_shards(folder):
            index = json.loads(place(folder, INDEX).read_text(encoding="utf-8"))
            kept = {INDEX, *index["weight_map"].values()}
        (folder / CONFIG).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in kept:
                path.unlink()
        for path in written.iterdir():
            if path.name not in (CONFIG, _RESUMED):
                path.replace(folder / path.name)
        sync_names(folder)
        (written / CONFIG).replace(folder / CONFIG)
        sync_names(folder)
    shutil.rmtree(written, ignore_errors=True)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")


def _check_room(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise _no_room(folder, needed)


def _no_room(folder: Path, needed: int) -> ConfigError:
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    return ConfigError(
        f"The weights for {str(folder)!r} take {_mb(needed)} and {_mb(free)} are free there; make room, or name a "
        f"folder on another disk. {_UNCHANGED}"
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
