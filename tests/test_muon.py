"""Our Muon against torch's own."""

import pytest
import torch
from torch import nn
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, DEFAULT_NS_STEPS, EPS, _zeropower_via_newtonschulz

from engine.tools.training.muon import Muon, orthogonalise

SHAPES = [(24, 64), (64, 24), (24, 64), (48, 48)]


def steps(optimizer, parameters, gradients):
    for some in gradients:
        for parameter, gradient in zip(parameters, some, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def torchs_own(stacked):
    found = (DEFAULT_A, DEFAULT_B, DEFAULT_C)
    return torch.stack([_zeropower_via_newtonschulz(each, found, DEFAULT_NS_STEPS, EPS) for each in stacked])


def test_steps_are_those_of_torch_within_a_hundredth():
    dice = torch.Generator().manual_seed(1)
    starts = [torch.randn(shape, generator=dice) for shape in SHAPES]
    gradients = [[torch.randn(shape, generator=dice) for shape in SHAPES] for _ in range(4)]
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    muon = Muon(ours, lr=0.02, weight_decay=0.1)
    muon._orthogonalise = torchs_own  # the coefficients differ on purpose; all else is to be the same
    steps(muon, ours, gradients)
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    steps(torch.optim.Muon(theirs, **options), theirs, gradients)
    for start, our, their in zip(starts, ours, theirs, strict=True):
        assert (our - their).norm() < 0.01 * (their - start).norm()


@pytest.mark.parametrize("shape", [(24, 64), (48, 48)])
def test_orthogonalised_rows_are_nearly_orthonormal(shape):
    updates = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonalise(updates).float())
    assert values.max() < 1.1
    assert values.median() > 0.9


def test_the_batched_direction_is_the_same_as_torchs_but_nearer_to_orthonormal():
    updates = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(3))
    ours, theirs = orthogonalise(updates).float(), torchs_own(updates).float()
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 0.97
    off = [(torch.linalg.svdvals(each) - 1).abs().mean() for each in (ours, theirs)]
    assert off[0] < off[1]
