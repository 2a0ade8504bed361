"""On a card: every kernel for INT4 matrices against `Int4Weight.dequantize` in float64, in memory full of NaN."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import UnsupportedModel
from engine.inference import int4
from engine.inference.gptq import Int4Weight
from engine.inference.int4 import FORMS, ROW_STEPS, STEADY, WIDE_FORMS, Choice, Int4Linear, Kernels
from tests.gpu.conftest import CARD

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]  # some hundred kernels are compiled when they are first wanted
# Outputs and inputs. Of the first all forms take all groups; the second has an odd number of blocks of inputs a split.
SHAPES = ((768, 1_024), (256, 1_920))
GROUPS = (32, 64, 128, None)  # inputs a scale; None: all of them
ROWS = (1, 2, 3, 8, 9, 15, 16, 17, 33, 64, 65, 131, 257)
SPLITS = (1, 2, 3, 4)
# Of the whole result. Weights in 16 bits are rounded once or twice, and a gated product's result is, too.
MOST_ERROR = {torch.bfloat16: 8e-3, torch.float16: 1.2e-3}
# Of a single number: of the size of a usual one, and of its own. A wrong one is off by a usual one.
ONE_OFF = {torch.bfloat16: (0.15, 0.03), torch.float16: (0.02, 0.004)}


def some_weight(outs: int, ins: int, group: int | None, symmetric: bool = True, ordered: bool = False) -> Int4Weight:
    dice = torch.Generator(CARD).manual_seed(outs + ins)
    size = group or ins
    shape = (outs, ins // size)
    zeros = torch.randint(0, 16, shape, dtype=torch.uint8, generator=dice, device=CARD)
    return Int4Weight(
        values=torch.randint(0, 16, (outs, ins), dtype=torch.uint8, generator=dice, device=CARD),
        scales=(torch.rand(shape, generator=dice, device=CARD) * 0.01 + 0.001).half(),
        zeros=torch.full_like(zeros, 8) if symmetric else zeros,
        order=torch.randperm(ins, generator=dice, device=CARD) if ordered else None,
        group=size,
    )


def some_input(rows: int, ins: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, ins, generator=torch.Generator(CARD).manual_seed(rows), device=CARD).to(dtype)


def true_product(weight: Int4Weight, x: Tensor, gated: bool) -> Tensor:
    """In float64. The widened matrix is exact in fp32: four bits times a scale of eleven."""
    true = x.double() @ weight.dequantize().double().T
    if not gated:
        return true
    gate, up = true.chunk(2, -1)
    return F.silu(gate) * up


def assert_near(said: Tensor, true: Tensor, dtype: torch.dtype, what: object) -> None:
    off, usual = (said.double() - true).abs(), true.square().mean().sqrt()
    whole = (off.norm() / true.norm()).item()
    assert whole < MOST_ERROR[dtype], (what, whole)  # NaN is not below it
    part_of_usual, part_of_own = ONE_OFF[dtype]
    most = (off / (part_of_usual * usual + part_of_own * true.abs())).max().item()
    assert most < 1, (what, f"one number is {most:.1f} times as far off as it may be")


def served_product(linear: Int4Linear, x: Tensor) -> Tensor:
    if linear.gated:
        made = linear.activation(x)
        assert isinstance(made, Tensor)
        return made.double()
    product = linear.product(x)
    return product.data.double().sum(0) if product.splits else product.data.double()


Loaded = Callable[[torch.dtype], Kernels]


@pytest.fixture(scope="module")
def kernels() -> Loaded:
    """Every form, compiled for every kind of group, gated and not; one set for each dtype."""
    made: dict[torch.dtype, Kernels] = {}

    def loaded(dtype: torch.dtype) -> Kernels:
        if dtype not in made:
            made[dtype] = Kernels(CARD, dtype)
            kinds = product(GROUPS, (0, 1), (True, False))
            linears = [linear_of(some_weight(*SHAPES[0], group, even), gated) for group, gated, even in kinds]
            made[dtype]._compile(linears)
        return made[dtype]

    return loaded


def linear_of(weight: Int4Weight, gated: int | bool) -> Int4Linear:
    linear = Int4Linear(weight)
    if gated:
        linear.interleave()
    return linear


def fitting(kernels: Kernels, kind: str, linear: Int4Linear) -> list[int4.Form]:
    return [form for form in kernels._forms if form.kind == kind and int4._fits(form, linear)]


@pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"group{group or 'all'}")
@pytest.mark.parametrize("kind", ["stream", "tile", "wide"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.usefixtures("poison")
def test_a_kernel_multiplies(
    kernels: Loaded,
    dtype: torch.dtype,
    kind: str,
    group: int | None,
    symmetric: bool,
    gated: bool,
    shape: tuple[int, int],
) -> None:
    ours, weight = kernels(dtype), some_weight(*shape, group, symmetric)
    linear = linear_of(weight, gated)
    forms = fitting(ours, kind, linear)
    if not forms:
        pytest.skip("this card or this shape has none")
    x = some_input(max(ROWS), shape[1], dtype)
    true = true_product(weight, x, gated)
    for form, rows, splits in product(forms, ROWS, (1,) if gated else SPLITS):
        if kind == "stream" and rows > form.rows:
            continue
        shape_made = (rows, linear.outs // 2) if gated else (splits, rows, linear.outs)
        made = torch.empty(shape_made, dtype=dtype if gated else torch.float32, device=CARD)
        ours.fused(linear, x[:rows].contiguous(), Choice(form, splits), made)
        assert_near(made.double() if gated else made.double().sum(0), true[:rows], dtype, (form.template, rows, splits))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"group{group or 'all'}")
@pytest.mark.usefixtures("poison")
def test_weights_are_widened_as_they_are(
    kernels: Loaded, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, group: int | None
) -> None:
    """In slabs that do not divide the matrix; the last is smaller."""
    monkeypatch.setattr(int4, "SLAB_BYTES", 2 * 1_920 * 112)
    for symmetric, gated in product((True, False), (False, True)):
        weight = some_weight(256, 1_920, group, symmetric)
        linear, x = linear_of(weight, gated), some_input(301, 1_920, dtype)
        made = kernels(dtype).widened(linear, x)
        made = kernels(dtype).gated(made) if gated else made
        assert_near(made.double(), true_product(weight, x, gated), dtype, (symmetric, gated))
        if not gated:
            slab = torch.empty(256, 1_920, dtype=dtype, device=CARD)
            kernels(dtype).widen(linear, 0, slab)
            assert_near(slab.double(), weight.dequantize().double(), dtype, (symmetric, "widen"))


def test_every_form_is_tried() -> None:
    linears = [linear_of(some_weight(*SHAPES[0], group), gated) for group, gated in product(GROUPS, (0, 1))]
    for form in (*FORMS, STEADY, *WIDE_FORMS):
        assert any(int4._fits(form, linear) for linear in linears), form


# Matrices as a model has them: served by whichever kernel was the fastest


@pytest.fixture(scope="module")
def served() -> dict[str, tuple[Int4Weight, Int4Linear]]:
    """By kind; all of one `Kernels`, as in a model."""
    weights = {
        "plain": some_weight(1_024, 2_048, 128),
        "gated": some_weight(1_536, 1_024, 128),
        "ordered": some_weight(768, 1_024, 128, symmetric=False, ordered=True),
    }
    linears = {kind: linear_of(weight, kind == "gated") for kind, weight in weights.items()}
    Kernels(CARD, torch.bfloat16).serve(list(linears.values()))
    return {kind: (weights[kind], linears[kind]) for kind in weights}


@pytest.mark.parametrize("kind", ["plain", "gated", "ordered"])
@pytest.mark.parametrize("rows", sorted({*ROWS, *ROW_STEPS, 500, 1_025, 3_000}))
@pytest.mark.usefixtures("poison")
def test_a_matrix_multiplies_any_number_of_rows(
    served: dict[str, tuple[Int4Weight, Int4Linear]], kind: str, rows: int
) -> None:
    weight, linear = served[kind]
    x = some_input(rows, linear.ins, torch.bfloat16)
    assert_near(served_product(linear, x), true_product(weight, x, linear.gated), torch.bfloat16, rows)


def test_a_matrix_takes_the_place_of_a_plain_layer(served: dict[str, tuple[Int4Weight, Int4Linear]]) -> None:
    for kind in ("plain", "ordered"):
        weight, linear = served[kind]
        x = some_input(21, linear.ins, torch.bfloat16).view(3, 7, -1)
        said = linear(x)
        assert (said.shape, said.dtype) == ((3, 7, linear.outs), torch.bfloat16)
        assert_near(said.double(), true_product(weight, x, gated=False), torch.bfloat16, kind)


def test_the_kernels_that_serve_have_names(served: dict[str, tuple[Int4Weight, Int4Linear]]) -> None:
    linears = [linear for _, linear in served.values()]
    assert linears[0].kernels is not None
    names = linears[0].kernels.names
    assert names
    assert all(name.partition("_")[0] in ("stream", "tile", "wide") for name in names)
    for linear in linears:
        assert linear.kernels is linears[0].kernels
        choice = linear.kernels.choice(linear, 1)
        assert choice is not None, "a single row is never widened"
        assert choice.form.name(linear.traits) in names


def test_where_results_are_to_be_steady_a_row_does_not_depend_on_the_others() -> None:
    weights = {kind: some_weight(768, 1_024, 128) for kind in ("plain", "gated")}
    linears = {kind: linear_of(weight, kind == "gated") for kind, weight in weights.items()}
    ours = Kernels(CARD, torch.bfloat16, deterministic=True)
    ours.serve(list(linears.values()))
    for kind, linear in linears.items():
        x = some_input(2_100, linear.ins, torch.bfloat16)
        all_rows = served_product(linear, x)
        assert_near(all_rows, true_product(weights[kind], x, linear.gated), torch.bfloat16, kind)
        for start, rows in ((0, 1), (5, 1), (64, 3), (100, 64), (7, 1_500)):
            some = served_product(linear, x[start : start + rows].contiguous())
            assert some.equal(all_rows[start : start + rows]), (kind, start, rows)


@pytest.mark.parametrize(
    ("outs", "ins", "group"),
    [(48, 1_024, 128), (256, 1_056, 32), (256, 1_024, 256), (256, 1_024, 16)],
    ids=["outs", "ins", "large group", "small group"],
)
def test_a_matrix_that_no_kernel_takes_is_refused_in_one_sentence(outs: int, ins: int, group: int) -> None:
    with pytest.raises(UnsupportedModel, match=rf"{outs} × {ins}.*--precision bf16") as caught:
        Int4Linear(some_weight(outs, ins, group))
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("deterministic", [False, True], ids=["fastest", "steady"])
def test_a_matrix_that_no_form_fits_is_refused_when_it_is_to_be_served(deterministic: bool) -> None:
    linear = Int4Linear(some_weight(96, 1_024, 128))  # too narrow for the forms for many rows
    with pytest.raises(UnsupportedModel, match=r"96 × 1024.*--precision bf16"):
        Kernels(CARD, torch.bfloat16, deterministic).serve([linear])
