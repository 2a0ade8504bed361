"""What is tested with has nothing of what is trained on."""

import json
from itertools import pairwise

import pytest

from engine.errors import ConfigError
from engine.tools import pairs, split
from engine.tools.pairs import Pair
from tests.commands import call, refusal_of, result_of


def made(documents=20, lines=15):
    """Pairs of several documents; each has a line of its own and one that is in all of them."""
    return [
        Pair(f"doc{document}", f"Line {line} of {document}.", f"Zeile {line} von {document}.", "de")
        if line
        else Pair(f"doc{document}", "Thank you!", f"Danke, {document}.", "de")
        for document in range(documents)
        for line in range(lines)
    ]


def texts(some):
    return {split.bare(side) for pair in some for side in (pair.first, pair.second)}


@pytest.mark.parametrize("share", [0.05, 0.333, 0.9])
def test_no_text_stands_on_both_sides(share):
    found = split.split(made(), share, 1)
    assert texts(found.train).isdisjoint(texts(found.test))
    assert 0.6 * share < len(found.test) / 300 <= share
    assert len(found.train) + len(found.test) + found.left_out == 300


def test_a_short_document_stays_whole_and_a_long_one_in_blocks():
    found = split.split(made(), 0.5, 1)
    documents = {pair.origin for pair in found.test}
    assert documents.isdisjoint(pair.origin for pair in found.train)
    long = made(documents=1, lines=200)
    places = [long.index(pair) for pair in split.split(long, 0.5, 1).test]
    assert sum(after - before == 1 for before, after in pairwise(places)) > 0.8 * len(places)


def test_what_differs_in_case_width_or_punctuation_only_is_there_twice():
    twice = [Pair("a", "The end.", "完了！", "zh"), Pair("b", "the  END", "完了", "zh"), Pair("b", "…", "……", "zh")]
    assert split.split([*made(), *twice], 0.5, 1).duplicates == 1


def test_another_seed_splits_in_another_way():
    first, again, other = (split.split(made(), 0.3, seed).test for seed in (1, 1, 2))
    assert first == again != other


def test_the_command_writes_files_that_are_read_again(tmp_path, capsys):
    lines = [
        {
            "source_lang": "zh-TW",
            "target_lang": "en",
            "source": f"第{n}行\t。",
            "target": f"Line\n{n}.",
            "origin": f"d{n}",
        }
        for n in range(30)
    ]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    told, _ = result_of(capsys, split, tmp_path / "all.jsonl", "--out", tmp_path / "out", "--test", "0.2")
    assert told["files"] == ["train.zh-hant-en.tsv", "test.zh-hant-en.tsv"]
    train, test = (list(pairs.read(tmp_path / "out" / name)) for name in told["files"])
    assert (len(train), len(test)) == (told["train"], told["test"]) == (24, 6)
    assert {(pair.first_lang, pair.lang) for pair in train} == {("zh-Hant", "en")}
    assert {pair.second for pair in train + test} == {f"Line {n}." for n in range(30)}


def test_what_cannot_be_split_is_one_sentence(tmp_path, capsys):
    with pytest.raises(ConfigError, match="1 different pairs give 1 to train on and 0 to test with; give more pairs"):
        split.split(made()[:1], 0.5, 1)
    with pytest.raises(SystemExit, match="There is no file or folder"):
        call(split, tmp_path / "nowhere.tsv", "--out", tmp_path, "--test", "0.2")
    assert "--test: give a share below 1" in refusal_of(capsys, split, tmp_path, "--out", tmp_path, "--test", "1.5")
