"""What `evaluate markup` finds on the project's fixtures. For what it found on larger corpora see engine/README.md."""

import random
from functools import cache

import pytest

from engine.tools import evaluate, evaluate_markup
from engine.tools.evaluate_markup import DAMAGE, PSEUDO, Answer, Corpus, damaged, guarded, nesting, score
from tests.commands import result_of

CORPORA = {corpus.name: corpus for corpus in evaluate_markup.own_corpora()}
DOCUMENTS = [name for name, corpus in CORPORA.items() if corpus.documents]
SENTENCES = [name for name, corpus in CORPORA.items() if corpus.answers and " dev " not in name]
READ_OTHERWISE = {"fixtures: gfm": 1}  # `<!-->`: pulldown-cmark goes by CommonMark 0.31, the example by 0.29
BLOCK = Answer("A <s1>cat</s1><s2></s2> here", {1: ("<b>", "</b>"), 2: ("<br>", "")}, "Un <s1>chat</s1><s2></s2> ici")


@cache
def counts(name):
    return score(CORPORA[name])


def test_the_fixtures_are_all_here():
    sizes = {name: len(corpus.documents) or len(corpus.answers) for name, corpus in CORPORA.items()}
    assert sizes.items() >= {
        ("fixtures: html5lib", 143),
        ("fixtures: commonmark", 655),
        ("fixtures: gfm", 44),
        ("fixtures: XML", 6),
        ("fixtures: EUR-Lex de", 60),
        ("fixtures: EUR-Lex fr", 60),
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_not_translated_comes_back_byte_for_byte(name):
    assert counts(name)["identical"] == counts(name)["cases"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pseudo", PSEUDO)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_translation_keeps_the_skeleton(name, pseudo):
    assert counts(name)[f"{pseudo} kept"] >= counts(name)["cases"] - READ_OTHERWISE.get(name, 0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_where_blocks_step_down_the_skeleton_is_always_kept(name):
    of = counts(name)
    assert [of[f"{look} kept at last"] for look in evaluate_markup.LOOK] == [of["cases"]] * len(evaluate_markup.LOOK)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", DOCUMENTS + SENTENCES)
def test_damage_to_marks_leaves_them_valid_and_loses_no_text(name):
    of = counts(name)
    assert of["valid"] == of["answers"]
    assert of["text lost"] == of["slips not mended"] == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SENTENCES)
def test_the_guard_accepts_every_human_reference(name):
    assert counts(name)["accepted"] == counts(name)["cases"]


# ---------------------------------------------------------------------------------------------------------------------
# the tool itself


def test_a_document_that_is_not_kept_is_counted_and_the_block_at_fault_steps_down(monkeypatch):
    careless = evaluate_markup.PARSERS["html"]._replace(write=lambda _block, text: text)
    monkeypatch.setitem(evaluate_markup.PARSERS, "html", careless)
    of = score(Corpus("", "html", ["<p>one<p>two words"]))
    assert (of["accents kept"], of["hostile kept"], of["hostile kept at last"]) == (1, 0, 1)
    assert of["hostile stepped down"] == 2


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_does_damage(kind):
    assert len({damaged(BLOCK.answer, kind, random.Random(seed)) for seed in range(9)} - {BLOCK.answer}) >= 1


def test_an_answer_without_its_marks_is_made_of_its_runs():
    assert guarded(BLOCK, "Un chat ici") == ("Á <s1>ćát</s1><s2></s2> héré", False, False)
    assert guarded(BLOCK, "Un <S1>chat</S1> ici") == ("Un <s1>chat</s1> ici<s2></s2>", True, False)


def test_nesting_is_what_lies_in_what():
    assert nesting("a <s1>b<s2></s2></s1>", BLOCK.tags) == {1: 0, 2: 1}
    assert nesting("a <s1>b<s2></s1></s2>", BLOCK.tags) is None
    assert nesting("a <s1>b", BLOCK.tags) is None


def test_the_last_line_is_json_and_the_table_has_a_line_for_each_corpus(monkeypatch, capsys):
    corpora = [Corpus("pages", "markdown", ["# a *b*"]), Corpus("sentences", "text", answers=[BLOCK])]
    monkeypatch.setattr(evaluate_markup, "own_corpora", lambda: corpora)
    result, shown = result_of(capsys, evaluate, "markup")
    scores = result["scores"]
    assert scores["pages"]["identical"] == scores["sentences"]["accepted"] == 1
    assert "\npages " in shown
    assert "\nsentences " in shown
