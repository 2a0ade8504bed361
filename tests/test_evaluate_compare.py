"""Two models on the same questions, answers that outlive a run, and COMET, on backends whose answers are known."""

import argparse
import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from engine.backends.echo import EchoBackend
from engine.errors import BackendError, ConfigError
from engine.tools import asking, evaluate_comet, evaluate_compare, evaluate_quality
from engine.tools.evaluate_questions import Answer, Question
from engine.types import TokenChunk

WORDS = ("river", "house", "garden", "window", "table", "street", "morning", "letter", "school", "bridge")
LINES = [
    f"The {one} is near the {other} in the {third}." for one in WORDS[:4] for other in WORDS[4:7] for third in WORDS[7:]
]


class Careless(EchoBackend):
    """Says the source back, of every `nth` prompt without its last word; breaks down after `most` prompts."""

    def __init__(self, nth=10**9, most=10**9):
        super().__init__(slots=1)
        self.nth, self.most, self.asked = nth, most, []

    async def stream(self, prompt):
        self.asked.append(prompt.source)
        if len(self.asked) > self.most:
            raise BackendError("The model has died; start it again.")
        said = prompt.source if len(self.asked) % self.nth else prompt.source.rpartition(" ")[0]
        yield TokenChunk(said, tokens=len(said.split()))
        yield TokenChunk("", tokens=0, finish="stop")


class Worse(Careless):
    def __init__(self, nth):
        super().__init__(nth)
        self.info = replace(self.info, name="worse")


@pytest.fixture(scope="module")
def test(tmp_path_factory):
    """A test whose sides are the same, so that what says the source back is right."""
    path = tmp_path_factory.mktemp("compare") / "rooms.en-fr.tsv"
    path.write_text("".join(f"{line}\t{line}\n" for line in LINES), encoding="utf-8")
    return path


def run(test, backends, *more):
    """The models are called by their place in `backends`; the first is asked for."""
    parser = argparse.ArgumentParser()
    evaluate_quality.add_arguments(parser)
    arguments = parser.parse_args(["--test", str(test), "--model", "0", "--directions", "en-fr", *map(str, more)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "backend_of", lambda given: backends[int(given.model)])
        return evaluate_quality.run(arguments)


def compared(*targets, ours, theirs):
    questions = [Question("rooms", "en", target, line, "", line) for target in targets for line in LINES]
    lines = [
        (question, Answer(ours(question.text), 1, "stop"), Answer(theirs(question.text), 1, "stop"))
        for question in questions
    ]
    return evaluate_compare.compared(lines)


def without_end(line):
    return line.rpartition(" ")[0]


# ---------------------------------------------------------------------------------------------------------------------
# two models


def test_both_models_are_asked_the_same_and_the_better_one_is_found(test):
    backends = [Careless(), Careless(nth=2)]
    result = run(test, backends, "--against", "1")
    assert backends[0].asked == backends[1].asked
    found = result["against"]["differences"]["rooms"]["en-fr"]
    assert result["scores"]["rooms"]["en-fr"]["chrf2"] == found["chrf2"]["score"] == 100
    assert result["against"]["scores"]["rooms"]["en-fr"]["bleu"] == found["bleu"]["against"] < 100
    for name in ("chrf2", "chrf++", "bleu"):
        assert found[name]["difference"] > 0
        assert found[name]["significant"]
        assert found[name]["p"] < 0.05
        assert "bs:1000|seed:12345" in str(result["against"]["signatures"])
    assert found["lines"] == len(LINES)
    assert f"**+{found['chrf2']['difference']:.2f}** (p 0.001)" in evaluate_quality.show(result)
    assert json.loads(json.dumps(result)) == result


def test_models_that_say_the_same_do_not_differ():
    found, _ = compared("fr", ours=without_end, theirs=without_end)
    assert (found["chrf2"]["difference"], found["chrf2"]["p"], found["chrf2"]["significant"]) == (0, 1, False)


def test_a_difference_in_one_line_may_be_luck():
    found, _ = compared("fr", ours=lambda line: without_end(line) if line == LINES[3] else line, theirs=str)
    assert found["bleu"]["difference"] < 0
    assert not found["bleu"]["significant"]


def test_all_lines_together_are_cut_by_the_tokenizer_of_each_language(test):
    _, signatures = compared("fr", "zh", ours=str, theirs=without_end)
    assert "tok:none" in signatures["bleu 13a and zh"]
    result = run(test, [Careless(), Careless(nth=2)], "--against", "1", "--directions", "en-fr,fr-en")
    assert result["against"]["all"]["lines"] == 2 * len(LINES)
    assert "| all " in evaluate_quality.show(result)


def test_of_very_many_lines_some_are_drawn(monkeypatch):
    monkeypatch.setattr(evaluate_compare, "MOST_LINES", 20)
    found, _ = compared("fr", "de", ours=str, theirs=without_end)
    assert found["lines"] == 20


def test_answers_of_an_earlier_run_are_compared_with_too(test, tmp_path):
    out = tmp_path / "answers.jsonl"
    before = run(test, [Careless(nth=2)], "--out", out)
    assert run(test, [], "--answers", out)["scores"] == before["scores"]
    result = run(test, [Careless()], "--against-answers", out)
    assert result["against"]["scores"] == before["scores"]
    assert result["against"]["differences"]["rooms"]["en-fr"]["chrf2"]["significant"]
    with pytest.raises(ConfigError, match="of echo lack 36 of 36 questions"):
        run(test, [Careless()], "--against-answers", out, "--directions", "fr-en")


def test_what_two_models_have_said_is_scored_again_without_them(test, tmp_path):
    out = tmp_path / "answers.jsonl"
    both = run(test, [Careless(), Worse(nth=2)], "--against", "1", "--out", out)
    again = run(test, [], "--answers", out)
    assert again["scores"] == both["scores"]
    assert again["against"]["differences"] == both["against"]["differences"]
    said = r"are of 2 models \(echo none none local, worse none none local\), and 1 can be read"
    with pytest.raises(ConfigError, match=said):
        run(test, [Careless()], "--against-answers", out)


# ---------------------------------------------------------------------------------------------------------------------
# a run that was cut off


def test_a_run_that_was_cut_off_goes_on_where_it_was(test, tmp_path):
    out = tmp_path / "answers.jsonl"
    with pytest.raises(BackendError):
        run(test, [Careless(most=10)], "--out", out)
    with out.open("a", encoding="utf-8") as file:
        file.write('{"set": "rooms", "direction": "en-')  # killed in the midst of a line
    going_on = Careless()
    result = run(test, [going_on], "--out", out, "--resume")
    whole = run(test, [Careless()])
    assert len(going_on.asked) == result["new_prompts"] == len(LINES) - 10
    assert (result["scores"], result["tokens"]) == (whole["scores"], whole["tokens"])
    assert len(out.read_text(encoding="utf-8").splitlines()) == len(LINES)
    assert run(test, [Careless(most=0)], "--out", out, "--resume")["new_prompts"] == 0


def test_answers_of_another_model_are_not_taken_for_its_own(test, tmp_path):
    out = tmp_path / "answers.jsonl"
    run(test, [Careless()], "--out", out)
    for more in (["--against", "1"], ["--precision", "int8"], ["--through-translator"]):
        other = Careless()
        run(test, [Careless(), other] if "1" in more else [other], "--out", out, "--resume", *more)
        assert len(other.asked) == len(LINES), more


def test_a_question_that_comes_twice_is_asked_once(tmp_path):
    path = tmp_path / "twice.en-fr.tsv"
    path.write_text("Yes.\tOui.\nYes.\tOui.\n", encoding="utf-8")
    asked = Careless()
    assert run(path, [asked])["scores"]["twice"]["en-fr"]["lines"] == 2
    assert asked.asked == ["Yes."]


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"set": "rooms"}'])
def test_a_file_of_something_else_is_no_file_of_answers(test, tmp_path, line):
    path = tmp_path / "other.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Line 1 of '.*' is no question and answer of this tool"):
        run(test, [Careless()], "--out", path, "--resume")
    assert path.read_text(encoding="utf-8") == f"{line}\n"


# ---------------------------------------------------------------------------------------------------------------------
# COMET


@pytest.fixture
def comet(monkeypatch):
    """Stands in for unbabel-comet, and holds what it was asked: it takes 2 GB of weights from the hub."""
    module = ModuleType("comet")
    module.asked = []

    def predict(lines, batch_size, gpus):
        module.asked.append((lines, batch_size, gpus))
        return SimpleNamespace(scores=[float(line["mt"] == line["ref"]) for line in lines], system_score=0.0)

    def download_model(name):
        if "/" not in name:
            raise KeyError(f"Model {name} not supported")
        return f"/weights/{name}"

    module.download_model = download_model
    module.load_from_checkpoint = lambda path: SimpleNamespace(predict=predict, path=path)
    monkeypatch.setitem(sys.modules, "comet", module)
    return module


def test_comet_reads_source_answer_and_reference_of_both_models(test, comet):
    backends = [Careless(), Careless(nth=2)]
    result = run(test, backends, "--against", "1", "--comet", "--comet-batch", "4", "--device", "cpu")
    assert result["scores"]["rooms"]["en-fr"]["comet"] == 1
    assert result["against"]["scores"]["rooms"]["en-fr"]["comet"] == 0.5
    assert result["signatures"]["comet"] == "Unbabel/wmt22-comet-da"
    lines, batch, gpus = comet.asked[0]
    assert lines[0] == {"src": LINES[0], "mt": LINES[0], "ref": LINES[0]}
    assert (batch, gpus) == (4, 0)
    assert "| 1.0000 |" in evaluate_quality.show(result)


def test_comet_is_missed_before_the_model_is_asked(test, monkeypatch):
    monkeypatch.setitem(sys.modules, "comet", None)
    asked = Careless()
    with pytest.raises(ConfigError, match=r"COMET cannot be imported \(.*\); make an environment of its own"):
        run(test, [asked], "--comet")
    assert asked.asked == []


def test_a_model_of_comet_that_is_not_there_is_told(comet, tmp_path):
    assert evaluate_comet.load(evaluate_comet.fetch("Unbabel/other")).path == "/weights/Unbabel/other"
    file = tmp_path / "checkpoints" / "model.ckpt"
    file.parent.mkdir()
    file.touch()
    with pytest.raises(ConfigError, match=r"lacks '.*hparams.yaml'"):
        evaluate_comet.fetch(str(file))
    (tmp_path / "hparams.yaml").touch()
    assert evaluate_comet.fetch(str(file)) == str(file)
    with pytest.raises(ConfigError, match=r"The COMET model 'nowhere' cannot be had \(.*not supported"):
        evaluate_comet.fetch("nowhere")


def test_answers_of_older_weights_in_the_folder_are_not_taken_for_the_new_ones(test, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights, out = tmp_path / "0" / "model.safetensors", tmp_path / "answers.jsonl"
    weights.parent.mkdir()
    weights.write_bytes(b"old")
    run(test, [Careless(nth=2)], "--out", out)
    assert run(test, [Careless(most=0)], "--out", out, "--resume")["new_prompts"] == 0
    weights.write_bytes(b"newer")
    with pytest.raises(BackendError):
        run(test, [Careless(most=10)], "--out", out, "--resume")
    assert "36 of the answers in --out are of other weights that echo had, and count no" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="lack 26 of 36 questions"):  # those of the older ones do not fill them
        run(test, [], "--answers", out)
    result = run(test, [Careless()], "--out", out, "--resume")
    assert result["new_prompts"] == len(LINES) - 10
    assert run(test, [], "--answers", out)["scores"] == result["scores"] == run(test, [Careless()])["scores"]
