"""Scores of backends whose answers are known."""

import argparse
import asyncio
import json
import sys

import pytest

from engine.backends.echo import EchoBackend
from engine.tools import asking, corpus, evaluate, evaluate_marks, evaluate_quality
from engine.tools.evaluate_quality import Answer, Question
from engine.types import TokenChunk
from tests.corpora import write_corpus, write_tests


class Knowing(EchoBackend):
    """Answers a prompt with what `answers` has for it, in one token, and says how many it was asked at once."""

    def __init__(self, answers):
        super().__init__(slots=3)
        self.answers = answers

    async def stream(self, prompt):
        self.running += 1
        self.peak = max(self.peak, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        yield TokenChunk(" " + self.answers[prompt.text])
        yield TokenChunk("", tokens=0, finish="stop")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    return write_tests(tmp_path_factory.mktemp("evaluate") / "test", times=2)


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("evaluate") / "corpus")


@pytest.fixture(scope="module")
def dictionary(corpus_folder):
    return corpus.load(corpus_folder, ["fr", "zh"], frozenset()).dictionary


@pytest.fixture(scope="module")
def dictionary_without_tests(corpus_folder, held_out):
    """What `run` makes its questions from."""
    return corpus.load(corpus_folder, ["fr", "zh"], corpus.test_sentences(held_out)).dictionary


def answers_to(questions):
    return Knowing({question.prompt: question.reference for question in questions})


def run(task, backend, test, **more):
    settings = {"langs": "fr,zh", "limit": None, "out": None, "sets": "tatoeba", "through_translator": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "backend_of", lambda _: backend)
        return task.run(argparse.Namespace(test=test, **(settings | more)))


def test_a_model_that_knows_every_answer_scores_100(held_out):
    questions = evaluate_quality.questions_of(EchoBackend(), held_out, ["tatoeba"], ["fr", "zh"], None)
    knowing = answers_to(questions)
    result = run(evaluate_quality, knowing, held_out)
    assert result["scores"]["tatoeba"].keys() == {"en-fr", "fr-en", "en-zh", "zh-en"}
    for scores in result["scores"]["tatoeba"].values():
        assert scores["chrf2"] == pytest.approx(100)
        assert scores["bleu"] == pytest.approx(100)
        assert scores["cut_off"] == 0
    assert result["prompts"] == len(questions)
    assert knowing.peak == 3


def test_each_score_has_its_signature(held_out):
    result = run(evaluate_quality, EchoBackend(), held_out)
    assert result["signatures"]["chrf2"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    assert "tok:zh" in result["signatures"]["bleu zh"]
    assert "tok:13a" in result["signatures"]["bleu 13a"]


def test_bleu_counts_characters_of_japanese_and_korean():
    said = Answer("東京へ行った。", 5, "stop")
    questions = [Question("tatoeba", "en", lang, "He went.", "", "東京へ行った。") for lang in ("ja", "ko")]
    result = evaluate_quality.quality_scores(questions, [said, said])
    assert "tok:char" in result["signatures"]["bleu char"]
    assert result["scores"]["tatoeba"]["en-ja"]["bleu"] == pytest.approx(100)


def test_the_share_cut_off_is_counted():
    questions = [Question("tatoeba", "en", "fr", "One", "", "Un")] * 4
    answers = [Answer("Un", 1, "length"), *[Answer("Un", 1, "stop")] * 3]
    assert evaluate_quality.quality_scores(questions, answers)["scores"]["tatoeba"]["en-fr"]["cut_off"] == 0.25


def test_a_line_is_one_prompt_however_many_sentences_it_has(tmp_path):
    (tmp_path / "tatoeba.en-fr.tsv").write_text("doc\ten\tfr\nmade-up\tOne. Two. Three.\tUn. Deux. Trois.\n")
    questions = evaluate_quality.questions_of(EchoBackend(), tmp_path, ["tatoeba"], ["fr"], None)
    prompt = "Translate the following segment into French, without additional explanation.\n\nOne. Two. Three."
    assert questions[0].prompt == prompt
    assert len(questions) == 2


def test_the_translator_is_scored_whole_when_asked_for(held_out):
    result = run(evaluate_quality, EchoBackend(), held_out, through_translator=True, langs="fr")
    assert result["scores"]["tatoeba"]["en-fr"]["lines"] == 12
    assert 0 < result["scores"]["tatoeba"]["en-fr"]["chrf2"] < 100


def test_the_limit_is_lines_of_each_file(held_out):
    assert run(evaluate_quality, EchoBackend(), held_out, limit=2)["prompts"] == 2 * 2 * 2


def test_languages_without_a_test_are_left_out_unless_named(held_out):
    result = run(evaluate_quality, EchoBackend(), held_out, langs=None)
    assert result["scores"]["tatoeba"].keys() == {"en-fr", "fr-en", "en-zh", "zh-en"}
    with pytest.raises(FileNotFoundError, match="en-de"):
        run(evaluate_quality, EchoBackend(), held_out, langs="de")


def test_marks_are_right_when_none_is_lost_or_added_and_nested_when_none_crosses():
    reference = "<target><s1>A <s2>b</s2></s1></target>"
    said = [
        reference,
        "<target><s2>b <s1>A</s1></s2></target>",
        "<target><s1>A <s2>b</s1></s2></target>",
        "<target><s1>A b</s1></target>",
    ]
    questions = [Question("marks", "en", "fr", "", "", reference)] * len(said)
    scores = evaluate_marks.marks_scores(questions, [Answer(text, 1, "stop") for text in said])["scores"]
    assert scores == {"right": 0.75, "right and well nested": 0.5, "examples": 4}


def test_a_model_that_knows_every_marked_answer_has_all_marks_right(held_out, corpus_folder, dictionary_without_tests):
    questions = evaluate_marks.questions_of(EchoBackend(), held_out, dictionary_without_tests, ["fr", "zh"], 500)
    result = run(evaluate_marks, answers_to(questions), held_out, corpus=corpus_folder, limit=500)
    scores = result["scores"]
    assert scores["right and well nested"] == 1
    assert scores["examples"] == len(questions) > 10


def test_examples_are_drawn_the_same_every_time(held_out, dictionary):
    first, second = (
        evaluate_marks.questions_of(EchoBackend(), held_out, dictionary, ["fr", "zh"], 8) for _ in range(2)
    )
    assert first == second


def test_answers_come_in_the_order_of_the_questions():
    questions = [Question("", "en", "fr", "", "p" * length, str(length)) for length in (3, 9, 1, 5)]

    async def ask(question):
        await asyncio.sleep(0)
        return Answer(question.reference, 1, "stop")

    answers = asyncio.run(asking.answers_to(ask, questions, 2, lambda question: len(question.prompt)))
    assert [answer.text for answer in answers] == ["3", "9", "1", "5"]


def test_the_tool_prints_a_table_and_ends_with_json(held_out, tmp_path, monkeypatch, capsys):
    out = tmp_path / "answers.jsonl"
    command = ["evaluate", "quality", "--backend", "echo", "--test", str(held_out), "--langs", "fr"]
    monkeypatch.setattr(sys, "argv", [*command, "--sets", "tatoeba", "--limit", "3", "--out", str(out)])
    evaluate.main()
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["scores"]["tatoeba"]["en-fr"]["lines"] == 3
    assert "en-fr" in printed.err
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(records) == 6
    assert records[0]["answer"] == records[0]["source"]


def test_a_real_model_is_driven_through_its_backend(held_out, tiny_checkpoint, monkeypatch, capsys):
    command = ["evaluate", "quality", "--model", str(tiny_checkpoint), "--test", str(held_out), "--langs", "fr"]
    monkeypatch.setattr(sys, "argv", [*command, "--sets", "tatoeba", "--limit", "2", "--concurrent", "4"])
    evaluate.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["device"] == "cpu"
    assert result["prompts"] == 4
    assert result["tokens"] > 0
