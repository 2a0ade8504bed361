"""`python app.py models`, and what stands before a download: its licence, room on the disk, checksums."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import constants

from engine import hub as hubs
from engine import known_models
from engine.backends import select
from engine.backends.echo import EchoBackend
from engine.config import Config
from engine.errors import ConfigError, ModelNotFound, UnsupportedModel
from engine.licences import ACCEPTED
from engine.tools import models
from tests.commands import call, refusal_of, result_of
from tests.conftest import Serve, soon
from tests.hubs import Hub, a_hub, point_to

ROOT = Path(__file__).parents[1]
NAME = "tencent/HY-MT1.5-7B"
FREE = "tencent/Hy-MT2-7B"  # under a licence that nobody is asked for
WEIGHTS = "model.safetensors"
LARGE = os.urandom(3_000_000)
SMALL = b'{"model_type": "hunyuan_v1_dense"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hub")
    (made / "config.json").write_bytes(SMALL)
    (made / WEIGHTS).write_bytes(LARGE)
    (made / "License.txt").write_bytes(b"Whoever reads this may go on.")
    (made / "model.bin").write_bytes(b"of no use here")
    return made


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(hubs, "PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("YIWEN_DATA_DIR", str(tmp_path / "data"))
    with a_hub(folder) as made:
        point_to(made, tmp_path / "cache", monkeypatch)
        yield made


@pytest.fixture
def fetched(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], str]]:
    """What `models download` says of the model, and what it wrote to stderr."""
    return lambda *arguments: result_of(capsys, models, "--json", "download", *arguments)


def sent(hub: Hub, name: str = WEIGHTS) -> list[str]:
    """Which ranges of a file were asked for."""
    return [asked for file, asked in hub.asked if file == name]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answering(word: str, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Somebody at a terminal, and what they see there."""
    seen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(f"{word}\n"))
    monkeypatch.setattr(sys, "stderr", seen)
    return seen


# ----------------------------------------------------------------------------------------------------------- the list


def on_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.tools import plans  # here, since torch costs seconds

    (described,) = (each for each in plans.MACHINES if name in each.name)
    monkeypatch.setattr("engine.inventory.survey", lambda: described.machine)


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    said, _ = result_of(capsys, models, "--json")
    return {each["model"]: each for each in said["models"]}


@pytest.mark.usefixtures("hub")
def test_the_list_says_of_each_model_what_this_machine_makes_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs.folder_of(FREE)
    on_machine("RTX 3070", monkeypatch)
    said = listed(capsys)
    assert said["embedded"]["here"] == "INT4 on the card, 128 at once"
    assert said["tencent/HY-MT1.5-7B-GPTQ-Int4"]["here"] == "INT4 on the card, 8 at once"
    assert re.fullmatch(r"BF16, \d+ of 32 layers away; INT4 fits", said[NAME]["here"])
    assert said["tencent/Hy-MT2-7B-FP8"]["here"] == "Yiwen's engine does not read FP8"
    assert [name for name, each in said.items() if each["folder"]] == ["embedded", FREE]
    assert (said[NAME]["licence"], len(said[NAME]["licence_limits"])) == ("Tencent HY Community License Agreement", 4)


@pytest.mark.usefixtures("hub")
def test_what_does_not_fit_is_listed_with_what_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine("no card, 16 GB", monkeypatch)
    said = listed(capsys)[NAME]
    assert (said["fits"], said["here"]) == (False, "needs 15.8 GB, 11.2 are free")
    assert "use a smaller model" in said["reason"]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("machine", ["RTX 3070", "no card, 16 GB"])
def test_the_list_fits_a_hundred_columns(
    machine: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(machine, monkeypatch)
    call(models)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(any(model.hub in line for line in lines) for model in known_models.KNOWN)
    assert any("not granted in the European Union" in line for line in lines)


def test_sizes_come_from_the_shapes_that_are_measured_elsewhere() -> None:
    from engine.inference.checkpoint import transformers_config
    from engine.shape import ModelShape
    from engine.tools.synthetic import SHAPES

    for name, size in (("HY-MT1.5-1.8B", "1.8b"), (NAME, "7b")):
        measured = transformers_config(SHAPES[size]) | {"dtype": "bfloat16"}
        assert ModelShape.read(known_models.find(name).config) == ModelShape.read(measured)
    for model in known_models.KNOWN:
        shape = ModelShape.read(known_models.in_int4(model.config))
        form = {"bf16": 2.0, "fp8": 1.0, "gptq-int4": shape.quantized_bytes / shape.quantized_parameters}[model.form]
        table = shape.vocab_size * shape.hidden_size * 2  # in 16 bits; the head may be stored once more
        body = shape.quantized_parameters * form
        assert body + table <= model.gigabytes * 1e9 * 1.02
        assert model.gigabytes * 1e9 <= (body + 2 * table) * 1.02


def test_a_model_may_be_named_as_on_either_hub_in_any_case() -> None:
    names = ("HY-MT1.5-7B", "hy-mt1.5-7b", "tencent/HY-MT1.5-7B", "Tencent-Hunyuan/HY-MT1.5-7B")
    assert {known_models.find(name).hub for name in names} == {NAME}


def test_a_name_that_is_none_is_told_with_those_that_are_spelt_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean HY-MT1.5-7B" in refusal_of(capsys, models, "download", "hymt1.5-7b")
    assert "`python app.py models` lists those there are" in refusal_of(capsys, models, "licence", "gpt")


def test_a_licence_is_shown_with_its_limits_and_its_address(capsys: pytest.CaptureFixture[str]) -> None:
    call(models, "licence", "HY-MT1.5-7B")
    said = " ".join(capsys.readouterr().out.split())
    assert "https://huggingface.co/tencent/HY-MT1.5-1.8B/blob/main/License.txt" in said
    assert "the United Kingdom and South Korea" in said
    assert "Translations may not be used to improve other AI models." in said


# ---------------------------------------------------------------------------------------------------------- downloads


def test_a_download_is_where_the_model_flag_looks_for_it(
    hub: Hub, folder: Path, fetched: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    said, _ = fetched("HY-MT1.5-7B", "--accept-licence")
    here = Path(said["folder"])
    assert said["model"] == NAME
    assert {path.name: path.read_bytes() for path in here.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".bin"
    }
    before = len(hub.asked)
    assert hubs.cached(NAME) == hubs.folder_of(NAME) == here
    assert len(hub.asked) == before


def test_a_download_that_is_killed_goes_on_where_it_was(
    hub: Hub, tmp_path: Path, fetched: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    hub.cut = {WEIGHTS: 2_000_000}
    paths = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "YIWEN_ACCEPT_LICENCE": "true"}
    command = [sys.executable, "app.py", "models", "download", "HY-MT1.5-7B"]
    blobs = hubs.cache_folder(NAME) / "blobs"

    def begun() -> bool:
        with suppress(FileNotFoundError):  # a small file is whole by now, and has its name
            return any(part.stat().st_size > 1_500_000 for part in blobs.glob("*.part"))
        return False

    with subprocess.Popen(command, cwd=ROOT, env=os.environ | paths, stderr=subprocess.DEVNULL) as program:
        try:
            soon(begun, 60)
        finally:
            program.kill()
    hub.cut = {}
    said, _ = fetched("HY-MT1.5-7B")  # it was accepted once
    assert (Path(said["folder"]) / WEIGHTS).read_bytes() == LARGE
    first, second = sent(hub)
    assert first == ""
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 1_500_000


def test_a_line_that_breaks_is_taken_up_in_the_same_run(hub: Hub) -> None:
    hub.cut = {WEIGHTS: 900_000}
    hub.goes_on.set()  # so that it ends the connection there
    told = list[float]()
    assert (hubs.folder_of(FREE, told.append) / WEIGHTS).read_bytes() == LARGE
    assert len(sent(hub)) > 3
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_hub_without_ranges_sends_all_again(hub: Hub) -> None:
    hub.cut, hub.knows_ranges = {WEIGHTS: 900_000}, False
    hub.goes_on.set()
    with pytest.raises(
        ModelNotFound, match=rf"^The download of {FREE} broke off .* start again, and it goes on from there"
    ):
        hubs.folder_of(FREE)
    hub.cut = {}
    assert (hubs.folder_of(FREE) / WEIGHTS).read_bytes() == LARGE


def test_a_file_that_comes_damaged_is_fetched_again(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.damaged = {WEIGHTS: 1, "config.json": 1}
    here = hubs.folder_of(FREE)
    assert (here / WEIGHTS).read_bytes() == LARGE
    assert (here / "config.json").read_bytes() == SMALL
    assert f"{WEIGHTS} of {FREE} came damaged" in caplog.text


def test_a_file_that_always_comes_damaged_is_named_and_not_kept(hub: Hub) -> None:
    hub.damaged = {WEIGHTS: 9}
    with pytest.raises(ModelNotFound, match=rf"^{WEIGHTS} of {FREE} came damaged twice"):
        hubs.folder_of(FREE)
    assert hubs.cached(FREE) is None
    assert not [path for path in (hubs.cache_folder(FREE) / "blobs").iterdir() if path.stat().st_size == len(LARGE)]


@pytest.mark.usefixtures("hub")
def test_a_file_that_was_damaged_here_is_found_and_fetched_again(
    fetched: Callable[..., tuple[dict[str, Any], str]], caplog: pytest.LogCaptureFixture
) -> None:
    here = Path(fetched("Hy-MT2-7B")[0]["folder"])
    with (here / WEIGHTS).open("r+b") as file:
        file.write(bytes([LARGE[0] ^ 1]))
    fetched("Hy-MT2-7B")
    assert (here / WEIGHTS).read_bytes() == LARGE
    assert f"{WEIGHTS} of {FREE} is damaged here" in caplog.text


def test_a_disk_without_room_is_told_before_anything_comes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=rf"^{FREE} needs 0.003 GB more in .*cache.*, and 0.001 GB are free there"):
        hubs.folder_of(FREE)
    assert sent(hub) == []


def test_from_modelscope_it_comes_to_a_folder_that_the_model_flag_finds(
    hub: Hub, tmp_path: Path, fetched: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    hub.damaged = {WEIGHTS: 1}
    said, _ = fetched("HY-MT1.5-7B", "--from", "modelscope", "--accept-licence")
    here = tmp_path / "data" / "models" / "HY-MT1.5-7B"
    assert (said["model"], said["folder"]) == (NAME, str(here))
    assert (here / WEIGHTS).read_bytes() == LARGE
    assert select.resolved(Config(model=NAME, data_dir=str(tmp_path / "data"))).model == str(here)


def test_a_folder_of_ones_own_holds_the_model_alone(
    hub: Hub, tmp_path: Path, fetched: Callable[..., tuple[dict[str, Any], str]]
) -> None:
    said, _ = fetched("Hy-MT2-7B", "--to", tmp_path / "own")
    assert said["model"] == said["folder"] == str(tmp_path / "own")
    assert hubs.is_whole(tmp_path / "own")
    assert not hubs.cache_folder(FREE).exists()
    before = len(hub.asked)
    fetched("Hy-MT2-7B", "--to", tmp_path / "own")
    assert len(hub.asked) == before


def test_without_a_network_it_is_told_in_a_sentence(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "check the name, the network, or HF_ENDPOINT" in refusal_of(capsys, models, "download", "Hy-MT2-7B")
    refused = refusal_of(capsys, models, "download", "Hy-MT2-7B", "--from", "modelscope")
    assert "ModelScope did not give a model 'Tencent-Hunyuan/Hy-MT2-7B'" in refused
    assert hub.asked == []


@pytest.mark.usefixtures("hub")
def test_what_is_here_is_served_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    here = hubs.folder_of(FREE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hubs.folder_of(FREE) == here


@pytest.mark.usefixtures("hub")
def test_a_model_can_be_removed(
    fetched: Callable[..., tuple[dict[str, Any], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    fetched("Hy-MT2-7B")
    said, _ = result_of(capsys, models, "--json", "remove", "Hy-MT2-7B")
    assert len(LARGE) < said["bytes"] < len(LARGE) + 5_000
    assert hubs.cached(FREE) is None
    assert "is not here" in refusal_of(capsys, models, "remove", "Hy-MT2-7B")


# ----------------------------------------------------------------------------------------------------------- licences


def test_without_a_terminal_a_licence_is_refused_with_how_to_accept_it(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal_of(capsys, models, "download", "HY-MT1.5-7B")
    assert "not granted in the EU, the UK and South Korea" in said
    assert "accept it with --accept-licence (YIWEN_ACCEPT_LICENCE=true)" in said
    assert hub.asked == []


def test_at_a_terminal_it_is_shown_and_asked_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = known_models.find("HY-MT1.5-7B")
    seen = answering("n", monkeypatch)
    with pytest.raises(ConfigError, match="was not accepted, so it is not downloaded"):
        models.download(model, "hf", None, accept=False)
    assert "License.txt" in seen.getvalue()
    assert seen.getvalue().endswith("Do you accept it? [y/N] ")
    assert hub.asked == []
    answering("y", monkeypatch)
    models.download(model, "hf", None, accept=False)
    accepted = json.loads((hubs.cache_folder(NAME) / ACCEPTED).read_text())
    assert (accepted["model"], accepted["licence"]) == ("HY-MT1.5-7B", "Tencent HY Community License Agreement")
    answering("n", monkeypatch)
    models.download(model, "hf", None, accept=False)


@pytest.mark.usefixtures("hub")
def test_serving_asks_before_it_downloads_and_never_of_what_is_here(tmp_path: Path) -> None:
    asked = Config(model=NAME, data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"^tencent/HY-MT1.5-7B is under the Tencent HY .*--accept-licence"):
        select.choose(asked)
    with pytest.raises(ConfigError, match="--accept-licence"):  # whichever tool asks for it
        hubs.folder_of(NAME)
    select.choose(Config(model=FREE, data_dir=str(tmp_path)))
    select.choose(Config(model=NAME, data_dir=str(tmp_path), accept_licence=True))
    hubs.folder_of(NAME)
    (hubs.cache_folder(NAME) / ACCEPTED).unlink()  # it was fetched before there was such a file
    select.choose(asked)
    assert hubs.folder_of(NAME) == hubs.cached(NAME)


def test_what_others_made_of_it_has_its_licence_too() -> None:
    assert known_models.licence_to_accept("someone/hy-mt1.5-7b-awq") is known_models.TENCENT
    assert known_models.licence_to_accept("someone/hy-mt2-7b") is None


@pytest.mark.usefixtures("hub")
def test_weights_in_fp8_are_refused_before_they_are_downloaded() -> None:
    with pytest.raises(UnsupportedModel, match=r"does not read; take tencent/Hy-MT2-7B, or serve it with vLLM"):
        select.choose(Config(model="tencent/Hy-MT2-7B-FP8"))


def test_the_provider_is_told_to_the_page(serve: Serve) -> None:
    url = serve(EchoBackend(), config=Config(provider="Example Works Ltd."), tested=False)
    assert httpx.get(f"{url}/system").json()["provider"] == "Example Works Ltd."
