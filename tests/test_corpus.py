"""What a training example looks like."""

import random
import re
from collections import Counter
from itertools import islice

import pytest

from engine.errors import ConfigError
from engine.tools import corpus
from engine.tools.corpus import ExampleMaker, Mix
from engine.tools.evaluate_questions import is_well_nested
from engine.tools.pairs import Pair
from tests.corpora import HELD_OUT, write_corpus, write_tests

MARK = re.compile(r"</?s\d>")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return corpus.load(write_corpus(tmp_path_factory.mktemp("corpus")), ["fr", "zh"], frozenset())


def examples_of(loaded, family="hy-mt1.5", **shares):
    """Many examples, most of them of the kind named."""
    mix = Mix(**({"marks": 0.0, "terms": 0.0, "context": 0.0, "join": 0.0} | shares))
    made = ExampleMaker(loaded, mix, random.Random(), family).examples("1")
    return list(islice((example for example, _ in made if example), 400))


def source_of(prompt):
    return prompt.rpartition("\n")[2]


def test_marks_are_the_same_and_well_nested_on_both_sides(loaded):
    marked = [example for example in examples_of(loaded, marks=1.0) if example.kind == "marks"]
    assert len(marked) > 100
    for example in marked:
        source = source_of(example.prompt).removeprefix("<source>").removesuffix("</source>")
        answer = example.answer.removeprefix("<target>").removesuffix("</target>")
        assert Counter(MARK.findall(source)) == Counter(MARK.findall(answer))
        assert is_well_nested(MARK.findall(source))
        assert is_well_nested(MARK.findall(answer))


def test_without_its_marks_an_example_is_the_pair_it_was_made_from(loaded):
    sides = {(pair.first, pair.second) for pair in loaded.pairs}
    for example in examples_of(loaded, marks=1.0):
        if example.kind == "marks":
            both = (MARK.sub("", side) for side in (source_of(example.prompt)[8:-9], example.answer[8:-9]))
            source, answer = both
            assert (source, answer) in sides or (answer, source) in sides


def test_marks_stand_around_the_same_words_on_both_sides(loaded):
    pair = Pair("made-up", "The server sends a request.", "Le serveur envoie une requête.", "fr")
    made = {ExampleMaker(loaded, Mix(), random.Random(seed)).with_marks(pair, False).answer for seed in range(40)}
    assert "<target>Le <s1>serveur</s1> envoie une <s2>requête</s2>.</target>" in made


def test_a_term_that_occurs_is_obeyed_in_the_answer(loaded):
    termed = [example for example in examples_of(loaded, terms=1.0) if example.kind == "terms"]
    obeyed = 0
    for example in termed:
        for term in example.terms:
            if term.source.casefold() in source_of(example.prompt).casefold():
                assert term.target in example.answer
                obeyed += 1
    assert obeyed > 100


def test_some_terms_ask_for_what_nobody_would_guess(loaded):
    usual = {(pair.first, pair.second) for pair in loaded.pairs}
    usual |= {(other, english) for english, other in usual}
    answers = {
        (source_of(example.prompt), example.answer)
        for example in examples_of(loaded, terms=1.0)
        if example.kind == "terms"
    }
    assert answers - usual


def test_each_kind_is_in_hy_mts_own_words(loaded):
    made = examples_of(loaded, marks=0.25, terms=0.25, context=0.25)
    patterns = {
        "plain": "(Translate the following segment into (French|English), without additional explanation.\n\n.+"
        "|将以下文本翻译为(中文|英语)，注意只需要输出翻译后的结果，不要额外解释：\n\n.+)",
        "terms": "参考下面的翻译：\n(.+ 翻译成 .+\n)+\n"
        "将以下文本翻译为(中文|英语|法语)，注意只需要输出翻译后的结果，不要额外解释：\n.+",
        "context": ".+\n参考上面的信息，把下面的文本翻译成(中文|英语|法语)，注意不需要翻译上文，也不要额外解释：\n.+",
        "marks": "将以下<source></source>之间的文本翻译为(中文|英语|法语)，注意只需要输出翻译后的结果，不要额外解释，"
        "原文中的<sn></sn>标签表示标签内文本包含格式信息，需要在译文中相应的位置尽量保留该标签。"
        "输出格式为：<target>str</target>\n\n<source>.+</source>",
    }
    assert {example.kind for example in made} == set(patterns)
    assert [example.prompt for example in made if not re.fullmatch(patterns[example.kind], example.prompt)] == []


def test_neighbours_are_joined_to_short_paragraphs(loaded):
    joined = [example for example in examples_of(loaded, join=1.0) if example.kind == "join"]
    assert any(example.answer.count(".") >= 2 for example in joined)


def test_traditional_chinese_is_read_and_never_written(loaded):
    made = examples_of(loaded, marks=0.2, terms=0.2, context=0.2, join=0.2)
    assert any("學" in example.prompt for example in made)
    assert not any("學" in example.answer for example in made)


def test_held_out_sentences_are_left_out(tmp_path):
    held_out = corpus.test_sentences(write_tests(tmp_path / "test"))
    left = corpus.load(write_corpus(tmp_path / "corpus"), ["fr"], held_out)
    assert set(HELD_OUT) <= held_out
    assert not {pair.first for pair in left.pairs} & held_out


def test_workers_share_the_pairs_and_all_know_the_dictionary(tmp_path):
    folder = write_corpus(tmp_path, times=20)  # more than one block of pairs
    whole = corpus.load(folder, ["fr"], frozenset())
    shares = [corpus.load(folder, ["fr"], frozenset(), worker, 2) for worker in (0, 1)]
    assert [len(share.pairs) > 0 for share in shares] == [True, True]
    assert sum(len(share.pairs) for share in shares) == len(whole.pairs)
    assert shares[1].dictionary == whole.dictionary == corpus.dictionary_of(folder, ["fr"])
    assert whole.dictionary["fr"]["database"] == ["base de données"]


@pytest.mark.parametrize("workers", [2, 7, 200])
def test_a_small_corpus_leaves_no_worker_without_pairs(tmp_path, workers):
    folder = write_corpus(tmp_path, times=10)
    whole = corpus.load(folder)
    shares = [corpus.load(folder, worker=worker, workers=workers) for worker in range(workers)]
    assert len(whole.pairs) == 170
    assert min(len(share.pairs) for share in shares) > 0
    assert {pair for share in shares for pair in share.pairs} == set(whole.pairs)
    if workers < 100:  # else several have the same
        assert sum(len(share.pairs) for share in shares) == len(whole.pairs)


def test_pairs_that_were_no_neighbours_are_no_context_of_each_other(tmp_path):
    lines = [f"Line {number:03}.\tZeile {number:03}.\n" for number in range(200)]
    (tmp_path / "a.en-de.tsv").write_text("".join(lines))
    share = corpus.load(tmp_path, worker=1, workers=4)
    assert share.block < 60  # less than its share
    made = [example for example in examples_of(share, context=1.0) if example.kind == "context"]
    for example in made:
        before, it = map(int, re.findall(r"\d\d\d", example.prompt))
        assert it == before + 1
    assert len(made) > 100


def test_any_two_languages_are_learnt_from(tmp_path):
    lines = [
        ("Le fichier `a_1` est ici, et là.", "Die Datei `a_1` ist hier, und dort."),
        ("Merci bien !", "Vielen Dank!"),
    ]
    (tmp_path / "a.fr-de.tsv").write_text("".join("\t".join(line) + "\n" for line in lines * 10), encoding="utf-8")
    made = examples_of(corpus.load(tmp_path), marks=0.25, terms=0.25, context=0.2, join=0.2)
    assert {example.kind for example in made} == {"plain", "marks", "terms", "context", "join"}
    said = {example.prompt.partition("\n")[0] for example in made if example.kind == "plain"}
    assert said == {
        f"Translate the following segment into {lang}, without additional explanation." for lang in ("French", "German")
    }


def test_english_is_the_first_side_wherever_it_stood(tmp_path):
    (tmp_path / "a.fr-en.tsv").write_text("serveur\tserver\nbase de données\tdatabase\n", encoding="utf-8")
    loaded = corpus.load(tmp_path)
    assert loaded.pairs[0] == Pair("a.fr-en", "server", "serveur", "fr")
    assert loaded.dictionary == {"fr": {"server": ["serveur"], "database": ["base de données"]}}


def test_only_pairs_of_the_languages_wanted_and_english_are_loaded(tmp_path):
    write_corpus(tmp_path)
    (tmp_path / "a.fr-zh.tsv").write_text("Oui.\t是。\n", encoding="utf-8")
    assert {pair.lang for pair in corpus.load(tmp_path, ["zh"]).pairs} == {"zh"}
    assert {(pair.first_lang, pair.lang) for pair in corpus.load(tmp_path, ["fr", "zh"]).pairs} == {
        ("en", "fr"),
        ("en", "zh"),
        ("fr", "zh"),
    }


def test_a_language_the_corpus_has_not_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="no pairs of de, ja; leave out what the corpus has not"):
        corpus.load(write_corpus(tmp_path), ["fr", "de", "ja"])


def test_a_corpus_of_held_out_pairs_only_is_one_sentence(tmp_path):
    (tmp_path / "a.en-fr.tsv").write_text("Yes.\tOui.\n")
    with pytest.raises(ConfigError, match="no pairs but of other languages or held out for tests; give"):
        corpus.load(tmp_path, held_out=frozenset({"Oui."}))


def test_another_familys_examples_are_in_its_own_templates(loaded):
    made = examples_of(loaded, "hy-mt2", marks=0.4, terms=0.2, context=0.2)
    assert {example.kind for example in made} == {"plain", "terms", "context"}  # it has no template for marks
    assert any(example.prompt.startswith("Translate the following text into") for example in made)
    assert any(example.prompt.startswith("【背景信息】") for example in made)


def test_examples_go_on_from_a_position_as_they_would_have(loaded):
    def run(*start):
        return ExampleMaker(loaded, Mix(), random.Random()).examples("7", *start)

    whole = list(islice(run(), 100))
    assert whole[-1][1].epoch > 1
    for left in (3, 31, 32, 33, 60):
        assert list(islice(run(whole[left - 1][1]), 40)) == whole[left : left + 40]


def test_a_pair_is_seen_as_often_as_its_language_and_its_source_say(loaded):
    origin = loaded.pairs[0].origin
    mix = Mix(0, 0, 0, 0, langs={"zh": 2.0}, origins={origin: 3.0})
    seen = Counter(number // 2 for number in ExampleMaker(loaded, mix, random.Random(1))._epoch())
    for index, pair in enumerate(loaded.pairs):  # in both directions each time
        assert seen[index] == 2 * (2 if pair.lang == "zh" else 1) * (3 if pair.origin == origin else 1)
    assert len(set(seen.values())) > 1
