"""What GitHub runs: is it well formed, does it check what `.ci/run` does, and may it do no more than it needs to?"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.version import VERSION
from tests.packaging.dockerfile import ROOT, stages

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


@pytest.mark.parametrize(
    ("schema", "files"),
    [("workflows", WORKFLOWS), ("issue-forms", sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")))],
    ids=["workflows", "forms"],
)
def test_each_file_fits_its_schema(schema: str, files: list[Path]) -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    command = [check, "--builtin-schema", f"vendor.github-{schema}", *files]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout
    assert files


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_action_is_the_commit_that_was_looked_at_and_may_only_read_unless_a_job_says_so(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert [one for one in used if not re.fullmatch(r"(\./\S+|[\w/-]+@[0-9a-f]{40} # v[\d.]+)", one)] == []
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_the_workflow_checks_what_ci_does_on_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    steps = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    checked = (ROOT / ".ci" / "run").read_text().split("tests/requirements.txt\n")[1].split("\n")
    assert {line for line in checked if line} <= steps
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_both_kinds_of_image_are_built_and_released() -> None:
    kinds = {"slim", "gpu"}
    built, released = (
        yaml.safe_load((GITHUB / "workflows" / name).read_text())["jobs"] for name in ("image.yml", "release.yml")
    )
    assert set(built["build"]["strategy"]["matrix"]["target"]) == kinds
    assert {one["target"] for one in released["image"]["strategy"]["matrix"]["include"]} == kinds
    assert kinds <= set(stages((ROOT / "Dockerfile").read_text()))


def test_the_version_is_one_that_can_be_a_tag() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    said = subprocess.run([sys.executable, ROOT / "app.py", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"yiwen {VERSION}\n"
