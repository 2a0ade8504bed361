"""The table of what is picked on which machine: that README has what the code prints, and what it says of each."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.tools import plans
from tests.checkpoints import write_checkpoint
from tests.commands import call

README = Path(__file__).parents[1] / "README.md"

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """What the tool prints, given these arguments."""

    def printed(*arguments: str) -> str:
        call(plans, *arguments)
        return capsys.readouterr().out

    return printed


def test_the_readme_has_the_table_that_the_tool_prints(run: Run) -> None:
    found = re.search(r"<!-- plans -->\n(.*)<!-- /plans -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    assert found[1] == run("--markdown")


def test_a_7b_in_int4_fits_every_card_of_our_kernels_and_a_small_model_every_machine() -> None:
    models = plans.shapes()
    made = plans.answers(models)
    assert set(made) == {(each.name, model) for each in plans.MACHINES for model in models}
    refused = {(machine, model) for (machine, model), answer in made.items() if isinstance(answer, Exception)}
    assert {machine for machine, model in refused if model == "7B GPTQ INT4"} == {"no card, 16 GB of memory"}
    assert {model for _, model in refused} == {"7B", "7B GPTQ INT4"}
    assert all(
        re.fullmatch(r"– \(needs [\d.]+ GB, [\d.]+ are free for it\)", plans.cell(made[each])) for each in refused
    )


def test_a_folder_has_a_table_its_reasons_and_one_line_of_json(tmp_path: Path, run: Run) -> None:
    lines = run("--model", str(write_checkpoint(tmp_path / "mine"))).splitlines()
    assert lines[0] == "| machine | mine |"
    planned = json.loads(lines[-1])["plans"]
    assert [each["machine"] for each in planned] == [each.name for each in plans.MACHINES]
    assert (planned[-1]["plan"]["weights"], planned[-1]["plan"]["engine"]) == ("int8", "openvino")
    assert f"- {plans.MACHINES[-1].name}, mine: {planned[-1]['plan']['reason']}" in lines


def test_a_folder_that_is_no_model_is_told_in_a_sentence(tmp_path: Path, run: Run) -> None:
    with pytest.raises(SystemExit, match=r"holds no config.json, so it is no model\.$"):
        run("--model", str(tmp_path))
