"""Examples in a checkpoint's own layout, packed into batches; and a run's batches from where it was left."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigError
from engine.inference.tokenizer import ChatTokenizer
from engine.tools import corpus
from engine.tools.training.packing import IGNORED, Batches, Encoder, Source, batches, collate
from tests.checkpoints import SEVEN_B, SMALL, write_checkpoint, write_tokenizer
from tests.corpora import HELD_OUT, write_corpus, write_tests

DATA = {"rows": 2, "row_tokens": 512, "longest_example": 400, "label_share": 0.5}
NARROW = {"rows": 2, "row_tokens": 64, "label_share": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing")
    write_tokenizer(folder / "tokenizer", SEVEN_B, real_ids=False)
    write_corpus(folder / "corpus", times=30)
    return folder


@pytest.fixture(scope="module")
def encode(folder):
    return Encoder(folder / "tokenizer")


@pytest.fixture
def source(folder):
    return Source((folder / "corpus",), folder / "tokenizer", DATA, {}, "hy-mt1.5")


def plain(prompt, answer):
    return corpus.Example("plain", prompt, answer)


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


@pytest.mark.parametrize("layout", [SEVEN_B, SMALL], ids=["7B", "1.8B"])
def test_an_example_is_the_prompt_as_it_is_served_the_answer_and_the_declared_end(tmp_path, layout):
    chat = ChatTokenizer(write_checkpoint(tmp_path, layout=layout))
    encode = Encoder(tmp_path)
    specials = {chat.tokenizer.token_to_id(name) for name in layout.specials}
    encoded = encode(plain("Translate: one", "Un <|eos|> <｜hy_User｜> /think."))
    prompt = chat.prompt("Translate: one")
    assert encoded.ids[: len(prompt)] == prompt
    assert encoded.first_label == len(prompt) - 1
    assert encoded.ids[-1] == chat.tokenizer.token_to_id(layout.eos)
    assert specials.isdisjoint(encoded.ids[len(prompt) : -1])  # what is typed in a text steers nothing
    assert chat.tokenizer.decode(encoded.ids[len(prompt) : -1]) == "Un <|eos|> <｜hy_User｜> /think."


@pytest.mark.parametrize("layout", [SEVEN_B, SMALL], ids=["7B", "1.8B"])
def test_a_tokenizer_alone_tells_the_end_too(tmp_path, layout):
    write_tokenizer(tmp_path, layout, real_ids=False)
    encode = Encoder(tmp_path)
    assert encode.tokenizer.id_to_token(encode.end) == layout.eos


def test_labels_are_the_tokens_of_the_answer_and_its_end_only(encode):
    pairs = [("Translate: one", "Un."), ("Translate: two", "Deux."), ("Translate: three", "Trois, quatre.")]
    examples = [encode(plain(prompt, answer)) for prompt, answer in pairs]
    batch = collate([examples[:2], examples[2:]], 128, 128)
    counted = batch["labels"] != IGNORED
    labels = batch["labels"][counted].tolist()
    answers = [[*encode.tokenizer.encode(answer, add_special_tokens=False).ids, encode.end] for _, answer in pairs]
    assert labels == [token for answer in answers for token in answer]
    assert batch["ids"].flatten()[batch["places"][counted] + 1].tolist() == labels


def test_packing_loses_no_example_and_overfills_no_row(encode):
    examples = [encode(plain("word " * (number % 9), str(number))) for number in range(40)]
    full = list(batches(examples, NARROW))
    packed = list(batches(examples, NARROW, last=True))
    assert 3 <= len(full) < len(packed)  # some wait for a batch that does not come
    assert all(map(same, full, packed))
    assert sum((batch["ids"] == encode.end).sum().item() for batch in packed) == len(examples)
    assert all(batch["ids"].shape == (2, 64) for batch in packed)


def test_answers_for_which_there_is_no_room_wait_for_the_next_batch(encode):
    examples = [encode(plain("One.", f"{number} " * 20)) for number in range(30)]
    packed = list(batches(examples, {"rows": 4, "row_tokens": 128, "label_share": 0.25}, last=True))
    labels = [batch["labels"] for batch in packed]
    assert all(each.shape == (128,) for each in labels)
    assert sum((each != IGNORED).sum().item() for each in labels) == sum(example.labels for example in examples)


def test_the_rest_alone_is_a_batch_where_that_is_asked_for(encode):
    examples = [encode(plain("One.", "Un."))]
    assert list(batches(examples, NARROW)) == []
    assert len(list(batches(examples, NARROW, last=True))) == 1


def test_an_example_longer_than_a_row_is_left_out(encode):
    examples = [encode(plain("word " * 100, "Un.")), encode(plain("One.", "Un."))]
    (batch,) = batches(examples, NARROW, last=True)
    assert (batch["ids"] == encode.end).sum() == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("left_after", [3, 14])
def test_a_run_goes_on_with_exactly_the_batches_it_would_have_had(source, workers, left_after):
    def run(state=None):
        return Batches(source, seed=3, rank=1, ranks=2, workers=workers, state=state)

    whole = list(islice(run(), left_after + 6))
    left = run()
    assert all(map(same, whole, islice(left, left_after)))
    state = json.loads(json.dumps(left.state()))
    assert all(map(same, whole[left_after:], islice(run(state), 6)))
    assert not same(whole[0], whole[1])


def test_ranks_and_seeds_see_other_examples(source):
    first = [next(Batches(source, seed=seed, rank=rank, ranks=2)) for seed, rank in ((1, 0), (1, 1), (2, 0))]
    assert not same(first[0], first[1])
    assert not same(first[0], first[2])


@pytest.mark.parametrize("other", [{"seed": 2}, {"ranks": 3}, {"rank": 1}, {"workers": 1}])
def test_the_state_of_another_run_is_refused(source, other):
    run = {"seed": 1, "rank": 0, "ranks": 2, "workers": 0}
    state = Batches(source, **run).state()
    name, value = next(iter(other.items()))
    with pytest.raises(ConfigError, match=f"of a run with {name} {run[name]}, not {value}; resume it with what"):
        Batches(source, **run | other, state=state)


def test_a_corpus_that_has_changed_since_is_refused(source, tmp_path):
    left = Batches(source, seed=1)
    next(left)
    changed = replace(source, corpus=(write_corpus(tmp_path, times=29),))
    with pytest.raises(ConfigError, match=r"has changed since .*: 493 pairs in a share, which had 510"):
        next(Batches(changed, seed=1, state=left.state()))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_loader_worker_is_its_own_sentence(source, tmp_path, workers):
    missing = replace(source, corpus=(tmp_path / "nowhere.tsv",))
    with pytest.raises(ConfigError) as raised:
        next(Batches(missing, seed=1, workers=workers))
    assert str(raised.value) == f"There is no file or folder {str(tmp_path / 'nowhere.tsv')!r}; check the path."


def test_a_corpus_of_which_nothing_can_be_learnt_is_one_sentence(source):
    with pytest.raises(ConfigError, match="Of 10,000 examples none can be learnt from: they are longer than 5 tokens"):
        next(Batches(replace(source, data=DATA | {"longest_example": 5}), seed=1))


def test_fewer_pairs_than_workers_are_enough(source, tmp_path):
    path = tmp_path / "few.en-fr.tsv"
    path.write_text("The library is closed.\tLa bibliothèque est fermée.\nI see.\tJe vois.\n", encoding="utf-8")
    few = replace(source, corpus=(path,))
    for rank in range(5):
        assert (next(Batches(few, seed=1, rank=rank, ranks=5))["labels"] != IGNORED).any()


def test_held_out_sentences_are_never_trained_on(source, encode, tmp_path: Path):
    held_out = corpus.test_sentences(write_tests(tmp_path))
    seen = ""
    for batch in islice(Batches(replace(source, held_out=held_out), seed=1), 20):
        seen += encode.tokenizer.decode(batch["ids"].flatten().tolist())
    assert "The committee met in Lisbon" in seen
    assert HELD_OUT[0] not in seen
    assert HELD_OUT[1] not in seen
