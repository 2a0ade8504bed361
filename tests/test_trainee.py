"""One step of training: the loss, its gradients, what is computed anew, and where numbers stop being numbers."""

import argparse

import pytest
import torch
from accelerate import Accelerator

from engine.inference.model import HunYuanDense, ModelConfig
from engine.tools import corpus
from engine.tools.training import stepper, trainee
from engine.tools.training.packing import IGNORED, Encoder, collate
from engine.tools.training.precision import PRECISIONS, best_for, underflow
from engine.tools.training.stepper import Diverged, Stepper
from engine.tools.training.trainee import PackedAttention, Trainee, initialise
from tests.checkpoints import SEVEN_B, write_tokenizer

WIDTH = 128
TEXTS = [("One.", "Un."), ("Two three.", "Deux trois."), ("Vier!", "Quatre !"), ("Five six seven.", "Cinq six sept.")]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = write_tokenizer(folder, SEVEN_B, real_ids=False)
    encode = Encoder(folder)
    examples = [encode(corpus.Example("plain", prompt, answer)) for prompt, answer in TEXTS]
    shape = ModelConfig(vocabulary, 64, 96, 2, 4, 2, 16, 10_000.0, 1e-5, 256, tied_head=True)
    return argparse.Namespace(shape=shape, examples=examples)


def model_of(material):
    model = HunYuanDense(material.shape)
    initialise(model, 3)
    return model.train()


def trained(material, anew=False, rows=1, precision="fp32", teacher=None):
    attend = PackedAttention(rows, WIDTH, torch.device("cpu"))
    return Trainee(model_of(material), attend, 0.05, PRECISIONS[precision].compute, anew, teacher)


def gradients(one, batch):
    one.attend.set(batch["documents"])
    one(batch)[0].backward()
    return {name: each.grad for name, each in one.model.named_parameters()}


def steps(one, precision="fp32", lr=1e-3):
    optimizers = [torch.optim.AdamW(one.model.parameters(), lr=lr)]
    return Stepper(Accelerator(cpu=True), one, optimizers, PRECISIONS[precision], clip_norm=1.0)


def test_packed_rows_never_attend_across_documents(material):
    model = model_of(material).eval()

    def hidden(packed):
        batch = collate(packed, WIDTH, WIDTH)
        attend = PackedAttention(1, WIDTH, torch.device("cpu"))
        attend.set(batch["documents"])
        return model(batch["ids"], batch["positions"], attend)

    together, at = hidden([material.examples])[0], 0
    for example in material.examples:
        size = len(example.ids)
        assert torch.allclose(together[at : at + size], hidden([[example]])[0, :size], atol=1e-5)
        at += size


def test_layers_computed_anew_have_the_same_gradients_and_names(material):
    batch = collate([material.examples], WIDTH, WIDTH)
    kept, anew = gradients(trained(material), batch), gradients(trained(material, anew=True), batch)
    assert kept.keys() == anew.keys()
    assert all(torch.equal(kept[name], anew[name]) for name in kept)


def test_a_head_in_chunks_has_the_same_loss_and_gradients(material, monkeypatch):
    batch = collate([material.examples], WIDTH, 2 * WIDTH)
    whole = gradients(trained(material), batch)
    monkeypatch.setattr(trainee, "CHUNK_SCORES", 1)
    chunked = gradients(trained(material), batch)
    assert all(torch.allclose(whole[name], chunked[name], rtol=1e-4, atol=1e-5) for name in whole)


def test_with_a_teacher_what_is_descended_is_the_distance_from_its_probabilities(material, monkeypatch):
    """As torch reckons it, over target tokens; without a part of the teacher among what is trained."""
    batch = collate([material.examples], WIDTH, WIDTH)
    teacher = model_of(material).requires_grad_(False)
    with torch.no_grad():
        teacher.layers[0].down.weight.mul_(20)
    one, alone = trained(material, teacher=teacher), trained(material)
    one.attend.set(batch["documents"])
    alone.attend.set(batch["documents"])
    counted = batch["labels"] != IGNORED
    with torch.no_grad():
        known, learnt = (
            each(batch["ids"], batch["positions"], one.attend, torch.float32).flatten(0, 1)[batch["places"]]
            for each in (teacher, one.model)
        )
        scores = [one.model.logits(hidden)[counted].log_softmax(-1) for hidden in (learnt, known)]
    distance = torch.nn.functional.kl_div(*scores, reduction="sum", log_target=True)
    found = one(batch).detach()
    assert float(found[0]) == pytest.approx(float(distance), rel=1e-4)
    assert float(found[1]) == float(alone(batch)[1].detach())
    assert one.state_dict().keys() == alone.state_dict().keys()
    monkeypatch.setattr(trainee, "CHUNK_SCORES", 1)
    assert float(one(batch)[0].detach()) == pytest.approx(float(distance), rel=1e-4)


def test_a_model_that_is_its_own_teacher_has_nothing_to_learn(material):
    batch = collate([material.examples], WIDTH, WIDTH)
    found = gradients(trained(material, teacher=model_of(material)), batch)
    assert max(float(each.abs().max()) for each in found.values()) < 1e-4


def test_batches_gathered_into_one_update_are_one_large_batch(material):
    """By their target tokens, not each by its own mean."""
    first, second = (collate([material.examples[part]], WIDTH, WIDTH) for part in (slice(0, 1), slice(1, 4)))
    both = collate([material.examples[:1], material.examples[1:]], WIDTH, 2 * WIDTH)
    gathered, at_once = steps(trained(material)), steps(trained(material, rows=2))
    assert gathered([first, second]).norm == pytest.approx(at_once([both]).norm, rel=1e-4)


def test_what_overflows_in_the_forward_pass_is_found_where_it_begins(material, monkeypatch):
    monkeypatch.setattr(stepper, "LOWEST_SCALE", 2.0**16)
    one = trained(material, precision="amp-fp16")
    with torch.no_grad():
        one.model.layers[1].mlp_norm.weight.fill_(100)
        one.model.layers[1].down.weight.fill_(3e4)
    run = steps(one, "amp-fp16")
    before = {name: each.clone() for name, each in one.model.named_parameters()}
    with pytest.raises(Diverged, match=r"come out of layers\.1\.down; what goes in is at most"):
        run([collate([material.examples], WIDTH, WIDTH)])
    assert all(torch.equal(each, before[name]) for name, each in one.model.named_parameters())


def test_weights_that_are_broken_already_are_named(material):
    one = trained(material)
    with torch.no_grad():
        one.model.layers[0].qkv.weight[3, 3] = float("nan")
    with pytest.raises(Diverged, match=r"the weights of layers\.0\.qkv\.weight are no longer finite"):
        steps(one)([collate([material.examples], WIDTH, WIDTH)])


def test_gradients_that_overflow_while_the_loss_does_not_are_named(material):
    one = trained(material)
    one.model.layers[0].output.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Diverged, match=r"the gradients of layers\.0\.output\.weight are not"):
        steps(one)([collate([material.examples], WIDTH, WIDTH)])


def test_without_being_asked_a_cpu_computes_in_fp32_and_a_card_in_what_it_is_fast_in(monkeypatch):
    assert best_for(torch.device("cpu"))[0].name == "fp32"
    for capability, name in (((7, 5), "amp-fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert best_for(torch.device("cuda:0"))[0].name == name


def test_what_fp16_would_lose_is_counted():
    found = underflow([torch.tensor([0.0, 2.0**-26, 2.0**-20, 1.0])], scale=4.0)
    assert found == {"zero": 0.25, "lost": 0.3333, "lost_scaled": 0.0, "squares_lost": 0.6667}


def test_a_closer_look_tells_what_an_update_moved(material):
    batch = collate([material.examples], WIDTH, WIDTH)
    still = steps(trained(material), lr=0.0)([batch], look_closer=True)
    moved = steps(trained(material))([batch], look_closer=True)
    assert still.unchanged == 1.0
    assert moved.unchanged < 0.1
    assert moved.underflow["zero"] < 1
