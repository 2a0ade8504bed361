"""Glossaries scored on backends that obey them, or do not."""

import argparse
import asyncio
import json
import re
import zipfile

import pytest

from engine.backends.echo import EchoBackend
from engine.scheduler import Scheduler
from engine.tools import corpus, evaluate_terms
from engine.tools.evaluate_terms import Question
from engine.translator import Translator
from engine.types import Finished, SegmentDone, Term, TokenChunk, Warning
from tests.corpora import write_corpus, write_tests

_TERM_LINE = re.compile(r"^(.+) 翻译成 (.+)$", re.MULTILINE)
PAIRS = (
    ("The contagious virus spreads.", "可传染的病毒会传播。"),
    ("Wash the mask. Wear the mask.", "清洗并佩戴口罩。"),
    ("AIDS is an illness that rest aids.", "艾滋病是一种病。"),
    ("Nothing in this line is on a list.", "这一行没有词。"),
)
FIRST = (
    ("contagious", "有传染性"),
    ("AIDS", "艾滋病"),
    ("mask", "口罩"),
    ("ED", "急诊"),
    ("fever", "发热"),
    ("Do the Five", "#五"),
)
SECOND = (("Contagious", "传染性的 : 可传染"), ("virus", "病毒 [the small one]"), ("mask", "面具"))


class Obedient(EchoBackend):
    """Says the source with each term of the prompt put in its place."""

    async def stream(self, prompt):
        text = prompt.source
        for source, target in _TERM_LINE.findall(prompt.text):
            text = re.sub(re.escape(source), target, text, flags=re.IGNORECASE)
        yield TokenChunk(text)
        yield TokenChunk("", tokens=0, finish="stop")


@pytest.fixture(scope="module")
def tico(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tico")
    (folder / "terminologies").mkdir()
    for name, rows in (("f_en-zh_CN", FIRST), ("g_en_zh-CN", SECOND), ("f_en-fr_XX", FIRST), ("g_en_fr-FR", SECOND)):
        lines = ["id,sourceString,targetString", *(f"1,{source},{target}" for source, target in rows)]
        (folder / "terminologies" / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "terminologies" / "g_en_zh-TW.csv").write_text("sourceString,targetString\nmask,口罩\n", "utf-8")
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>{english}</seg></tuv><tuv xml:lang="zh"><seg>{other}\n</seg></tuv></tu>'
        for english, other in PAIRS
    )
    with zipfile.ZipFile(folder / "all.en-zh.tmx.zip", "w") as archive:
        archive.writestr("all.en-zh.tmx", f'<tmx version="1.4"><body>{units}</body></tmx>')
    return folder


def asked(tico, lang, text, mode):
    (found,) = [
        question
        for question in evaluate_terms.tico_questions(tico, [lang], 10)
        if question.text == text and question.mode == mode
    ]
    return found


def scored(backend, questions):
    translator = Translator(backend, Scheduler(backend.slots, len(questions)))
    return evaluate_terms.terms_scores(questions, asyncio.run(evaluate_terms.answers(translator, questions, 4)))


def said(text, *codes):
    warnings = tuple(Warning(code, "", 0) for code in codes)
    return Finished(text, "en", 1, 1, 1, 0.1, "model", warnings=warnings)


@pytest.mark.parametrize(
    ("cell", "targets"),
    [
        ("口罩", ["口罩"]),
        ("可传染 : 有传染性", ["可传染", "有传染性"]),
        ("検疫 ; 隔離（# 文脈に応じて）", ["検疫", "隔離"]),
        ("冠状病毒 [generic] : 新型 (COVID-19) [this one]", ["冠状病毒", "新型 (COVID-19)"]),
        ("接触感染（性）", ["接触感染（性）"]),
        ("  ", []),
    ],
)
def test_a_cell_may_hold_several_targets_and_notes(cell, targets):
    assert evaluate_terms.alternatives(cell) == targets


def test_both_lists_make_one_in_which_the_first_target_comes_first(tico):
    lists = evaluate_terms.tico_lists(tico / "terminologies")
    assert lists.keys() == {"zh", "fr", "zh-Hant"}
    assert lists["zh"] == {
        "contagious": ["有传染性", "传染性的", "可传染"],
        "AIDS": ["艾滋病"],
        "mask": ["口罩", "面具"],
        "fever": ["发热"],
        "Do the Five": ["#五"],
        "virus": ["病毒"],
    }


def test_pairs_are_read_from_the_zipped_tmx(tico):
    assert evaluate_terms.tico_pairs(tico / "all.en-zh.tmx.zip") == list(PAIRS)


def test_a_term_becomes_that_of_its_targets_which_the_reference_has(tico):
    question = asked(tico, "zh", PAIRS[0][0], "with glossary")
    assert {term.source: term.target for term in question.counted} == {"contagious": "可传染", "virus": "病毒"}
    assert Term("contagious", "可传染") in question.sent


def test_the_whole_list_is_sent_and_only_its_own_terms_where_that_is_asked(tico):
    whole, own = (asked(tico, "zh", PAIRS[0][0], mode) for mode in ("with glossary", "with its own terms"))
    assert [term.source for term in whole.sent] == ["contagious", "AIDS", "mask", "fever", "Do the Five", "virus"]
    assert {term.source for term in own.sent} == {"contagious", "virus"}
    assert asked(tico, "zh", PAIRS[0][0], "without glossary").sent == ()


def test_a_term_counts_as_often_as_the_reference_has_it(tico):
    question = asked(tico, "zh", PAIRS[1][0], "with glossary")
    assert question.most == {"mask": 1}
    for answer, share in (("口罩", 1), ("口罩。口罩。", 1), ("面具", 0)):
        scores = evaluate_terms.terms_scores([question], [said(answer)])
        assert scores["TICO-19"]["en-zh"]["with glossary"]["success"] == share


def test_without_a_reference_a_term_with_several_targets_is_not_counted(tico):
    question = asked(tico, "fr", PAIRS[0][0], "with glossary")
    assert [term.source for term in question.counted] == ["virus"]
    assert not question.reference
    assert not [each for each in evaluate_terms.tico_questions(tico, ["fr"], 10) if each.text == PAIRS[1][0]]


def test_a_term_in_capitals_is_meant_in_capitals(tico):
    question = asked(tico, "fr", PAIRS[2][0], "with glossary")
    assert question.counted == (Term("AIDS", "艾滋病", case=True),)


def test_random_terms_are_targets_of_others_and_the_same_every_time(tico):
    first, second = (list(evaluate_terms.tico_questions(tico, ["zh"], 10)) for _ in range(2))
    assert first == second
    drawn = [(term, each.reference) for each in first if each.mode == "with random terms" for term in each.counted]
    assert drawn
    assert not [term for term, reference in drawn if term.target in reference]


def test_a_list_of_a_language_nobody_asked_for_is_left_alone(tico):
    assert list(evaluate_terms.tico_questions(tico, ["de"], 10)) == []


def test_the_limit_is_sentences_that_have_a_term(tico):
    assert len({question.text for question in evaluate_terms.tico_questions(tico, ["zh"], 2)}) == 2


def test_a_model_that_obeys_uses_all_terms_and_none_without_the_glossary(tico):
    scores = scored(Obedient(), list(evaluate_terms.tico_questions(tico, ["zh", "fr"], 10)))
    for direction in ("en-zh", "en-fr"):
        assert scores["TICO-19"][direction]["with glossary"]["success"] == 1
        assert scores["TICO-19"][direction]["with random terms"]["success"] == 1
        assert scores["TICO-19"][direction]["without glossary"]["success"] == 0
    assert "chrf2" in scores["TICO-19"]["en-zh"]["with glossary"]
    assert "chrf2" not in scores["TICO-19"]["en-fr"]["with glossary"]


def test_occurrences_and_terms_are_counted_apart_and_warnings_by_text():
    question = Question("TICO-19", "with glossary", "en", "fr", "A cat, a cat.", (), (Term("cat", "chat"),))
    scores = evaluate_terms.terms_scores([question] * 2, [said("Un chat."), said("Un chat.", "term_missed")])
    row = scores["TICO-19"]["en-fr"]["with glossary"]
    assert row == {"success": 0.5, "used": 1, "warned": 0.5, "terms": 2, "occurrences": 4, "texts": 2}


def test_in_domain_terms_are_natural_or_swapped_and_asked_with_and_without(tmp_path):
    held_out = write_tests(tmp_path / "test", times=3)
    dictionary = corpus.load(write_corpus(tmp_path / "corpus"), ["fr", "zh"], frozenset()).dictionary
    questions = evaluate_terms.in_domain_questions(held_out, dictionary, ["fr", "zh"], 500)
    assert {question.set for question in questions} == {"in-domain, natural", "in-domain, swapped"}
    scores = scored(Obedient(), questions)
    for kind in ("natural", "swapped"):
        assert scores[f"in-domain, {kind}"]["all"]["with glossary"]["success"] == 1
    assert scores["in-domain, swapped"]["all"]["without glossary"]["success"] == 0
    assert evaluate_terms.in_domain_questions(held_out, dictionary, ["fr", "zh"], 500) == questions


def test_a_long_text_has_its_words_and_one_end_a_sentence(tmp_path):
    for name in evaluate_terms.LONG_TEXT_SETS:
        lines = [f"made-up\tHouse number {n} is red.\tLa maison {n} est rouge.\n" for n in range(40)]
        lines += ["made-up\tTwo. Ends here.\tDeux fins.\n", "made-up\tA heading\tUn titre\n"]
        (tmp_path / f"{name}.en-fr.tsv").write_text("doc\ten\tfr\n" + "".join(lines), encoding="utf-8")
    text = evaluate_terms.long_text(tmp_path, "en", "fr", 100)
    assert len(text.split()) == 100
    assert text.count(".") == 20
    assert len(text.split("\n\n")) == 4
    assert evaluate_terms.long_text(tmp_path, "fr", "en", 100).startswith("La maison")


@pytest.mark.parametrize(
    ("answers", "segments", "sentences"),
    [
        (("Eins. Zwei.", "Drei."), 1, 1),
        (("Eins und zwei.", "Drei."), 1, 2 / 3),
        (("One. Two.", "Drei."), 0.5, 1),
        (("", "Drei."), 0.5, 1 / 3),
        (("...", "Drei!"), 0.5, 2 / 3),
    ],
)
def test_what_did_not_come_back_of_a_long_text_is_counted(answers, segments, sentences):
    done = [SegmentDone(number, text) for number, text in enumerate(answers)]
    score = evaluate_terms.long_score("One. Two.\n\nThree.", 2, done, said("\n\n".join(answers)))
    assert score["segments came back"] == segments
    assert score["sentences came back"] == pytest.approx(sentences, abs=1e-4)


def test_warnings_of_a_long_text_are_counted_by_code():
    twice = tuple(Warning("looping", "", 0) for _ in range(2))
    done = [SegmentDone(0, "Eins.", warnings=twice), SegmentDone(1, "Zwei.")]
    score = evaluate_terms.long_score("One.\n\nTwo.", 2, done, said("Eins.\n\nZwei."))
    assert score["segments warned"] == 0.5
    assert score["warned by code"] == {"looping": 1}


def test_a_long_text_goes_through_the_stream():
    translator = Translator(EchoBackend(), Scheduler(2, 1))
    score = asyncio.run(evaluate_terms.long_scores(translator, "One line.\n\nAnother line.", "en", "de"))
    assert score["segments"] == 2
    assert score["segments came back"] == 0
    assert score["sentences came back"] == 1


def test_without_a_folder_there_is_nothing_to_ask():
    parser = argparse.ArgumentParser()
    evaluate_terms.add_arguments(parser)
    with pytest.raises(SystemExit, match="--tico"):
        evaluate_terms.run(parser.parse_args(["--backend", "echo"]))


def test_the_task_asks_what_its_folders_allow(tico, tmp_path):
    test, trained = write_tests(tmp_path / "test"), write_corpus(tmp_path / "corpus")
    (test / "flores200.devtest.en-fr.tsv").write_text("doc\ten\tfr\n\tA red house.\tUne maison rouge.\n", "utf-8")
    parser = argparse.ArgumentParser()
    evaluate_terms.add_arguments(parser)
    command = ["--backend", "echo", "--langs", "fr,zh", "--tico", str(tico), "--long", "en-fr", "--words", "30"]
    command += ["--test", str(test), "--corpus", str(trained), "--out", str(tmp_path / "out.jsonl")]
    result = evaluate_terms.run(parser.parse_args(command))
    assert result["task"] == "terms"
    assert result["scores"].keys() >= {"TICO-19", "long text"}
    assert json.loads(json.dumps(result)) == result
    table = evaluate_terms.show(result)
    assert "TICO-19, en-zh, with random terms" in table
    assert "long text, en-fr" in table
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) > 10
