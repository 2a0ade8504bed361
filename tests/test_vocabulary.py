"""Training a tokenizer from pairs of texts."""

import pytest

from engine.inference.tokenizer import ChatTokenizer
from engine.tools import tokenizer
from tests.commands import call, result_of
from tests.corpora import write_corpus


@pytest.fixture(autouse=True)
def fewer_templates(monkeypatch):
    monkeypatch.setattr(tokenizer, "TEMPLATE_TIMES", 2)  # a corpus as small as this would be lost among more


def places(folder):
    return f"--corpus={folder / 'corpus'}", f"--out={folder / 'out'}"


def test_a_tokenizer_is_trained_on_every_language_of_the_corpus(tmp_path, capsys):
    write_corpus(tmp_path / "corpus", times=99)
    (tmp_path / "corpus" / "more.ja-ko.tsv").write_text("図書館です。\t도서관입니다.\n" * 99, encoding="utf-8")
    result, _ = result_of(capsys, tokenizer, *places(tmp_path), "--vocabulary=900")
    assert result["vocabulary"] == 900
    chat = ChatTokenizer(tmp_path / "out")
    assert chat.count("<s1>") == chat.count("</target>") == 1
    for said in ("図書館", "도서관입니다", " serveur", " database"):
        assert chat.count(said) <= 2
    assert chat.count("<|eos|>") > 1
    assert chat.tokenizer.id_to_token(chat.end_id) == "<|eos|>"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--vocabulary=32000"], "gives a vocabulary of [0-9,]+ tokens, not 32,000; give more text, or ask for"),
        (["--langs=fr,de"], "no pairs of de; leave out"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(tmp_path, options, sentence):
    write_corpus(tmp_path / "corpus", times=99)
    with pytest.raises(SystemExit, match=sentence):
        call(tokenizer, *places(tmp_path), *options)
