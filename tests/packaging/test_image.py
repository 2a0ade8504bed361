"""The Dockerfile agrees with the program it packs. That its steps work is for `python -m tests.packaging.image`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from engine.backends.echo import EchoBackend
from engine.backends.select import EMBEDDED_FOLDER
from engine.config import Config
from engine.version import VERSION
from tests.conftest import Serve
from tests.hubs import a_hub
from tests.packaging.dockerfile import ROOT, Stage, context, filled, stages

STAGES = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
SLIM, GPU = STAGES["slim"], STAGES["gpu"]
ENVIRON = {name: filled(value, {}) for name, value in SLIM.last("ENV").pairs().items()}


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    return serve(EchoBackend())


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    said = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_the_last_stage_is_for_cards_and_both_run_the_same() -> None:
    def runs(stage: Stage) -> list[str]:
        steps = [step for step in stage.steps if step.keyword != "LABEL"]
        return [f"{step.keyword} {step.flags} {step.value}".replace(stage.base, "") for step in steps]

    assert list(STAGES)[-1] == "gpu"
    assert STAGES[GPU.base].base.startswith("nvidia/cuda:")
    assert runs(SLIM) == runs(GPU)


def test_its_variables_are_ours_and_all_that_is_written_goes_below_data() -> None:
    config = Config.load([], ENVIRON)
    assert (config.host, config.port, config.model) == ("0.0.0.0", int(SLIM.last("EXPOSE").value), "embedded")
    assert config.grace_seconds < 10  # after which Docker kills
    written = [config.data_dir, ENVIRON["HF_HOME"], ENVIRON["XDG_CACHE_HOME"]]
    assert all(Path(folder).is_relative_to("/data") for folder in written)


def test_a_model_that_is_baked_in_comes_from_the_hub_and_is_the_one_that_runs(tmp_path: Path) -> None:
    name = "anna/mini"
    bake = STAGES["cpu-packages"].all("RUN")[-1].value
    assert bake == STAGES["cuda-packages"].all("RUN")[-1].value
    here = bake.replace("/opt/venv/bin", str(Path(sys.executable).parent)).replace("/models", str(tmp_path))
    with a_hub(EMBEDDED_FOLDER) as hub:
        environ = {"MODEL": name, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PATH": os.defpath}
        subprocess.run(["/bin/sh", "-c", here], env=environ, check=True, capture_output=True)
    runs = Path(filled(SLIM.last("ENV").pairs()["YIWEN_MODEL"], {"MODEL": name}))
    baked = tmp_path / runs.relative_to("/models")
    assert {path.name for path in EMBEDDED_FOLDER.iterdir()} <= {path.name for path in baked.iterdir()}


def test_nobody_runs_it_as_root() -> None:
    assert SLIM.last("USER").value == "1000:1000"
    for base in ("cpu", "cuda"):
        assert "useradd --create-home --uid 1000 user" in STAGES[base].last("RUN").value


def test_a_build_copies_the_program_and_its_model_and_nothing_of_its_makers() -> None:
    copied = {str(path) for path in context()}
    sources = {str(path.relative_to(ROOT)) for folder in ("engine", "ui") for path in (ROOT / folder).rglob("*.py")}
    model = {str(path.relative_to(ROOT)) for path in EMBEDDED_FOLDER.iterdir()}
    assert sources | model | {"app.py", "LICENSE", "requirements.lock", "requirements-cpu.lock"} <= copied
    assert {path.split("/")[0] for path in copied} == {
        *("LICENSE", "app.py", "assets", "engine", "requirements-cpu.lock", "requirements.lock", "ui")
    }
    assert not [path for path in copied if "__pycache__" in path or "screenshots" in path]


def test_the_health_check_passes_when_the_model_answers_and_only_then(url: str) -> None:
    port = url.rpartition(":")[2]
    for where, status in ((port, 0), ("1", 1)):
        check = json.loads(SLIM.last("HEALTHCHECK").value.removeprefix("CMD "))
        found = subprocess.run(
            [sys.executable, *check[1:]], env={"YIWEN_PORT": where}, capture_output=True, check=False
        )
        assert found.returncode == status
    assert check[0] == "python"


def test_the_server_tells_the_version_of_the_release(url: str) -> None:
    assert httpx.get(f"{url}/system").json()["versions"]["yiwen"] == VERSION
    assert httpx.get(f"{url}/openapi.json").json()["info"]["version"] == VERSION
