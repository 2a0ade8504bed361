"""GPTQ tensors as AutoGPTQ, GPTQModel and Tencent's AngelSlim store them, against a plain reading in float64."""

import pytest
import torch

from engine.errors import UnsupportedModel
from engine.inference.gptq import GptqConfig, fuse, read

ROWS, COLUMNS = 24, 256
CONFIG = {"bits": 4, "quant_method": "gptq"}


def stored(fields):
    """Whole numbers 0…15 → int32, eight along the last dimension, the lowest first."""
    eights = fields.reshape(*fields.shape[:-1], -1, 8).long()
    whole = sum(eights[..., place] << (4 * place) for place in range(8))
    return torch.where(whole >= 2**31, whole - 2**32, whole).to(torch.int32)


def in_order(columns, groups, dice):
    return torch.arange(columns) // (columns // groups)


def shuffled(columns, groups, dice):
    """Act-order without static groups: any group may hold any column."""
    return in_order(columns, groups, dice)[torch.randperm(columns, generator=dice)]


def backwards(columns, groups, dice):
    """In order, but the groups' numbers fall."""
    return in_order(columns, groups, dice).flip(0)


def matrix(group_size=32, sym=True, v2=False, order=in_order, dtype=torch.float16, rows=ROWS, columns=COLUMNS, seed=0):
    """(the tensors, the weight [out, in] as float64 and the definition have it)."""
    dice = torch.Generator().manual_seed(seed)
    groups = 1 if group_size == -1 else columns // group_size
    values = torch.randint(0, 16, (columns, rows), generator=dice)
    zeros = torch.full((groups, rows), 8) if sym else torch.randint(0, 16, (groups, rows), generator=dice)
    scales = (torch.rand(groups, rows, generator=dice) + 0.01).to(dtype)
    g_idx = order(columns, groups, dice)
    packed = (
        stored(zeros) if v2 else (stored(zeros).long() - 0x11111111).to(torch.int32)
    )  # as GPTQModel, borrows and all
    tensors = {"qweight": stored(values.T).T.contiguous(), "qzeros": packed, "scales": scales, "g_idx": g_idx.int()}
    true = torch.empty(rows, columns, dtype=torch.float64)
    for column in range(columns):
        of = g_idx[column]
        true[:, column] = (values[column] - zeros[of]).double() * scales[of].double()
    return tensors, true


def config(v2=False, **more):
    return GptqConfig.read(CONFIG | {"checkpoint_format": "gptq_v2" if v2 else "gptq"} | more)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("order", [in_order, shuffled, backwards])
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("sym", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_every_layout_is_the_same_matrix_as_by_the_definition(group_size, sym, v2, order, dtype):
    tensors, true = matrix(group_size, sym, v2, order, dtype)
    weight = read(tensors, config(v2))
    assert torch.equal(weight.dequantize(), true.float())
    assert weight.group == (COLUMNS if group_size == -1 else group_size)
    assert (weight.order is None) == (order is in_order or group_size == -1)


def test_eight_bits_are_the_same_matrix_as_by_the_definition():
    dice = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (COLUMNS, ROWS), generator=dice, dtype=torch.uint8)
    zeros = torch.randint(0, 256, (2, ROWS), generator=dice, dtype=torch.uint8)  # with 0, which borrows of the next
    scales = (torch.rand(2, ROWS, generator=dice) + 0.01).half()
    tensors = {
        "qweight": values.T.contiguous().view(torch.int32).T.contiguous(),
        "qzeros": zeros.view(torch.int32) - 0x01010101,
        "scales": scales,
    }
    weight = read(tensors, GptqConfig.read({"bits": 8}))
    groups = in_order(COLUMNS, 2, dice)
    assert torch.equal(weight.dequantize(), ((values.float() - zeros.float()[groups]) * scales.float()[groups]).T)


@pytest.mark.parametrize("order", [in_order, shuffled])
def test_the_fields_mean_what_they_say(order):
    """w·x from values, zeros, scales and order alone, as a kernel would compute it."""
    tensors, true = matrix(group_size=64, sym=False, order=order)
    weight = read(tensors, config())
    x = torch.randn(COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sorted_x = x if weight.order is None else x[weight.order]
    spread = [part.double().repeat_interleave(weight.group, 1) for part in (weight.zeros, weight.scales)]
    assert torch.allclose((weight.values.double() - spread[0]) * spread[1] @ sorted_x, true @ x, rtol=1e-12)
    assert weight.values.dtype == weight.zeros.dtype == torch.uint8
    assert weight.values.is_contiguous()
    assert weight.scales.is_contiguous()
    assert weight.zeros.is_contiguous()


def test_within_a_group_columns_stay_in_order():
    weight = read(matrix(group_size=32, order=shuffled)[0], config())
    assert (weight.order.view(-1, 32).diff(dim=1) > 0).all()


def test_a_few_numbers_written_out():
    """Two groups that take turns, zero points 8 and 3."""
    packed = torch.tensor([[0x76543210], [-0x01234568]], dtype=torch.int32)  # 0…7, then 8, 9, a, b, c, d, e, f
    zeros = torch.tensor([[0x77777777], [0x22222222]], dtype=torch.int32)  # less one, as v1 stores them
    scales = torch.tensor([[0.5], [2.0]]).expand(2, 8).half()
    g_idx = torch.tensor([0, 1] * 8, dtype=torch.int32)
    weight = read({"qweight": packed.expand(2, 8), "qzeros": zeros, "scales": scales, "g_idx": g_idx}, config())
    by_hand = [(value - (3 if value % 2 else 8)) * (2.0 if value % 2 else 0.5) for value in range(16)]
    assert weight.dequantize().tolist() == [by_hand] * 8
    assert weight.order.tolist() == [*range(0, 16, 2), *range(1, 16, 2)]


@pytest.mark.parametrize("more", [{"desc_act": False}, {"desc_act": True, "static_groups": True}, {}])
def test_without_g_idx_groups_follow_each_other(more):
    tensors, true = matrix(group_size=64)
    del tensors["g_idx"]
    assert torch.equal(read(tensors, config(**more)).dequantize(), true.float())


def test_parts_of_one_input_are_joined_along_the_rows():
    parts = [matrix(order=shuffled, sym=False, rows=rows) for rows in (16, 8, 40)]
    assert not torch.equal(parts[0][0]["g_idx"], parts[1][0]["g_idx"])
    for tensors, _ in parts:
        tensors["g_idx"] = parts[0][0]["g_idx"]  # act-order sorts by the input, which they share
    weights = [read(tensors, config()) for tensors, _ in parts]
    joined = fuse(weights)
    assert torch.equal(joined.dequantize(), torch.cat([weight.dequantize() for weight in weights]))
    assert joined.values.shape == (64, COLUMNS)


@pytest.mark.parametrize("other", [{"order": shuffled, "seed": 5}, {"order": in_order}, {"group_size": 64}])
def test_parts_in_different_orders_or_groups_cannot_be_joined(other):
    weights = [read(matrix(**kind)[0], config()) for kind in ({"order": shuffled}, {"order": shuffled} | other)]
    with pytest.raises(UnsupportedModel, match=r"The parts of qkv .* --precision bf16, which widens them\."):
        fuse(weights, "qkv")


def unequal(tensors):
    tensors["g_idx"][0] = 1


def uneven(tensors):
    for name in ("qzeros", "scales"):
        tensors[name] = tensors[name][:5]


def group_out_of_range(tensors):
    tensors["g_idx"][0] = 8


def group_below_zero(tensors):
    tensors["g_idx"][0] = -1


def short_g_idx(tensors):
    tensors["g_idx"] = tensors["g_idx"][:-8]


def narrow_zeros(tensors):
    tensors["qzeros"] = tensors["qzeros"][:, :-1]


def fewer_zeros(tensors):
    tensors["qzeros"] = tensors["qzeros"][:-1]


def eight_bits(tensors):
    tensors["qweight"] = tensors["qweight"].repeat(1, 2)


def packed_in_bytes(tensors):
    tensors["qweight"] = tensors["qweight"].to(torch.int16)


def flat_scales(tensors):
    tensors["scales"] = tensors["scales"].flatten()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (unequal, "The 256 inputs of q_proj are in 8 groups of unequal sizes"),
        (uneven, "The 256 inputs of q_proj are in 5 groups of unequal sizes"),
        *(
            (spoil, "The GPTQ tensors of q_proj do not fit together")
            for spoil in (
                group_out_of_range,
                group_below_zero,
                short_g_idx,
                narrow_zeros,
                fewer_zeros,
                eight_bits,
                packed_in_bytes,
                flat_scales,
            )
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(spoil, words):
    tensors, _ = matrix()
    spoil(tensors)
    with pytest.raises(UnsupportedModel, match=rf"^{words}\.$"):
        read(tensors, config(), "q_proj")


def test_act_order_without_g_idx_is_not_guessed():
    tensors, _ = matrix()
    del tensors["g_idx"]
    with pytest.raises(UnsupportedModel, match=r"with act-order, but the tensor q_proj\.g_idx is missing"):
        read(tensors, config(desc_act=True), "q_proj")


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"bits": 3}, "of 3 bits cannot be read; 4 and 8 bits can"),
        ({}, "of None bits"),
        ({"bits": 4, "checkpoint_format": "marlin"}, "'marlin' cannot be read; 'gptq' and 'gptq_v2' can"),
        ({"bits": 4, "format": "bitblas"}, "'bitblas' cannot be read"),
        ({"bits": 4, "pack_dtype": "int64"}, "packed in int64 cannot be read; int32 can"),
    ],
)
def test_other_quantisations_are_refused_in_a_sentence(quantization, words):
    with pytest.raises(UnsupportedModel, match=words):
        GptqConfig.read(quantization)
