"""The pairs that show what context fixes, and the tool that scores them, on answers that are known."""

import argparse
import json
from collections import Counter, defaultdict

import pytest

from engine.backends.echo import EchoBackend
from engine.tools import asking, evaluate_context
from engine.tools.evaluate_context import (
    COLUMNS,
    PAIRS,
    WAYS,
    Outcome,
    Pair,
    Text,
    documents,
    documents_scores,
    is_leaked,
    is_right,
    pairs_scores,
    read_pairs,
    show,
)
from engine.types import TokenChunk

FIXTURE = read_pairs(PAIRS)
OTHERS = "zh ja fr es de ko pt ru it".split()
DIRECTIONS = {f"en-{lang}" for lang in OTHERS} | {f"{lang}-en" for lang in OTHERS}
KINDS = {"pronoun", "sense", "formality", "gender", "ellipsis", "name"}
LONGEST_TEXT = 60  # characters
BANK = Pair("en-de", "sense", "We walked along the river.", "The bank was steep.", ("ufer",), ("_bank_",))
HERS = Pair("fr-en", "pronoun", "Marie lit.", "Son livre est rouge.", ("_her_",), ("_his_",))
HIS = Pair("fr-en", "pronoun", "Paul lit.", "Son livre est rouge.", ("_his_",), ("_her_",))


def readings():
    """Each ambiguous text with all its pairs."""
    by_text = defaultdict(list)
    for pair in FIXTURE:
        by_text[pair.direction, pair.text].append(pair)
    return by_text


def arguments(*given):
    parser = argparse.ArgumentParser()
    evaluate_context.add_arguments(parser)
    return parser.parse_args(given)


# ---------------------------------------------------------------------------------------------------------------------
# the fixture


def test_every_direction_has_thirty_pairs():
    assert Counter(pair.direction for pair in FIXTURE) == dict.fromkeys(DIRECTIONS, 30)


def test_kinds_are_known_and_each_direction_has_several():
    assert {pair.kind for pair in FIXTURE} == KINDS
    for direction in DIRECTIONS:
        assert len({pair.kind for pair in FIXTURE if pair.direction == direction}) >= 2


def test_no_pair_comes_twice():
    assert max(Counter((pair.direction, pair.context, pair.text) for pair in FIXTURE).values()) == 1


def test_every_text_comes_with_two_contexts_of_the_same_kind():
    for key, pairs in readings().items():
        assert len({pair.context for pair in pairs}) == len(pairs) == 2, key
        assert len({pair.kind for pair in pairs}) == 1, key


def test_what_is_right_in_one_context_is_wrong_in_the_other():
    for pair, other in (pairs[order] for pairs in readings().values() for order in (slice(2), slice(None, None, -1))):
        for answer in pair.right:
            assert not is_right(other, answer), (other, answer)


def test_every_right_answer_is_right_by_itself():
    for pair in FIXTURE:
        for answer in pair.right:
            assert is_right(pair, answer), (pair, answer)


def test_a_text_that_is_not_translated_is_not_right():
    assert [pair for pair in FIXTURE if pair.kind != "name" and is_right(pair, pair.text)] == []


def test_texts_and_contexts_are_short_sentences():
    for pair in FIXTURE:
        for sentence in (pair.context, pair.text):
            assert sentence == sentence.strip()
            assert sentence[-1] in ".?!。？！", sentence
            assert len(sentence) <= LONGEST_TEXT, sentence


# ---------------------------------------------------------------------------------------------------------------------
# right, leaked


@pytest.mark.parametrize(
    ("translation", "right"),
    [
        ("Das Ufer war steil.", True),
        ("DAS FLUSSUFER!", True),
        ("Die Bank war steil.", False),
        ("Das Ufer der Bank war steil.", False),
        ("Die Banken am Ufer", True),
        ("", False),
    ],
)
def test_a_translation_is_right_with_a_right_word_and_no_wrong_one(translation, right):
    assert is_right(BANK, translation) == right


@pytest.mark.parametrize(
    ("translation", "right"), [("Il est là.", True), ("Le fil est là", False), ("« Il »", True), ("Est-il là ?", True)]
)
def test_an_underscore_is_the_edge_of_a_word(translation, right):
    assert is_right(Pair("en-fr", "pronoun", "", "", ("_il_",)), translation) == right


@pytest.mark.parametrize(
    ("answer", "leaked"),
    [
        ("La voiture est neuve. Elle est rapide.", True),
        ("la voiture est neuve", True),
        ("La voiture que nous avons achetée est rapide.", True),
        ("Elle est rapide.", False),
        ("La voiture est rapide.", False),
    ],
)
def test_an_answer_that_brings_its_context_along_is_a_leak(answer, leaked):
    assert is_leaked(answer, "Il est rapide.", "La voiture est neuve.") == leaked


def test_nothing_leaks_from_a_context_without_words():
    assert not is_leaked("Un, deux.", "Un, deux.", "…")


# ---------------------------------------------------------------------------------------------------------------------
# scores


def test_context_fixes_what_was_wrong_and_spoils_what_was_right():
    outcomes = [
        Outcome(HERS, "His book is red.", "Her book is red.", "His book is red.", "Marie reads."),
        Outcome(HIS, "His book is red.", "Her book is red.", "His book is red.", "Paul reads."),
    ]
    of = pairs_scores(outcomes)["all"]
    assert (of["pairs"], of["right_without"]) == (2, 0.5)
    assert (of["right_box"], of["box_fixes"], of["box_spoils"], of["box_told_apart"]) == (0.5, 1, 1, 0)
    assert (of["right_window"], of["window_fixes"], of["window_spoils"], of["window_told_apart"]) == (0.5, 0, 0, 0)
    assert of["box_leaks"] == of["window_leaks"] == 0


def test_a_text_is_told_apart_when_it_is_right_in_both_contexts():
    outcomes = [
        Outcome(HERS, "His", "Her", "Marie reads. Her book.", "Marie reads."),
        Outcome(HIS, "His", "His", "His", "Paul reads."),
    ]
    of = pairs_scores(outcomes)["fr-en"]
    assert of["box_told_apart"] == of["window_told_apart"] == 1
    assert (of["box_leaks"], of["window_leaks"]) == (0, 0.5)


def test_scores_are_of_all_and_of_each_kind_and_direction():
    scores = pairs_scores([Outcome(pair, "", "", "", "") for pair in (BANK, HERS, HIS)])
    assert {name: of["pairs"] for name, of in scores.items()} == {
        "all": 3,
        "sense": 1,
        "pronoun": 2,
        "en-de": 1,
        "fr-en": 2,
    }


def test_documents_are_scored_with_the_window_off_and_on():
    texts = [Text("en-fr", "One.", "Une seule voiture."), Text("fr-en", "Un.", "Only one car.")]
    scores = documents_scores(texts, ["Une seule voiture.", "???"], ["Une seule voiture.", "Only one car."])
    assert scores == {
        "en-fr": {"documents": 1, "off": 100, "on": 100, "difference": 0},
        "fr-en": {"documents": 1, "off": 0, "on": 100, "difference": 100},
        "all": {"documents": 2, "off": 50, "on": 100, "difference": 50},
    }


# ---------------------------------------------------------------------------------------------------------------------
# the run


class Reader(EchoBackend):
    """Takes a book for his unless its prompt speaks of Marie."""

    async def stream(self, prompt):
        hers = "Marie" in prompt.text and "Marie" not in prompt.source
        yield TokenChunk("Her book." if hers else "His book.")
        yield TokenChunk("", tokens=0, finish="stop")


def test_context_reaches_the_model_in_both_ways(tmp_path, monkeypatch):
    rows = [("fr-en", "pronoun", each.context, each.text, each.right[0], each.wrong[0]) for each in (HERS, HIS)]
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join("\t".join(row) for row in [COLUMNS, *rows]), encoding="utf-8")
    monkeypatch.setattr(asking, "backend_of", lambda _: Reader())
    out = tmp_path / "answers.jsonl"
    result = evaluate_context.run(arguments("--pairs", str(path), "--out", str(out)))
    of = result["scores"]["pairs"]["all"]
    assert (result["task"], of["pairs"], of["right_without"]) == ("context", 2, 0.5)
    for way in WAYS:
        assert (of[f"right_{way}"], of[f"{way}_fixes"], of[f"{way}_spoils"]) == (1, 1, 0)
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["right_answers"]["without"] for record in records] == [False, True]


def test_the_fixture_runs_through_the_echo_and_nothing_leaks_from_it():
    result = evaluate_context.run(arguments("--backend", "echo", "--langs", "fr"))
    of = result["scores"]["pairs"]["all"]
    assert of["pairs"] == 60
    assert of["box_leaks"] == of["window_leaks"] == of["box_fixes"] == 0
    assert "\nen-fr " in show(result)


def write_lines(folder, lang, origins):
    lines = [f"{origin}\tLine {number}.\tZeile {number}." for number, origin in enumerate(origins)]
    text = "\n".join([f"doc\ten\t{lang}", *lines])
    (folder / f"flores200.devtest.en-{lang}.tsv").write_text(text + "\n", encoding="utf-8")


def test_lines_of_one_origin_are_a_document_and_six_where_none_is_named(tmp_path):
    write_lines(tmp_path, "de", ["a", "a", "b", *[""] * 8])
    texts = documents(tmp_path, ["de"], None)
    assert [text.text.count("Line") for text in texts[::2]] == [2, 1, 6, 2]
    assert texts[:2] == [
        Text("en-de", "Line 0. Line 1.", "Zeile 0. Zeile 1."),
        Text("de-en", "Zeile 0. Zeile 1.", "Line 0. Line 1."),
    ]


def test_sentences_of_japanese_documents_stand_side_by_side(tmp_path):
    write_lines(tmp_path, "ja", ["a", "a"])
    assert documents(tmp_path, ["ja"], None)[1].text == "Zeile 0.Zeile 1."


def test_the_limit_is_lines_of_each_file(tmp_path):
    write_lines(tmp_path, "de", [""] * 9)
    assert [text.text.count("Line") for text in documents(tmp_path, ["de"], 7)[::2]] == [6, 1]


def test_documents_are_translated_where_there_is_a_test(tmp_path):
    write_lines(tmp_path, "de", [""] * 7)
    result = evaluate_context.run(arguments("--backend", "echo", "--langs", "de,fr", "--test", str(tmp_path)))
    found = result["scores"]["documents"]
    assert {name: (of["documents"], of["difference"]) for name, of in found.items()} == {
        "en-de": (2, 0),
        "de-en": (2, 0),
        "all": (4, 0),
    }
    assert "difference" in show(result)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not begin with the columns direction, kind"),
        ("direction\tkind\n", "does not begin with the columns"),
        ("\t".join(COLUMNS) + "\nen-de\tsense\tOne.\n", "Line 2 of"),
        ("\t".join(COLUMNS) + "\nen-de\tsense\tOne.\tTwo.\t\tno\n", "Line 2 of"),
    ],
)
def test_a_table_that_is_none_is_told_by_its_line(tmp_path, text, said):
    (tmp_path / "pairs.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=said):
        read_pairs(tmp_path / "pairs.tsv")


def test_a_folder_without_a_test_ends_the_run_with_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="no flores200"):
        evaluate_context.run(arguments("--backend", "echo", "--langs", "de", "--test", str(tmp_path)))


def test_languages_without_a_pair_end_the_run_with_a_sentence():
    with pytest.raises(SystemExit, match="look at --langs"):
        evaluate_context.run(arguments("--backend", "echo", "--langs", "th"))
