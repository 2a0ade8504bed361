"""What is chosen for which machine, and why. Machines are faked; sizes are HY-MT's own."""

import json
import re
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from engine import footprint, hardware, inventory
from engine.backends import local
from engine.backends.select import EMBEDDED_FOLDER
from engine.config import Config
from engine.errors import ConfigError, UnsupportedModel
from engine.footprint import KEPT_FREE, LoadPlan
from engine.hardware import plan
from engine.inference import cuda_runner, fused, int4, onnx_runner, openvino_runner, runner, sampler
from engine.inference.kv_cache import PAGE_TOKENS
from engine.inventory import CONTEXT_BYTES, Card, Machine, survey
from engine.shape import ModelShape
from tests.checkpoints import SEVEN_B_CONFIG, quantize_gptq, quantize_int8, shard, write_checkpoint

SMALL = SEVEN_B_CONFIG | {  # HY-MT1.5-1.8B's
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 120818,
}
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
INT4_7B, BF16_7B = ModelShape.read(SEVEN_B_CONFIG | GPTQ), ModelShape.read(SEVEN_B_CONFIG)
BF16_SMALL = ModelShape.read(SMALL)
EMBEDDED = ModelShape.read(json.loads((EMBEDDED_FOLDER / "config.json").read_text()), EMBEDDED_FOLDER)
MINI = {  # yiwen-mini's
    "hidden_size": 512,
    "intermediate_size": 1920,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "yiwen": {"segment_tokens": 80},
}
INT8_MINI = ModelShape.read(MINI | {"quantization_config": {"quant_method": "int8-rows", "bits": 8}})
INT4_MINI = ModelShape.read(MINI | GPTQ)
BF16_MINI = ModelShape.read(MINI | {"dtype": "bfloat16"})
TABLE = 32000 * 512  # of its embeddings, values
GB = 10**9
NO_CARD = Machine(ram_bytes=32 * GB, ram_free_bytes=28 * GB, cores=8, bf16=True)


def card(total_gb: float, free_gb: float | None = None, capability: tuple[int, int] = (8, 9), index: int = 0) -> Card:
    total = int(total_gb * GB)
    free = total - CONTEXT_BYTES if free_gb is None else int(free_gb * GB)  # nobody else uses it
    return Card(f"cuda:{index}", "NVIDIA Test", total, capability, free)


def planned(shape: ModelShape, *cards: Card, machine: Machine = NO_CARD, **choices: object) -> LoadPlan:
    made = plan(Config(**choices), shape, replace(machine, cards=cards))  # type: ignore[arg-type]
    assert made.bytes.total == sum(asdict(made.bytes).values())
    return made


def tokens(made: LoadPlan) -> int:
    return made.pages * PAGE_TOKENS


def down(gigabytes: float) -> float:
    """To a tenth, as a plan says what there is."""
    return int(gigabytes * 10) / 10


def least_gb(shape: ModelShape, **choices: object) -> float:
    """The ceiling below which a refusal says that nothing fits."""
    said = refused(shape, card(150), max_vram_gb=1.0, **choices)
    return float(said.partition("raise --max-vram-gb to ")[2].partition(",")[0])


def refused(shape: ModelShape, *cards: Card, machine: Machine = NO_CARD, **choices: object) -> str:
    with pytest.raises(ConfigError) as caught:
        planned(shape, *cards, machine=machine, **choices)
    said = str(caught.value)
    assert said.endswith(".")
    assert ". " not in said  # one sentence
    return said


def test_a_7b_in_int4_has_the_bytes_that_were_measured() -> None:
    made = planned(INT4_7B, card(24))
    assert made.bytes.weights == pytest.approx(4.34 * 2**30, rel=0.01)  # on one H200, 2026-11-20
    assert INT4_7B.parameters == pytest.approx(7.504e9, rel=0.001)
    assert INT4_7B.kv_values_a_token * 2 == 131_072


@pytest.mark.parametrize(
    ("total_gb", "slots", "least_tokens"),
    [(25.3, 128, 128 * 1024), (17.2, 64, 64 * 1024), (12.9, 32, 32 * 1024), (8.6, 8, 8 * 1024)],
)
def test_a_7b_in_int4_runs_on_every_tier_of_cards(total_gb: float, slots: int, least_tokens: int) -> None:
    made = planned(INT4_7B, card(total_gb))
    assert (made.device, made.weights, made.dtype, made.kv_dtype) == ("cuda:0", "gptq-int4", "bf16", "bf16")
    assert made.slots >= slots
    assert tokens(made) >= least_tokens
    assert (made.sequence_tokens, made.segment_tokens, made.engine) == (8192, 512, "cuda")
    assert made.bytes.total <= total_gb * GB


def test_under_24_gb_32_sequences_of_4k_tokens_live_at_once() -> None:
    for choices in ({}, {"max_concurrent": 32}):
        made = planned(INT4_7B, card(150), max_vram_gb=24.0, **choices)
        assert made.slots >= 32
        assert tokens(made) >= 32 * 4096
        assert made.sequence_tokens >= 4096
        assert made.bytes.total <= 24.0 * GB


def test_under_8_gb_8_sequences_of_1k_tokens_live_at_once() -> None:
    made = planned(INT4_7B, card(150), max_vram_gb=8.0)
    assert (made.slots >= 8, tokens(made) >= 8 * 1024, made.bytes.total <= 8.0 * GB) == (True, True, True)


@pytest.mark.parametrize("ceiling", [6.5, 7.5, 10.0, 16.0, 23.9, 80.0])
@pytest.mark.parametrize("shape", [INT4_7B, BF16_SMALL, EMBEDDED])
def test_a_ceiling_holds_all_that_is_taken(ceiling: float, shape: ModelShape) -> None:
    assert planned(shape, card(150), max_vram_gb=ceiling).bytes.total <= ceiling * GB


def test_the_ceiling_that_a_refusal_names_is_enough() -> None:
    said = refused(INT4_7B, card(24), max_vram_gb=2.0)
    assert "--max-vram-gb 2;" in said
    named = float(said.partition("raise --max-vram-gb to ")[2].partition(",")[0])
    assert planned(INT4_7B, card(24), max_vram_gb=named).engine == "cuda"
    assert "cpu" in planned(INT4_7B, card(24), max_vram_gb=named - 0.2).layers


def test_a_ceiling_above_the_card_is_the_cards_own() -> None:
    assert planned(INT4_7B, card(8.6), max_vram_gb=80.0).bytes.total <= 8.6 * GB


def test_a_plan_counts_what_the_runners_take() -> None:
    assert footprint.SLAB_BYTES == int4.SLAB_BYTES
    assert footprint.SPLIT_ROWS == int4.MOST_SPLIT_ROWS
    assert footprint.DETERMINISTIC_SPLITS == int4.DETERMINISTIC_SPLITS == cuda_runner.DETERMINISTIC_SPLITS
    assert max(*cuda_runner.FULL_STEPS, *cuda_runner.PROMPT_STEPS) == footprint.CAPTURED_ROWS
    assert footprint.PREFILL_TOKENS[0][1] == cuda_runner.PREFILL_TOKENS
    assert footprint.OLD_PREFILL_TOKENS == runner.CUDA_PREFILL_TOKENS
    assert footprint.CPU_PREFILL_TOKENS == runner.CPU_PREFILL_TOKENS
    assert footprint.PACKED_PREFILL_TOKENS == openvino_runner.PREFILL_TOKENS == onnx_runner.PREFILL_TOKENS
    assert footprint.SORTED_ROWS == sampler.SORTED_ROWS
    assert (footprint.ATTENTION_BLOCKS, footprint.ATTENTION_ROWS) == (cuda_runner.BLOCKS_WANTED, 16 * fused.TILE_WARPS)


def test_the_workspace_of_a_7b_holds_a_step_of_2048_tokens_its_widened_weights_and_partial_sums() -> None:
    made = planned(INT4_7B, card(24))
    step = 2_048 * (2 * 14_336 + 14_336 + 3 * 4_096 + 2 * 4_096) * 2
    sums = int4.MOST_SPLIT_ROWS * (6_144 + 4_096) * 4
    captured = sums + int4.SLAB_BYTES
    assert made.prefill_tokens == 2_048
    assert step + sums + int4.SLAB_BYTES + captured <= made.bytes.workspace <= 1.5 * (step + 2 * captured)


def test_a_deterministic_run_is_given_room_for_its_partial_sums() -> None:
    usual = planned(INT4_7B, card(150), max_concurrent=32)
    steady = planned(INT4_7B, card(150), max_concurrent=32, deterministic=True)
    assert steady.bytes.workspace > usual.bytes.workspace + 2 * GB // 20


def test_without_a_ceiling_something_is_left_for_other_programs() -> None:
    made = planned(INT4_7B, card(24))
    assert made.bytes.total <= 24 * GB - KEPT_FREE * (24 * GB - CONTEXT_BYTES) + 1
    assert made.bytes.kv >= 16 * GB


def test_a_large_card_is_not_filled_for_its_own_sake() -> None:
    made = planned(INT4_7B, card(150))
    assert made.slots == 128
    assert tokens(made) == pytest.approx(128 * 4096, rel=0.01)


def test_an_unquantised_7b_fits_24_gb_with_a_smaller_batch() -> None:
    made = planned(BF16_7B, card(25.3))
    assert (made.weights, made.kv_dtype) == ("bf16", "bf16")
    assert 32 <= made.slots < 128
    assert made.bytes.weights == pytest.approx(15.0 * GB, rel=0.01)


def test_an_unquantised_7b_on_12_gb_is_refused_with_the_way_out_where_there_is_no_memory_for_the_rest() -> None:
    said = refused(BF16_7B, card(12.9), machine=replace(NO_CARD, ram_free_bytes=3 * GB))
    free, room = 12.9 - CONTEXT_BYTES / GB, (12.9 - CONTEXT_BYTES / GB) * (1 - KEPT_FREE)
    assert said.startswith("The model needs at least 15.")
    assert said.endswith(
        f" GB on cuda:0 (15.0 of them for its weights in bf16), and NVIDIA Test (cuda:0) has {down(free)} of 12.9 GB "
        f"free, {down(room)} of them for the model; use a smaller model, make a copy in INT4 with "
        "`python -m engine.tools.quantize`, or use --devices cpu."
    )


def test_a_card_that_others_use_is_named_with_what_it_has_left() -> None:
    for said in (refused(INT4_7B, card(25.3, 1.5)), planned(INT4_7B, card(25.3, 3.0)).reason):
        assert re.search(r"has (1.5|3.0) of 25.3 GB free", said)
        assert "close what else uses the card" in said


def test_a_small_model_goes_to_the_cpu_where_the_card_has_no_room_unless_the_card_was_asked_for() -> None:
    made = planned(EMBEDDED, card(8.6, 0.1))
    assert made.device == "cpu"
    assert "so it runs on the CPU, which is much slower" in made.reason
    assert "has 0.1 of 8.6 GB free" in refused(EMBEDDED, card(8.6, 0.1), devices="cuda:0")


def test_the_1_8b_runs_unquantised_on_8_gb() -> None:
    made = planned(BF16_SMALL, card(8.6))
    assert (made.weights, made.slots >= 32) == ("bf16", True)
    assert made.bytes.weights == pytest.approx(3.58 * GB, rel=0.01)


def test_the_embedded_model_needs_little_of_a_card() -> None:
    made = planned(EMBEDDED, card(4.3))
    assert (made.device, made.slots) == ("cuda:0", 128)
    assert made.bytes.weights + made.bytes.workspace < GB // 2
    assert planned(EMBEDDED, card(4.3), max_vram_gb=2.0).slots >= 32


def test_int8_is_widened_on_a_card() -> None:
    made = planned(INT8_MINI, card(4.3))
    assert (made.weights, made.engine, "weights in bf16 (widened from int8)" in made.reason) == ("bf16", "cuda", True)
    assert made.bytes.weights == 2 * INT8_MINI.parameters
    assert planned(INT8_MINI, card(4.3), precision="int8") == made


def test_without_a_card_the_embedded_model_runs_on_the_cpu() -> None:
    made = planned(EMBEDDED)
    assert (made.device, made.weights, made.dtype, made.kv_dtype) == ("cpu", EMBEDDED.stored, "bf16", "fp16")
    assert (made.slots, made.threads, made.engine) == (8, 8, "openvino")
    assert (made.sequence_tokens, made.segment_tokens) == (2048, 80)
    assert made.bytes.total < 1.1 * GB


def test_on_the_cpu_each_fixed_batch_is_one_more_copy_of_quantised_weights_where_there_is_room() -> None:
    made = planned(INT8_MINI)
    packed = INT8_MINI.quantized_bytes + TABLE  # the embedding is the head, too, and as that packed otherwise
    assert made.graphs == (1, 8)
    assert (made.bytes.weights, made.bytes.graphs) == (INT8_MINI.quantized_bytes + packed, 2 * packed)
    assert planned(INT8_MINI, max_concurrent=1).graphs == (1,)
    tight = planned(INT8_MINI, machine=replace(NO_CARD, ram_free_bytes=int(0.75 * GB)))
    assert (tight.graphs, tight.slots, tight.bytes.graphs) == ((), 8, 0)
    assert planned(BF16_SMALL, precision="bf16").graphs == ()  # not quantised


@pytest.mark.parametrize("shape", [INT8_MINI, INT4_MINI], ids=["int8", "int4"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_quantised_is_widened_where_a_precision_is_asked_for(shape: ModelShape, precision: str) -> None:
    made = planned(shape, precision=precision)
    assert (made.weights, made.dtype, made.kv_dtype, made.engine) == (precision, precision, precision, "torch")
    assert made.bytes.weights == shape.parameters * (4 if precision == "fp32" else 2)
    assert f"weights in {precision} (widened from {shape.stored})" in made.reason


def test_onnx_has_a_buffer_of_the_whole_context_for_each_slot_and_copies_of_its_graph() -> None:
    made = planned(INT8_MINI, backend="onnx")
    assert (made.engine, made.graphs, made.kv_dtype, made.prefill_tokens) == ("onnx", (), "fp32", 256)
    assert (made.slots, made.sequence_tokens, made.pages) == (8, 2048, 8 * 64)
    assert made.bytes.kv == 8 * 2048 * INT8_MINI.kv_values_a_token * 4
    assert made.bytes.weights > planned(INT8_MINI).bytes.weights
    unquantised = planned(ModelShape.read(MINI), backend="onnx", precision="fp32")
    assert (unquantised.engine, unquantised.kv_dtype) == ("onnx", "fp32")
    assert unquantised.bytes.weights > footprint.ONNX_COPIES * 4 * INT8_MINI.parameters


def test_where_there_is_less_room_the_slots_of_onnx_are_shorter_and_all_of_them_whole() -> None:
    made = planned(INT8_MINI, backend="onnx", machine=replace(NO_CARD, ram_free_bytes=int(1.2 * GB)))
    each = made.pages // made.slots
    assert (made.slots, made.pages) == (8, 8 * each)
    assert made.sequence_tokens == each * PAGE_TOKENS
    assert 1024 <= made.sequence_tokens < 2048


def test_the_weights_of_an_int4_model_on_the_cpu_are_counted_as_they_are_read_and_packed() -> None:
    rest = INT4_7B.parameters - INT4_7B.quantized_parameters
    read, packed = INT4_7B.quantized_parameters + rest * 2, INT4_7B.quantized_bytes + rest * 1.5625
    made = planned(INT4_7B, machine=replace(NO_CARD, ram_free_bytes=64 * GB))
    assert made.bytes.weights == pytest.approx(read + 2 * packed, rel=0.01)
    assert made.bytes.graphs == pytest.approx(2 * packed, rel=0.01)


def test_a_processor_without_bf16_computes_in_fp32() -> None:
    assert planned(INT4_MINI, machine=replace(NO_CARD, bf16=False)).dtype == "fp32"
    assert planned(INT4_MINI).dtype == "bf16"


def test_a_gigabyte_of_memory_is_enough_for_the_embedded_model_and_half_of_it_is_not() -> None:
    small = replace(NO_CARD, ram_bytes=GB, ram_free_bytes=int(0.8 * GB))
    assert planned(EMBEDDED, machine=small).slots >= 2
    said = refused(EMBEDDED, machine=replace(small, ram_free_bytes=GB // 2))
    assert "the machine has 0.5 of 1.0 GB of memory free" in said


def test_a_7b_without_a_card_needs_the_memory_for_it() -> None:
    assert planned(INT4_7B).device == "cpu"
    assert "use a smaller model" in refused(BF16_7B, machine=replace(NO_CARD, ram_free_bytes=8 * GB))


def test_a_card_before_ampere_is_slower_and_says_so() -> None:
    made = planned(BF16_SMALL, card(15.8, capability=(7, 5)))
    assert (made.weights, made.dtype, made.engine, made.graphs) == ("fp16", "fp16", "torch", ())
    assert made.reason.endswith("run on cards of sm_80 or newer and in 16 bits, so this is slower.")
    older = planned(INT8_MINI, card(8.6, capability=(6, 1)))
    assert (older.weights, older.dtype) == ("fp32", "fp32")
    assert "slower" not in planned(INT4_7B, card(15.8)).reason


def test_in_fp32_a_card_is_used_without_our_kernels() -> None:
    made = planned(BF16_SMALL, card(24), precision="fp32")
    assert (made.weights, made.kv_dtype, made.engine, made.graphs) == ("fp32", "fp32", "torch", ())
    assert "so this is slower" in made.reason
    assert "leave one of the two out" in refused(BF16_SMALL, card(24), precision="fp32", kv_dtype="fp8")


def test_int4_is_widened_on_an_old_card() -> None:
    made = planned(INT4_7B, card(24, capability=(7, 5)))
    assert (made.weights, "widened from gptq-int4" in made.reason) == ("fp16", True)
    assert made.slots >= 8
    fetched = planned(INT4_7B, card(15.8, capability=(7, 5)))
    assert "(15.0 of them for its weights in fp16)" in fetched.reason
    assert "cpu" in fetched.layers


def test_int4_is_widened_on_a_card_where_a_precision_is_asked_for() -> None:
    made = planned(INT4_7B, card(24), precision="bf16")
    assert (made.weights, made.dtype) == ("bf16", "bf16")
    assert made.bytes.weights == INT4_7B.parameters * 2


def test_int4_that_is_not_stored_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UnsupportedModel, match=r"not stored in INT4 but in bf16; make an INT4 copy with"):
        planned(BF16_SMALL, card(24), precision="int4")
    with pytest.raises(UnsupportedModel, match=r"not stored in INT4 but in int8; leave --precision out\.$"):
        planned(INT8_MINI, precision="int4")


@pytest.mark.parametrize("precision", ["auto", "int8"])
@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_what_is_not_quantised_is_rounded_to_int8_for_the_cpu(backend: str, precision: str) -> None:
    made = planned(BF16_MINI, backend=backend, precision=precision)
    stored = planned(INT8_MINI, backend=backend)
    assert (made.weights, made.engine, made.kv_dtype) == ("int8", stored.engine, stored.kv_dtype)
    assert (made.bytes, made.graphs, made.slots) == (stored.bytes, stored.graphs, stored.slots)
    assert "weights in int8 (rounded from bf16 as they are read) take" in made.reason
    assert ("--precision bf16 keeps the weights as they are stored." in made.reason) == (precision == "auto")


def test_a_rounded_model_takes_no_more_memory_than_bf16_where_there_is_no_room_for_graphs() -> None:
    tight = replace(NO_CARD, ram_free_bytes=6 * GB)
    rounded, kept = (planned(BF16_SMALL, machine=tight, precision=each) for each in ("int8", "bf16"))
    table = BF16_SMALL.vocab_size * BF16_SMALL.hidden_size
    assert (rounded.graphs, kept.engine) == ((), "torch")
    assert rounded.bytes.weights - kept.bytes.weights == table  # the head, packed beside the embedding


def test_a_precision_that_is_asked_for_is_never_rounded() -> None:
    for precision in ("fp32", "bf16", "fp16"):
        made = planned(BF16_SMALL, precision=precision)
        assert (made.weights, made.dtype, made.engine) == (precision, precision, "torch")
        assert "rounded" not in made.reason


def test_int8_is_not_made_of_int4_nor_for_a_card() -> None:
    for cards in ((), (card(24),)):
        with pytest.raises(UnsupportedModel, match=r"stored in gptq-int4, and in INT8 it would take twice the memory"):
            planned(INT4_7B, *cards, precision="int8")
    said = refused(BF16_SMALL, card(24), precision="int8")
    assert "NVIDIA Test (cuda:0) would have to widen it again; use --devices cpu" in said
    assert planned(BF16_SMALL, card(24), precision="int8", devices="cpu").weights == "int8"
    assert planned(BF16_SMALL, card(24)).weights == "bf16"


def test_a_small_model_is_rounded_where_the_card_has_no_room() -> None:
    made = planned(BF16_SMALL, card(8.6, 0.1))
    assert (made.device, made.weights) == ("cpu", "int8")
    assert "so it runs on the CPU" in made.reason


def test_fp8_doubles_what_the_cache_holds() -> None:
    usual = planned(INT4_7B, card(150), max_vram_gb=8.0, max_concurrent=8)
    halved = planned(INT4_7B, card(150), max_vram_gb=8.0, max_concurrent=8, kv_dtype="fp8")
    assert halved.kv_dtype == "fp8"
    assert tokens(halved) == pytest.approx(2 * tokens(usual), rel=0.01)


def test_fp8_is_taken_unasked_only_where_a_batch_would_be_lost_and_then_it_is_said() -> None:
    ceiling = least_gb(INT4_7B) + 0.2
    asked = planned(INT4_7B, card(150), max_vram_gb=ceiling, kv_dtype="bf16")
    assert (asked.kv_dtype, asked.slots < hardware.MIN_KV_SLOTS) == ("bf16", True)
    made = planned(INT4_7B, card(150), max_vram_gb=ceiling)
    assert made.kv_dtype == "fp8"
    assert f"The KV cache is in FP8: in 16 bits there is room for only {asked.slots} at once." in made.reason
    assert planned(INT4_7B, card(150), max_vram_gb=ceiling, max_concurrent=asked.slots).kv_dtype == "bf16"


def test_fp8_needs_a_card_of_our_kernels() -> None:
    assert "the CPU" in refused(EMBEDDED, kv_dtype="fp8")
    assert "NVIDIA Test (sm_75)" in refused(EMBEDDED, card(16, capability=(7, 5)), kv_dtype="fp8")


def test_a_window_leaves_more_of_the_card_free() -> None:
    made = planned(INT4_7B, card(24), kv_window=1024, max_concurrent=32)
    assert made.bytes.kv < planned(INT4_7B, card(24), max_concurrent=32).bytes.kv / 3
    assert made.sequence_tokens == 8192


@pytest.mark.parametrize("asked", [1, 3, 40, 512])
def test_a_batch_that_was_asked_for_is_given_or_as_much_as_fits(asked: int) -> None:
    made = planned(INT4_7B, card(150), max_concurrent=asked)
    assert made.slots == asked
    assert made.graphs[-1] == asked
    assert list(made.graphs) == sorted(set(made.graphs))
    assert planned(INT4_7B, card(8.6), max_concurrent=asked).slots <= min(asked, 24)


def test_a_segment_leaves_room_for_its_prompt_and_its_answer() -> None:
    ceiling = least_gb(INT4_7B, kv_dtype="bf16") + 0.1
    made = planned(INT4_7B, card(150), max_vram_gb=ceiling, max_concurrent=1, kv_dtype="bf16")
    assert made.sequence_tokens < 3_072
    prompt = min(footprint.PROMPT_TOKENS, made.sequence_tokens // 2)
    assert prompt + made.segment_tokens * 4 <= made.sequence_tokens
    assert made.segment_tokens >= 128


def test_of_several_cards_the_largest_is_taken_or_the_one_that_was_asked_for() -> None:
    cards = [card(8.6), card(24, index=1), card(24, index=2)]
    assert planned(INT4_7B, *cards).device == "cuda:1"
    assert planned(INT4_7B, *cards, devices="cuda:2").device == "cuda:2"
    assert planned(EMBEDDED, *cards, devices="cpu").device == "cpu"
    assert "no device 'cuda:3': this machine has 3 CUDA cards" in refused(EMBEDDED, *cards, devices="cuda:3")


def test_a_reason_names_the_card_and_what_is_taken() -> None:
    made = planned(INT4_7B, card(24), max_vram_gb=8.0)
    free, room = 24 - CONTEXT_BYTES / GB, 8 * (1 - footprint.KEPT_BELOW_CEILING) - CONTEXT_BYTES / GB
    assert made.reason == (
        f"NVIDIA Test (cuda:0) has {down(free)} of 24.0 GB free, {down(room)} of them for the model under "
        f"--max-vram-gb 8: weights in gptq-int4 take 4.7 GB, a KV cache of {tokens(made):,} tokens in bf16 "
        f"{made.bytes.kv / GB:.1f} GB, all together, with CUDA itself, {made.bytes.total / GB:.1f} GB; "
        f"{made.slots} sequences at once."
    )


def test_deterministic_is_refused_where_plain_torch_would_run_the_model() -> None:
    for shape, cards, options in (
        (BF16_SMALL, (), {"precision": "bf16"}),
        (INT4_MINI, (), {"precision": "fp32"}),
        (INT4_7B, (card(24, capability=(7, 5)),), {}),
        (BF16_SMALL, (card(24),), {"precision": "fp32"}),
    ):
        assert "in plain torch, in fp" in refused(shape, *cards, deterministic=True, **options).replace("bf16", "fp")
    for shape, cards in ((INT4_MINI, ()), (INT8_MINI, ()), (BF16_SMALL, ()), (BF16_SMALL, (card(24),))):
        assert planned(shape, *cards, deterministic=True).slots


def test_a_model_is_loaded_where_the_plan_says_and_the_log_says_why(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    machine = replace(NO_CARD, cores=1)
    monkeypatch.setattr(inventory, "survey", lambda devices: machine)
    caplog.set_level("INFO")
    loaded, made = local.prepared(Config(model=str(tiny_checkpoint)))
    assert (loaded.info.device, made.device) == ("cpu", "cpu")
    assert "plan: The machine has 28.0 of 32.0 GB of memory free" in caplog.text
    assert torch.get_num_threads() == 1


# ------------------------------------------------------------------------------------------ one model in several places


LAYERS = [f"layers.{index}" for index in range(32)]
LAYER_7B = (BF16_7B.parameters - 128167 * 4096) * 2 // 32
TWO = "cuda:0+cuda:1"


def room(made: LoadPlan, *cards: Card) -> list[float]:
    """How full each card will be, as a share of what it has free with CUDA itself in place."""
    taken = {made.device: made.bytes} | dict(made.elsewhere)
    return [(taken[card.device].total - CONTEXT_BYTES) / card.free_bytes for card in cards if card.free_bytes]


def test_a_7b_in_bf16_under_10_gb_keeps_the_layers_for_which_there_is_room_and_fetches_the_rest() -> None:
    made = planned(BF16_7B, card(150), max_vram_gb=10.0)
    there = Counter(made.layers)
    assert (made.device, made.engine, made.weights, made.slots) == ("cuda:0", "torch", "bf16", 8)
    assert made.layers == ("cuda:0",) * there["cuda:0"] + ("cpu",) * there["cpu"]
    assert 9.0 * GB < made.bytes.total <= 10.0 * GB
    assert made.elsewhere["cpu"].total == there["cpu"] * LAYER_7B
    assert made.computing == ("cuda:0",) * 32
    assert made.segment_tokens == 512
    assert re.search(
        rf"so of its 32 layers it keeps {there['cuda:0']} \([\d.]+ GB\) on cuda:0, and fetches {there['cpu']} "
        r"\([\d.]+ GB\) from the machine's memory at every step, which is much slower; better raise --max-vram-gb to "
        r"16\.\d, use a smaller model or make a copy in INT4 with `python -m engine.tools.quantize`\. ",
        made.reason,
    )


@pytest.mark.parametrize("ceiling", [4.2, 5.0, 7.5, 10.0, 12.0, 16.0])
@pytest.mark.parametrize("shape", [INT4_7B, BF16_7B, BF16_SMALL])
def test_a_ceiling_holds_where_layers_are_fetched_too(shape: ModelShape, ceiling: float) -> None:
    made = planned(shape, card(150), max_vram_gb=ceiling)
    assert made.bytes.total <= ceiling * GB
    assert made.slots * 1024 <= tokens(made)
    if made.layers:
        assert len(made.layers) == 32
        assert Counter(made.layers)["cpu"] >= 2  # one fewer would have fitted in the room for those under way


def test_what_fits_neither_the_card_nor_the_memory_is_on_the_disk_and_where_that_is_full_it_is_refused() -> None:
    tight = replace(NO_CARD, ram_bytes=8 * GB, ram_free_bytes=6 * GB, disk_free_bytes=8 * GB)
    made = planned(BF16_7B, card(8.6), machine=tight)
    there = Counter(made.layers)
    assert list(there) == ["cuda:0", "cpu", "disk"]
    assert there["cpu"] * LAYER_7B < 0.75 * 6 * GB
    assert made.elsewhere["disk"].total == there["disk"] * LAYER_7B <= 0.9 * 8 * GB
    assert f"and {there['disk']} (7.0 GB) from its disk at every step" in made.reason
    assert "use --devices cpu" in refused(BF16_7B, card(8.6), machine=replace(tight, disk_free_bytes=4 * GB))
    assert "use --devices cpu" in refused(BF16_7B, card(8.6), machine=replace(tight, ram_free_bytes=GB // 2))
    less = planned(BF16_7B, card(8.6), machine=replace(tight, ram_free_bytes=24 * GB), max_ram_gb=5.0)
    assert Counter(less.layers)["cpu"] * LAYER_7B < 5.0 * GB


def test_a_small_model_is_fetched_only_to_a_card_that_was_asked_for() -> None:
    assert planned(BF16_SMALL, card(4.2)).device == "cpu"
    asked = planned(BF16_SMALL, card(4.2), devices="cuda:0")
    assert (asked.device, "cpu" in asked.layers) == ("cuda:0", True)


def test_int4_layers_are_fetched_as_they_are() -> None:
    made = planned(INT4_7B, card(150), max_vram_gb=4.0)
    assert (made.weights, made.dtype, made.kv_dtype, Counter(made.layers)["cpu"] > 20) == (
        "gptq-int4",
        "bf16",
        "bf16",
        True,
    )
    assert made.elsewhere["cpu"].weights / Counter(made.layers)["cpu"] == pytest.approx(LAYER_7B / 4, rel=0.05)


def test_what_plain_torch_cannot_do_is_not_done_by_fetching() -> None:
    for choices in ({"deterministic": True}, {"kv_dtype": "fp8"}):
        assert "raise --max-vram-gb to" in refused(BF16_7B, card(150), max_vram_gb=10.0, **choices)


@pytest.mark.parametrize("sizes", [(12.9, 12.9), (24.0, 8.6), (8.6, 24.0), (8.6, 8.6, 8.6), (150.0, 150.0)])
def test_over_several_cards_each_is_full_to_the_same_share(sizes: tuple[float, ...]) -> None:
    cards = [card(size, index=index) for index, size in enumerate(sizes)]
    made = planned(BF16_7B, *cards, devices="+".join(each.device for each in cards))
    shares = room(made, *cards)
    step = (LAYER_7B + made.bytes.kv / made.layers.count("cuda:0")) / min(each.free_bytes or 0 for each in cards)
    assert max(shares) <= 1 - KEPT_FREE + 1e-6
    assert max(shares) - min(shares) <= step
    assert made.cards == tuple(each.device for each in cards)
    assert made.computing == made.layers == tuple(sorted(made.layers))
    assert len(made.layers) == 32
    assert f"the model's 32 layers are divided, {made.layers.count('cuda:0')} of them on cuda:0, " in made.reason


def test_cards_that_are_too_small_together_are_filled_and_the_first_fetches_the_rest() -> None:
    cards = [card(6.4), card(6.4, index=1)]
    made = planned(BF16_7B, *cards, devices=TWO)
    there = Counter(made.layers)
    assert list(there) == ["cuda:0", "cuda:1", "cpu"]
    assert there["cuda:0"] < there["cuda:1"]
    assert Counter(made.computing) == {"cuda:0": 32 - there["cuda:1"], "cuda:1": there["cuda:1"]}
    assert max(room(made, *cards)) <= 1 - KEPT_FREE
    said = refused(BF16_7B, *cards, devices=TWO, machine=replace(NO_CARD, ram_free_bytes=GB))
    assert said.startswith("The model needs at least 15.")
    assert "on 2 cards together" in said


def test_a_ceiling_holds_on_each_of_several_cards() -> None:
    made = planned(BF16_7B, card(150), card(150, index=1), devices=TWO, max_vram_gb=10.0)
    assert max(made.bytes.total, made.elsewhere["cuda:1"].total) <= 10.0 * GB
    assert set(made.layers) == {"cuda:0", "cuda:1"}


def test_unlike_cards_compute_in_what_both_of_them_can() -> None:
    old = card(15.8, capability=(7, 5), index=1)
    assert planned(BF16_7B, card(15.8), old, devices=TWO).dtype == "fp16"
    assert planned(INT4_7B, card(15.8), old, devices=TWO).weights == "fp16"
    assert planned(INT4_7B, card(6.4), card(6.4, index=1), devices=TWO).weights == "gptq-int4"


def test_a_second_card_that_was_not_asked_for_is_named() -> None:
    assert (
        "divide it over cards with --devices cuda:0+cuda:1" in planned(BF16_7B, card(12.9), card(12.9, index=1)).reason
    )
    said = refused(BF16_7B, card(12.9), devices=TWO)
    assert "no device 'cuda:1': this machine has 1 CUDA cards" in said
    for choices in ({"backend": "onnx"}, {"kv_dtype": "fp8"}, {"deterministic": True}, {"precision": "int8"}):
        assert refused(BF16_7B, card(12.9), card(12.9, index=1), devices=TWO, **choices)


@pytest.mark.parametrize("choices", [{"max_vram_gb": 10.0}, {"devices": TWO}], ids=str)
def test_layers_are_divided_as_accelerate_infers_it_from_the_same_memory(choices: dict[str, object]) -> None:
    import torch
    from accelerate import infer_auto_device_map

    from engine.inference.checkpoint import model_config
    from engine.inference.model import HunYuanDense

    cards = [card(12.9), card(12.9, index=1)] if "devices" in choices else [card(150)]
    made = planned(BF16_7B, *cards, machine=replace(NO_CARD, ram_free_bytes=64 * GB), **choices)
    with torch.device("meta"):
        model = HunYuanDense(model_config(SEVEN_B_CONFIG | {"rms_norm_eps": 1e-5})).bfloat16()
    weights = {made.device: made.bytes.weights + model.cos.nbytes + model.sin.nbytes}
    weights |= {name: taken.weights for name, taken in made.elsewhere.items() if name in made.cards}
    memory: dict[int | str, int] = {int(name[5:]): taken + LAYER_7B // 2 for name, taken in weights.items()}
    memory[0] += LAYER_7B  # it keeps room there for the largest
    inferred = infer_auto_device_map(model, memory | {"cpu": 64 * GB}, no_split_module_classes=["Layer"])
    assert [f"cuda:{place}" if place in (0, 1) else place for place in map(inferred.get, LAYERS)] == list(made.layers)


# ------------------------------------------------------------------------------------------------------------- shapes


def test_shards_beside_a_whole_file_are_not_counted(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    quantize_gptq(folder, group_size=32)
    alone, whole = shape_of(folder), (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(whole)
    assert shape_of(folder) == alone


def shape_of(folder: Path) -> ModelShape:
    return ModelShape.read(json.loads((folder / "config.json").read_text()), folder)


@pytest.mark.parametrize("group", [32, 128, -1])
def test_the_files_of_a_gptq_checkpoint_say_what_its_shape_does(tmp_path: Path, group: int) -> None:
    folder = write_checkpoint(tmp_path / "model")
    quantize_gptq(folder, group_size=group)
    read = shape_of(folder)
    by_shape = ModelShape.read(json.loads((folder / "config.json").read_text()))
    assert (read.stored, read.quantized_parameters) == ("gptq-int4", by_shape.quantized_parameters)
    assert read.quantized_bytes == pytest.approx(by_shape.quantized_bytes, rel=0.02)


def test_an_int8_checkpoint_is_read_from_its_shards(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    quantize_int8(folder)
    whole = shape_of(folder)
    shard(folder)
    assert shape_of(folder) == whole
    assert (whole.stored, whole.quantized_parameters) == ("int8", whole.parameters)


def test_a_plain_checkpoint_has_its_own_dtype_and_nothing_quantised(tmp_path: Path) -> None:
    read = shape_of(write_checkpoint(tmp_path / "model"))
    assert (read.stored, read.quantized_bytes, read.tied_head) == ("fp32", 0, True)


def test_files_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    quantize_gptq(folder, group_size=32)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    assert shape_of(folder).quantized_bytes > 0


def test_a_plan_and_the_loader_agree_on_lengths(tiny_checkpoint: Path) -> None:
    from engine.inference.loader import load

    info, shape = load(str(tiny_checkpoint), "cpu", "fp32").info, shape_of(tiny_checkpoint)
    assert (info.max_context_tokens, info.segment_tokens) == (shape.context_tokens, shape.segment_tokens)


# ------------------------------------------------------------------------------------------------------------- survey


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/kube/pod\n",
    "sys/fs/cgroup/kube/pod/memory.max": "max\n",
    "sys/fs/cgroup/kube/memory.max": "4000000000\n",
    "sys/fs/cgroup/kube/memory.current": "3000000000\n",
    "sys/fs/cgroup/kube/memory.stat": "anon 1000000000\ninactive_file 1500000000\n",
    "sys/fs/cgroup/kube/pod/cpu.max": "250000 100000\n",
}
V1 = {
    "proc/self/cgroup": "11:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000000\n",  # a container sees its own group at the top
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "3000000000\n",
    "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 1500000000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_a_container_has_the_memory_and_cores_of_its_group(tmp_path: Path, files: dict[str, str]) -> None:
    root = write(tmp_path, files)
    assert inventory.ram_within(root, 64 * GB, 50 * GB) == (4 * GB, 2_500_000_000)
    assert inventory.ram_within(root, 2 * GB, GB) == (2 * GB, GB)  # the machine itself has less
    assert inventory.cores_within(root, 64) == 2
    assert inventory.cores_within(root, 1) == 1


def test_a_group_without_limits_and_a_machine_without_groups_change_nothing(tmp_path: Path) -> None:
    free = {
        "proc/self/cgroup": "5:memory:/\n4:cpu:/\n0::/\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/fs/cgroup/cpu.max": "max 100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
    }
    for root in (write(tmp_path / "free", free), tmp_path / "none"):
        assert inventory.ram_within(root, 64 * GB, 50 * GB) == (64 * GB, 50 * GB)
        assert inventory.cores_within(root, 6) == 6


def test_a_quota_below_one_core_is_one_core(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"})
    assert inventory.cores_within(root, 4) == 1


def test_a_ceiling_of_the_memory_is_kept_on_the_cpu_and_told() -> None:
    made = planned(EMBEDDED, max_ram_gb=0.95)
    assert made.bytes.total <= 0.95 * GB < planned(EMBEDDED).bytes.total
    assert "0.3 of them for the model under --max-ram-gb 0.95" in made.reason
    assert "under --max-ram-gb 0.7" in refused(EMBEDDED, max_ram_gb=0.7)


def test_this_machine_is_surveyed_without_its_cards_where_the_cpu_is_asked_for() -> None:
    found = survey("cpu")
    assert found.cards == ()
    assert 0 < found.ram_free_bytes <= found.ram_bytes
    assert found.cores >= 1


def test_a_card_too_old_for_this_torch_is_left_alone_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    class Properties:
        total_memory = 8 * GB

        def __init__(self, index: int) -> None:
            self.name, (self.major, self.minor) = f"Card {index}", [(6, 1), (9, 0)][index]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (7 * GB, 8 * GB))
    assert survey().cards == (Card("cuda:1", "Card 1", 8 * GB, (9, 0), 7 * GB),)
    assert asked == ["cuda:1"]  # a context costs memory on every card that is asked
    assert "Card 0 (cuda:0) is of sm_61, and this torch runs on sm_75 and newer" in caplog.text


def test_each_card_of_a_group_is_asked_and_the_disk_for_layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    free = {"cuda:0": 1 * GB, "cuda:2": 3 * GB}
    cards = [Card(f"cuda:{index}", "Card", 8 * GB, (9, 0)) for index in range(3)]
    monkeypatch.setattr(inventory, "_cards", lambda: list(cards))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 8 * GB))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there"))
    found = survey("cuda:2+cuda:0")
    assert [card.free_bytes for card in found.cards] == [1 * GB, None, 3 * GB]
    assert found.disk_free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert survey("cpu").disk_free_bytes == 0
