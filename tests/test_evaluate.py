"""Scores of backends whose answers are known."""

import argparse
import asyncio
import json
from dataclasses import replace

import pytest
import zstandard

from engine.backends.echo import EchoBackend
from engine.errors import ConfigError
from engine.tools import asking, corpus, evaluate, evaluate_marks, evaluate_quality, evaluate_questions
from engine.tools.evaluate_questions import Answer, Question
from engine.types import TokenChunk
from tests.commands import call, result_of
from tests.corpora import write_corpus, write_tests

OF_TATOEBA = "--sets", "tatoeba", "--langs", "fr,zh"


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


def arguments(task, test, *more):
    parser = argparse.ArgumentParser()
    task.add_arguments(parser)
    return parser.parse_args(["--test", str(test), *map(str, more)])


def run(task, backend, test, *more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "backend_of", lambda _: backend)
        return task.run(arguments(task, test, *more))


def asked_of(test, *directions, glossaries=None, limit=None):
    """The questions of all that a test holds, or of some directions."""
    sets = evaluate_questions.sets_of(test, (), (), limit)
    return evaluate_questions.questions_of(
        EchoBackend().info.family, sets, evaluate_questions.chosen(sets, directions, ()), glossaries
    )


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_a_model_that_knows_every_answer_scores_100(held_out):
    questions = asked_of(held_out)
    knowing = answers_to(questions)
    result = run(evaluate_quality, knowing, held_out)
    assert result["scores"].keys() == {"tatoeba", "dev.in-domain"}
    assert result["scores"]["tatoeba"].keys() == {"en-fr", "fr-en", "en-zh", "zh-en"}
    for scores in result["scores"]["tatoeba"].values():
        assert scores["chrf2"] == scores["chrf++"] == scores["bleu"] == pytest.approx(100)
        assert scores["cut_off"] == 0
    assert result["prompts"] == len(questions)
    assert knowing.peak == 3


def test_each_score_has_its_signature(held_out):
    result = run(evaluate_quality, EchoBackend(), held_out, *OF_TATOEBA)
    assert result["signatures"]["chrf2"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")
    assert result["signatures"]["chrf++"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:2")
    assert "tok:zh" in result["signatures"]["bleu zh"]
    assert "tok:13a" in result["signatures"]["bleu 13a"]
    assert f"`{result['signatures']['bleu zh']}`" in evaluate_quality.show(result)


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


def test_answers_that_the_checks_doubt_are_counted_by_fault():
    text = "There are 1250 windows in the old house by the river."
    said = [f"La vieille maison près de la rivière a {number} fenêtres." for number in (1250, 1350)]
    questions = [Question("tatoeba", "en", "fr", text, "", said[0])] * 4
    answers = [Answer(each, 1, "stop") for each in (*said, text, "")]
    checks = evaluate_quality.quality_scores(questions, answers)["scores"]["tatoeba"]["en-fr"]["checks"]
    assert checks == {"any": 0.75, "numbers": 0.25, "echo": 0.25, "empty": 0.25}


def test_a_line_is_one_prompt_however_many_sentences_it_has(tmp_path):
    write(tmp_path / "tatoeba.en-fr.tsv", "doc\ten\tfr", "made-up\tOne. Two. Three.\tUn. Deux. Trois.")
    questions = asked_of(tmp_path)
    prompt = "Translate the following segment into French, without additional explanation.\n\nOne. Two. Three."
    assert questions[0].prompt == prompt
    assert len(questions) == 2


def test_the_translator_is_scored_whole_when_asked_for(held_out):
    result = run(evaluate_quality, EchoBackend(), held_out, "--through-translator", "--langs", "fr")
    assert result["scores"]["tatoeba"]["en-fr"]["lines"] == 12
    assert 0 < result["scores"]["tatoeba"]["en-fr"]["chrf2"] < 100


def test_the_limit_is_lines_of_each_file(held_out):
    assert run(evaluate_quality, EchoBackend(), held_out, *OF_TATOEBA, "--limit", 2)["prompts"] == 2 * 2 * 2


# ---------------------------------------------------------------------------------------------------------------------
# what is asked


def test_a_file_of_any_kind_is_a_set_asked_in_both_directions(tmp_path):
    write(tmp_path / "a.zh-de.tsv", "你好。\tHallo.")
    fields = {"source_lang": "zh", "target_lang": "zh-Hant", "source": "计算机", "target": "電腦"}
    packed = zstandard.ZstdCompressor().compress(json.dumps(fields).encode())
    (tmp_path / "b.jsonl.zst").write_bytes(packed)
    unit = "".join(f'<tuv xml:lang="{lang}"><seg>{text}</seg></tuv>' for lang, text in (("en", "Yes."), ("fr", "Oui.")))
    write(tmp_path / "c.tmx", f'<tmx version="1.4"><header srclang="en"/><body><tu>{unit}</tu></body></tmx>')
    asked = [(each.set, each.direction, each.text, each.reference) for each in asked_of(tmp_path)]
    assert asked == [
        ("a", "zh-de", "你好。", "Hallo."),
        ("a", "de-zh", "Hallo.", "你好。"),
        ("b", "zh-zh-Hant", "计算机", "電腦"),
        ("b", "zh-Hant-zh", "電腦", "计算机"),
        ("c", "en-fr", "Yes.", "Oui."),
        ("c", "fr-en", "Oui.", "Yes."),
    ]


def test_a_folder_in_the_layout_of_flores_is_a_set(tmp_path):
    folder = tmp_path / "devtest"
    folder.mkdir()
    for name, line in (("eng_Latn", "Hello."), ("zho_Hans", "你好。"), ("deu_Latn", "Hallo.")):
        write(folder / f"{name}.devtest", line)
    assert {(each.set, each.direction) for each in asked_of(folder)} == {
        ("devtest", each) for each in ("en-de", "de-en", "en-zh", "zh-en")
    }


def test_only_the_directions_named_are_asked(tmp_path):
    file = write(tmp_path / "news.en-zh-Hant.tsv", "Hello.\t你好。")
    chosen = evaluate_questions.directions("zh-Hant-en,en-ja")
    assert [each.direction for each in asked_of(file, *chosen)] == ["zh-Hant-en"]


def test_what_a_model_does_not_speak_is_left_out_unless_named(held_out, capsys):
    french = EchoBackend(languages=["en", "fr"])
    assert run(evaluate_quality, french, held_out)["scores"]["tatoeba"].keys() == {"en-fr", "fr-en"}
    assert "echo has not learnt them: en-zh, zh-en" in capsys.readouterr().err
    named = run(evaluate_quality, EchoBackend(languages=["en", "fr"]), held_out, "--directions", "en-zh")
    assert named["scores"]["tatoeba"].keys() == {"en-zh"}


def test_a_pair_without_the_language_a_model_learnt_all_others_with_is_left_out(tmp_path):
    info = replace(EchoBackend().info, hub="en")
    assert evaluate_questions.spoken(info, [("en", "fr"), ("fr", "de"), ("de", "en")]) == [("en", "fr"), ("de", "en")]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--langs", "de"), r"no test '.*tatoeba.en-de.tsv'"),
        (("--sets", "nowhere", "--langs", "fr"), r"no test '.*nowhere.en-fr.tsv'"),
        (("--directions", "fr-zh"), r"no test|nothing to ask: the tests hold en-fr, fr-en, en-zh, zh-en"),
        (("--resume",), "name it with --out"),
        (("--glossary", "nowhere.csv"), r"glossary 'nowhere.csv' cannot be read \(No such file"),
        (("--against", "embedded"), "--against is the model itself"),
        (("--against-precision", "auto"), "--against is the model itself"),
        (("--against", "other", "--against-answers", "x"), "give one of them"),
        (("--against-answers", "nowhere.jsonl", "--limit", "1"), r"'nowhere.jsonl' cannot be read \(No such file"),
        (("--out", "nowhere/answers.jsonl"), r"'nowhere/answers.jsonl' cannot be written \(No such file"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_sentence(held_out, more, said):
    with pytest.raises(ConfigError, match=said):
        run(evaluate_quality, EchoBackend(), held_out, *more)


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("empty.en-zh.tsv", [], "holds no pairs"),
        ("one.en-zh.tsv", ["Hello."], "line 1 has 1 column"),
        ("untold.tsv", ["Hello.\t你好。"], "does not tell two languages"),
        ("page.html", ["<p>Hello.</p>"], "no file of pairs"),
    ],
)
def test_a_test_of_no_use_is_told_in_a_sentence(tmp_path, name, lines, said):
    with pytest.raises(ConfigError, match=said):
        run(evaluate_quality, EchoBackend(), write(tmp_path / name, *lines))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--precision", "int3"], "choose one of: auto, fp32"),
        (["--backend", "abacus"], "choose one of: auto, local"),
        (["--kv-dtype", "int1"], "choose one of: auto, bf16, fp8"),
        (["--against-precision", "int3"], "choose one of: auto, fp32"),
        (["--directions", "en-xx"], "'en-xx' is no direction such as en-zh"),
        (["--directions", "zh"], "'zh' is no direction such as en-zh"),
        (["--limit", "0"], "'0' is not a whole number from 1 on"),
    ],
)
def test_an_unknown_choice_is_told_by_the_command_line(tmp_path, capsys, more, said):
    with pytest.raises(SystemExit):
        arguments(evaluate_quality, tmp_path, *more)
    assert said in capsys.readouterr().err


def test_a_model_or_test_that_is_not_there_ends_the_tool_with_a_sentence(tmp_path, held_out):
    for more, said in (
        (["--test", tmp_path / "nowhere"], "no file or folder"),
        (["--test", held_out, "--model", tmp_path], "holds no config.json"),
    ):
        with pytest.raises(SystemExit, match=said):
            call(evaluate, "quality", *more)


# ---------------------------------------------------------------------------------------------------------------------
# tags and terms


TAGGED = "Press <b>Save</b> &amp; wait.\tAppuyez sur <b>Enregistrer</b> &amp; attendez."


def test_a_line_with_tags_is_asked_with_marks_and_scored_without(tmp_path):
    question = asked_of(write(tmp_path / "ui.en-fr.tsv", TAGGED), ("en", "fr"))[0]
    assert "<source>Press <s1>Save</s1> & wait.</source>" in question.prompt
    assert (question.read, question.reference) == ("Press Save & wait.", "Appuyez sur Enregistrer & attendez.")


@pytest.mark.parametrize(
    ("said", "right", "nested"),
    [
        ("<target>Appuyez sur <s1>Enregistrer</s1> & attendez.</target>", 1, 1),
        ("<target>Appuyez sur </s1>Enregistrer<s1> & attendez.</target>", 1, 0),
        ("<target>Appuyez sur Enregistrer & attendez.</target>", 0, 0),
        ("<target>Appuyez sur <s1>Enregistrer</s1> & <s2>attendez.</s2></target>", 0, 0),
    ],
)
def test_tags_are_kept_when_none_is_lost_or_added_and_they_nest(tmp_path, said, right, nested):
    file = write(tmp_path / "ui.en-fr.tsv", TAGGED)
    question = asked_of(file, ("en", "fr"))[0]
    result = run(evaluate_quality, Knowing({question.prompt: said}), file, "--directions", "en-fr")
    row = result["scores"]["ui"]["en-fr"]
    assert row["tags"] == {"right": right, "right and well nested": nested, "lines": 1}
    assert row["chrf2"] == 100  # which is of what a reader reads
    assert "tags kept" in evaluate_quality.show(result)


def test_through_the_translator_tags_are_html(tmp_path):
    file = write(tmp_path / "ui.en-fr.tsv", TAGGED, 'One<x id="1"/> two.\tUn<x id="1"/> deux.')
    result = run(evaluate_quality, EchoBackend(), file, "--directions", "en-fr", "--through-translator")
    assert result["scores"]["ui"]["en-fr"]["tags"] == {"right": 1, "right and well nested": 1, "lines": 2}


@pytest.mark.parametrize(
    "line",
    [
        "Use `<b>x</b>` here.\tUtilisez `<b>x</b>` ici.",
        "A <button> element.\tUn élément <button>.",
        "A <b>word</b>.\tUn mot.",
        "If a < b and c > d.\tSi a < b et c > d.",
        "<i>one <b>two</i> three</b>.\t<i>un <b>deux</i> trois</b>.",
    ],
    ids=["code", "never closed", "not in the reference", "no tags", "crossing"],
)
def test_what_only_looks_like_tags_is_asked_as_it_is(tmp_path, line):
    question = asked_of(write(tmp_path / "ui.en-fr.tsv", line), ("en", "fr"))[0]
    assert question.markup == ""
    assert question.text == line.partition("\t")[0]


def test_terms_of_a_glossary_are_asked_for_and_counted(tmp_path):
    file = write(tmp_path / "news.en-fr.tsv", "The cat sleeps.\tLe matou dort.", "The dog eats.\tLe chien mange.")
    glossary = write(tmp_path / "terms.csv", "fr,en", "matou,cat", "cabot,dog")
    terms = evaluate_questions.glossaries_of(glossary, [("en", "fr"), ("fr", "en")])
    questions = asked_of(file, ("en", "fr"), glossaries=terms)
    assert questions[0].prompt.startswith("参考下面的翻译：\ncat 翻译成 matou\n")
    options = ("--directions", "en-fr", "--glossary", glossary)
    result = run(evaluate_quality, answers_to(questions), file, *options)
    expected = {"success": 0.5, "used": 0.5, "terms": 2, "occurrences": 2}
    assert result["scores"]["news"]["en-fr"]["terms"] == expected
    whole = run(evaluate_quality, EchoBackend(), file, *options, "--through-translator")
    assert whole["scores"]["news"]["en-fr"]["terms"]["occurrences"] == 2
    assert "50.0% of 2" in evaluate_quality.show(result)


def test_a_glossary_must_fit_what_is_asked(tmp_path):
    untold = write(tmp_path / "untold.csv", "cat,matou")
    assert evaluate_questions.glossaries_of(untold, [("en", "fr")])["en", "fr"][0].target == "matou"
    with pytest.raises(ConfigError, match="does not say which languages"):
        evaluate_questions.glossaries_of(untold, [("en", "fr"), ("fr", "en")])
    with pytest.raises(ConfigError, match=r"of no use here\. The file has no terms in French"):
        evaluate_questions.glossaries_of(write(tmp_path / "de.csv", "en,de,it", "cat,Katze,gatto"), [("en", "fr")])


# ---------------------------------------------------------------------------------------------------------------------
# marks


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
    result = run(evaluate_marks, answers_to(questions), held_out, "--corpus", corpus_folder, "--langs", "fr,zh")
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


def test_the_tool_prints_a_table_and_ends_with_json(held_out, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    options = ["--backend", "echo", "--test", held_out, "--langs", "fr", "--sets", "tatoeba", "--limit", 3]
    result, shown = result_of(capsys, evaluate, "quality", *options, "--out", out)
    assert result["scores"]["tatoeba"]["en-fr"]["lines"] == 3
    assert "| tatoeba | en-fr     |     3 |" in shown
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(records) == 6
    assert records[0]["answer"] == records[0]["source"]


def test_a_real_model_is_driven_through_its_backend(held_out, tiny_checkpoint, capsys):
    options = ["--test", held_out, "--langs", "fr", "--sets", "tatoeba", "--limit", 2, "--concurrent", 4]
    result, _ = result_of(capsys, evaluate, "quality", "--model", tiny_checkpoint, *options)
    assert result["device"] == "cpu"
    assert result["prompts"] == 4
    assert result["tokens"] > 0
