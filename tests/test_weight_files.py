"""A checkpoint is written whole or not at all: killed at any moment, on a full disk, over another one."""

import errno
import json
import logging
import resource
import subprocess
import sys
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import ConfigError, UnsupportedModel
from engine.inference import weight_files
from engine.inference.weight_files import Piece, in_shards, place, write

ROOT = Path(__file__).parents[1]
SHARDS, WHOLE = 30_000, 10**9  # bytes of a file: one for each tensor, and one for all
TENSORS = {f"layer.{index}": torch.full((50, 100), 1.0 + index) for index in range(3)}
# Forks a writer for each of its steps on the disk, which is killed before that step, and reads what it left.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from engine.inference.weight_files import in_shards, place
from tests.test_weight_files import SHARDS, TENSORS, WHOLE, weights_of, written

os.fsync = lambda descriptor: None  # it is for power cuts, and takes most of the time
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def killed_at(step, folder, shard_bytes):
    pid = os.fork()
    if not pid:
        steps = iter(range(1, 200))
        def watch(event, arguments):
            if event in STEPS and str(folder) in str(arguments[0]) and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        written(folder, 2, shard_bytes)
        os._exit(0)
    return os.waitpid(pid, 0)[1] != 0


def left_by(step, folder, before, after):
    written(folder, 1, before)
    (folder / "state").mkdir()
    (folder / "state" / "progress.json").write_text("12")
    left = {"killed": killed_at(step, folder, after), "ours": weights_of(folder, place, in_shards(folder))}
    plain = folder / "model.safetensors.index.json"
    left["others"] = weights_of(folder, Path, plain.exists()) if (folder / "config.json").exists() else None
    written(folder, 3, after)
    left["after"] = weights_of(folder, Path, plain.exists())
    left["state"] = (folder / "state" / "progress.json").read_text()
    left["hidden"] = [path.name for path in folder.glob(".*")]
    left["files"] = len(list(folder.glob("*.safetensors")))
    left["expected"] = 1 if after == WHOLE else len(TENSORS)
    return left


for before, after in ((SHARDS, SHARDS), (SHARDS, WHOLE), (WHOLE, SHARDS)):
    for step in range(1, 200):
        left = left_by(step, Path(sys.argv[1], f"{before}-{after}-{step}"), before, after)
        print(json.dumps(left))
        if not left["killed"]:
            break
"""


def written(folder, factor, shard_bytes, **options):
    pieces = [
        Piece({name: tensor.to("meta")}, lambda name=name, tensor=tensor: {name: tensor * factor})
        for name, tensor in TENSORS.items()
    ]
    write(pieces, {"factor": factor}, folder, shard_bytes, **options)


def weights_of(folder, place, in_shards):
    """All factors that a reader finds in weights and config.json: a mix has two."""
    files = {"model.safetensors"}
    if in_shards:
        files = {*json.loads(place(folder, "model.safetensors.index.json").read_text())["weight_map"].values()}
    tensors = {name: tensor for file in files for name, tensor in load_file(place(folder, file)).items()}
    assert tensors.keys() == TENSORS.keys()
    factors = {float(factor) for name, tensor in tensors.items() for factor in (tensor / TENSORS[name]).unique()}
    return sorted(factors | {json.loads(place(folder, "config.json").read_text())["factor"]})


def factor_of(folder):
    return weights_of(folder, place, in_shards(folder))


def test_whoever_is_killed_while_writing_leaves_the_old_weights_or_the_new_ones(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    left = [json.loads(line) for line in lines]
    assert len([each for each in left if not each["killed"]]) == 3
    assert len(left) > 60
    for each in left:
        assert each["ours"] in ([1], [2])
        assert each["others"] in ([1], [2], None)  # who knows no `.written` may find no checkpoint, and never a mix
        assert (each["after"], each["state"], each["hidden"]) == ([3], "12", [])
        assert each["files"] == each["expected"]


@contextmanager
def largest_file(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("shard_bytes", [SHARDS, WHOLE])
def test_where_the_disk_takes_no_more_the_old_weights_stay(tmp_path, shard_bytes):
    written(tmp_path, 1, shard_bytes)
    before = sorted(path.name for path in tmp_path.iterdir())
    with largest_file(10_000), pytest.raises(ConfigError, match=r"File too large\); write smaller ones"):
        written(tmp_path, 2, WHOLE)
    assert factor_of(tmp_path) == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_weights(tmp_path):
    written(tmp_path, 1, WHOLE)

    def filled():
        raise OSError(errno.ENOSPC, "No space left on device")

    made = torch.zeros(1000)
    pieces = [Piece({"a": made.to("meta")}, lambda: {"a": made}), Piece({"b": made.to("meta")}, filled)]
    with pytest.raises(ConfigError, match=r"take 0\.0 MB and [\d,.]+ MB are free there; make room.* is unchanged\."):
        write(pieces, {}, tmp_path)
    assert factor_of(tmp_path) == [1]
    assert not list(tmp_path.glob(".*"))


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    written(tmp_path / "model", 1, SHARDS)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(weight_files.shutil, "disk_usage", lambda folder: usage(50_000))
    with pytest.raises(ConfigError, match=r"take 0\.1 MB and 0\.1 MB are free"):
        written(tmp_path / "model", 2, SHARDS, told=lambda count: pytest.fail("written"))
    assert factor_of(tmp_path / "model") == [1]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"/file/model' cannot be written \(Not a directory\); name another folder"):
        written(tmp_path / "file" / "model", 1, SHARDS)


def test_where_the_disk_fills_up_files_beside_the_weights_are_as_before_too(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "tokenizer.json").write_text("new")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("old")
    beside = [tmp_path / "made" / "tokenizer.json"]
    with pytest.raises(ConfigError, match="No such file"):
        written(tmp_path / "model", 1, WHOLE, beside=[*beside, tmp_path / "made" / "missing.json"])
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["tokenizer.json"]
    assert (tmp_path / "model" / "tokenizer.json").read_text() == "old"
    written(tmp_path / "model", 1, WHOLE, beside=beside)
    assert (tmp_path / "model" / "tokenizer.json").read_text() == "new"


def test_of_two_that_write_into_one_folder_the_second_is_refused(tmp_path):
    def second(_):
        with pytest.raises(
            ConfigError, match=r"Another run is writing into .*; wait until it is done, or name another"
        ):
            written(tmp_path, 2, SHARDS)

    written(tmp_path, 1, WHOLE, told=second)
    assert factor_of(tmp_path) == [1]
    assert not list(tmp_path.glob(".*"))


def test_where_a_whole_file_and_an_index_are_both_there_the_whole_file_is_read_as_transformers_does(tmp_path):
    written(tmp_path, 1, WHOLE)
    written(tmp_path / "shards", 2, SHARDS)
    for path in (tmp_path / "shards").glob("model*"):
        path.rename(tmp_path / path.name)
    assert factor_of(tmp_path) == [1]


def test_weights_that_cannot_be_made_leave_the_old_ones(tmp_path):
    written(tmp_path, 1, WHOLE)

    def damaged():
        raise UnsupportedModel("NaN")

    with pytest.raises(UnsupportedModel):
        write([Piece({"a": torch.zeros(1, device="meta")}, damaged)], {}, tmp_path)
    assert factor_of(tmp_path) == [1]
    assert not list(tmp_path.glob(".*"))


class Stopping:
    """Is told of bytes, and stops the writing at the third tensor."""

    def __init__(self):
        self.left = 3

    def __call__(self, count):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def stopped(folder, factor=1):
    with pytest.raises(KeyboardInterrupt):
        written(folder, factor, SHARDS, resumed={"from": "here"}, told=Stopping())


def test_files_that_were_whole_when_the_writing_was_stopped_are_kept(tmp_path, caplog):
    stopped(tmp_path)
    assert not (tmp_path / "config.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".writing").glob("*.safetensors")}
    assert len(kept) == 3
    (tmp_path / ".writing" / "model-00001-of-00003.safetensors").write_bytes(b"cut short")
    made = []
    pieces = [
        Piece({name: tensor.to("meta")}, lambda name=name, tensor=tensor: made.append(name) or {name: tensor})
        for name, tensor in TENSORS.items()
    ]
    with caplog.at_level(logging.WARNING):
        write(pieces, {"factor": 1}, tmp_path, SHARDS, resumed={"from": "here"})
    assert made == ["layer.0"]
    assert "2 of 3 files" in caplog.text
    assert factor_of(tmp_path) == [1]
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "config.json"


@pytest.mark.parametrize("resumed", [{"from": "elsewhere"}, None])
def test_what_another_writing_left_is_not_used(tmp_path, caplog, resumed):
    stopped(tmp_path)
    with caplog.at_level(logging.WARNING):
        written(tmp_path, 2, SHARDS, resumed=resumed)
    assert "is of no use to this one and is removed" in caplog.text
    assert factor_of(tmp_path) == [2]


def test_values_of_all_sizes_stand_where_a_reader_takes_them(tmp_path):
    types = (
        torch.int8,
        torch.float32,
        torch.uint8,
        torch.bfloat16,
        torch.int32,
        torch.bool,
        torch.float16,
        torch.int64,
    )
    tensors = {str(dtype): torch.ones(3, 5).to(dtype) for dtype in types} | {"none": torch.zeros(0, 4)}
    tensors["turned"] = torch.arange(6.0).view(2, 3).T
    pieces = [Piece({name: tensor.to("meta")}, lambda each={name: tensor}: each) for name, tensor in tensors.items()]
    write(pieces, {}, tmp_path)
    read = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in read.items()} == {name: each.dtype for name, each in tensors.items()}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
