"""Our engine as a backend: many streams at once, leaving, memory, and what it says when a model cannot be had."""

import asyncio
import logging
import shutil
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import httpx
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file

from engine import inventory
from engine.backends import local
from engine.backends.local import LocalBackend
from engine.backends.select import select
from engine.config import Config
from engine.errors import BackendError, ConfigError, ModelNotFound, UnsupportedModel
from engine.inference import loader
from engine.inference.held import Int4Held
from engine.inference.int4 import Int4Linear
from engine.inference.int8 import Int8Rows, quantize_rows
from engine.inference.loader import family_of, licence_of, load
from engine.inventory import Card, Machine
from engine.types import ModelInfo, Sampling
from tests.checkpoints import (
    CONTEXT_TOKENS,
    change_config,
    change_tensors,
    quantize_gptq,
    quantize_int8,
    scores_of,
    write_json,
)
from tests.streams import LONG, answer, ask, is_at_rest, text_of

EMBEDDINGS = "model.embed_tokens.weight"
TINY = ModelInfo(
    name="tiny",
    family="hy-mt1.5",
    languages=("en", "fr"),
    precision="fp32",
    device="cpu",
    max_context_tokens=CONTEXT_TOKENS,
    segment_tokens=64,
    licence="MIT",
    hub="en",
)


def best_tokens(folder, text, count):
    """What the model says greedily, without a backend."""
    loaded = load(str(folder), "cpu", "fp32")
    prompt, tokens = loaded.tokenizer.prompt(text), []
    while len(tokens) < count:
        tokens.append(int(scores_of(loaded.model, [*prompt, *tokens])[-1].argmax()))
    return tokens


def with_backend(folder, work, slots=4):
    """`work(backend)` on a backend that is closed after."""

    async def go():
        backend = LocalBackend.load(Config(model=str(folder), devices="cpu", precision="fp32", max_concurrent=slots))
        try:
            return await work(backend)
        finally:
            await backend.close()

    return asyncio.run(go())


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A copy that says more of itself, or is spoiled."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    yiwen = {"name": "tiny", "languages": ["en", "fr"], "segment_tokens": 64, "licence": "MIT", "hub": "en"}
    change_config(folder, yiwen=yiwen)
    return folder


def test_a_backend_says_what_the_folder_says_of_itself(folder):
    async def work(backend):
        said = replace(backend.info, kernel="", plan="", planned_bytes={})
        assert said == TINY
        assert (backend.info.kernel, backend.info.planned_bytes["kv"] > 0) == ("torch", True)
        assert (backend.slots, backend.running) == (3, 0)
        assert (
            backend.count_tokens("Hello there, <|eos|>") == len(backend._tokenizer.prompt("Hello there, <|eos|>")) - 2
        )

    with_backend(folder, work, slots=3)


def test_an_answer_ends_at_the_stop_token_of_the_folder_which_has_no_text(folder):
    tokens = best_tokens(folder, "I went to the library.", 25)
    write_json(folder / "generation_config.json", {"eos_token_id": tokens[10]})

    async def work(backend):
        chunks = await answer(backend, ask("I went to the library.", 25))
        assert [chunk.finish for chunk in chunks] == [None] * tokens.index(tokens[10]) + ["stop"]
        assert (chunks[-1].text, chunks[-1].tokens) == ("", 0)
        assert text_of(chunks) == text

    loaded = load(str(folder), "cpu", "fp32")
    decoder = loaded.tokenizer.decoder()
    text = "".join(decoder.feed(token) for token in tokens[: tokens.index(tokens[10])])
    with_backend(folder, work)


def test_many_at_once_each_get_their_own_answer(tiny_checkpoint):
    prompts = [ask(f"Sentence number {number} of the committee.", 5 + 3 * number) for number in range(9)]

    async def one_by_one(backend):
        return [text_of(await answer(backend, prompt)) for prompt in prompts]

    async def together(backend):
        return [text_of(chunks) for chunks in await asyncio.gather(*(answer(backend, prompt) for prompt in prompts))]

    answers = with_backend(tiny_checkpoint, together)
    assert answers == with_backend(tiny_checkpoint, one_by_one, slots=1)
    assert len(set(answers)) == 9


def test_the_checkpoints_sampling_is_used_where_none_is_asked_for(tiny_checkpoint):
    async def work(backend):
        open_ones = [text_of(await answer(backend, ask("Hello", 15, Sampling(seed=seed)))) for seed in (1, 1, 2)]
        assert open_ones[0] == open_ones[1] != open_ones[2]
        named = Sampling(temperature=0.7, top_p=0.6, top_k=20, repetition_penalty=1.05, seed=1)
        assert text_of(await answer(backend, ask("Hello", 15, named))) == open_ones[0]

    with_backend(tiny_checkpoint, work)


@pytest.mark.parametrize("reads", [0, 1, 7])
def test_closing_the_generator_frees_the_slot_at_once(tiny_checkpoint, reads):
    async def work(backend):
        prompt = ask("I went to the library.", LONG)
        async with aclosing(backend.stream(prompt)) as chunks, aclosing(backend.stream(prompt)) as others:
            for _ in range(reads):
                await anext(chunks)
                await anext(others)
            assert backend.running == (2 if reads else 0)
        await is_at_rest(backend)
        assert len(await answer(backend, ask("Hello", 3))) == 3

    with_backend(tiny_checkpoint, work, slots=2)


def test_cancelling_the_task_that_reads_does_too(tiny_checkpoint):
    async def work(backend):
        task = asyncio.create_task(answer(backend, ask("I went to the library.", LONG)))
        while not backend.running:
            await asyncio.sleep(0.001)
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        await is_at_rest(backend)

    with_backend(tiny_checkpoint, work)


def test_closing_the_backend_ends_open_streams_with_a_backend_error(tiny_checkpoint):
    async def work(backend):
        task = asyncio.create_task(answer(backend, ask("I went to the library.", LONG)))
        while not backend.running:
            await asyncio.sleep(0.001)
        await backend.close()
        with pytest.raises(BackendError, match="shut down"):
            await task
        with pytest.raises(BackendError, match="shut down"):
            await answer(backend, ask("Hello"))

    with_backend(tiny_checkpoint, work)


def test_the_model_dies_under_a_stream_and_lives_on_for_the_next(tiny_checkpoint, monkeypatch):
    async def work(backend):
        true = text_of(await answer(backend, ask("Hello", 5)))
        with monkeypatch.context() as patched:
            patched.setattr(backend._batcher._runner, "step", lambda *_: 1 // 0)
            with pytest.raises(BackendError, match=r"ZeroDivisionError.*try again"):
                await answer(backend, ask("Hello", 5))
        assert text_of(await answer(backend, ask("Hello", 5))) == true

    with_backend(tiny_checkpoint, work)


def test_a_loop_that_went_away_does_not_harm_the_others(tiny_checkpoint):
    backend = LocalBackend.load(Config(model=str(tiny_checkpoint), devices="cpu", precision="fp32", max_concurrent=4))

    async def leave_open():
        chunks = backend.stream(ask("I went to the library.", LONG))
        await anext(chunks)
        kept.append(chunks)  # its loop ends before it

    async def work():
        return await answer(backend, ask("Hello", 30))

    kept = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_open())
    loop.close()
    assert len(asyncio.run(work())) == 30
    asyncio.run(backend.close())


def test_memory_adds_up(tiny_checkpoint):
    async def work(backend):
        weights = load_file(tiny_checkpoint / "model.safetensors").values()
        positions = 2 * CONTEXT_TOKENS * 32 * 4  # the tables of RoPE
        rest = backend.memory()
        assert rest["pages_free"] >= 4 * CONTEXT_TOKENS // 32
        assert rest == {
            "weights": sum(tensor.nbytes for tensor in weights) + positions,
            "kv_used": 0,
            "kv_total": 2 * 3 * 32 * 2 * 32 * 4 * rest["pages_free"],
            "pages_used": 0,
            "pages_free": rest["pages_free"],
            "preempted": 0,
            "batch": 0,
            "prompt_tokens": 0,
            "shared_tokens": 0,
        }
        prompt, used = ask("I went to the library.", LONG), []
        async with aclosing(backend.stream(prompt)) as chunks:
            for _ in range(20):
                await anext(chunks)
                used.append(backend.memory()["kv_used"])
        a_token = 2 * 3 * 2 * 32 * 4
        asked = a_token * len(backend._tokenizer.prompt(prompt.text))
        assert asked <= used[0]
        assert asked + 19 * a_token <= used[-1] <= rest["kv_total"]  # it may run ahead of who reads
        await is_at_rest(backend)
        asked_tokens = len(backend._tokenizer.prompt(prompt.text))
        assert backend.memory() == rest | {"prompt_tokens": asked_tokens}

    with_backend(tiny_checkpoint, work)


@pytest.mark.parametrize(
    ("asked", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_precision_is_kept_to(tiny_checkpoint, asked, dtype):
    loaded = load(str(tiny_checkpoint), "cpu", asked)
    assert (loaded.info.precision, loaded.model.layers[0].qkv.weight.dtype) == (asked, dtype)


def store(folder, form):
    if form.startswith("gptq"):
        quantize_gptq(folder, group_size=32)
    if form == "int8":
        quantize_int8(folder)
    if form == "gptq and int8":
        embedding = load_file(folder / "model.safetensors")[EMBEDDINGS]
        quantized, scale = quantize_rows(embedding)
        change_tensors(folder, {EMBEDDINGS: quantized, EMBEDDINGS + "_scale": scale})


@pytest.mark.parametrize(
    ("form", "choices", "said"),
    [
        ("float", {}, ("int8, rounded from fp32", "OpenVINO")),
        ("float", {"precision": "bf16"}, ("bf16", "torch")),
        ("float", {"precision": "bf16", "backend": "onnx"}, ("bf16", "ONNX Runtime")),
        ("int8", {}, ("int8", "OpenVINO")),
        ("int8", {"precision": "int8"}, ("int8", "OpenVINO")),
        ("int8", {"backend": "onnx"}, ("int8", "ONNX Runtime")),
        ("int8", {"precision": "bf16"}, ("int8, widened", "torch")),
        ("gptq", {}, ("gptq-int4", "OpenVINO")),
        ("gptq and int8", {"precision": "int4"}, ("gptq-int4", "OpenVINO")),
        ("gptq and int8", {"backend": "onnx"}, ("gptq-int4", "ONNX Runtime")),
        ("gptq and int8", {"precision": "fp32"}, ("gptq-int4, widened", "torch")),
        ("gptq and int8", {"precision": "fp32", "backend": "onnx"}, ("gptq-int4, widened", "ONNX Runtime")),
    ],
    ids=str,
)
def test_every_form_is_kept_or_widened_as_planned_and_answers(folder, form, choices, said):
    store(folder, form)

    async def go():
        backend = select(Config(model=str(folder), devices="cpu", **choices))
        assert (backend.info.precision, backend.info.kernel) == said
        chunks = await asyncio.gather(*(answer(backend, ask("Hello there", 10)) for _ in range(6)))
        memory = backend.memory()
        await backend.close()
        return chunks, memory, backend.info.planned_bytes

    chunks, memory, planned = asyncio.run(go())
    assert [len(each) for each in chunks] == [10] * 6
    pages = memory["pages_used"] + memory["pages_free"]
    scrap = 0 if said[1] == "ONNX Runtime" else memory["kv_total"] // pages  # each slot of ONNX has a buffer instead
    assert planned["kv"] == memory["kv_total"] + scrap


@pytest.mark.parametrize(
    ("capability", "form", "planned"),
    [
        ((7, 5), "float", ("fp16", None, None)),
        ((7, 5), "gptq and int8", ("fp16", None, None)),
        ((6, 1), "int8", ("fp32", None, None)),
        ((8, 9), "int8", ("bf16", None, None)),
        ((8, 9), "gptq and int8", ("bf16", Int4Linear, None)),
        (None, "float", ("fp32", Int4Held, Int8Rows)),
        (None, "int8", ("fp32", Int4Held, Int8Rows)),
        (None, "gptq and int8", ("fp32", Int4Held, Int8Rows)),
    ],
    ids=str,
)
def test_a_model_is_loaded_as_planned_and_never_in_bf16_before_ampere(folder, monkeypatch, capability, form, planned):
    store(folder, form)
    cards = (Card("cuda:0", "Test", 8 * 10**9, capability, 7 * 10**9),) if capability else ()
    machine = Machine(ram_bytes=32 * 10**9, ram_free_bytes=28 * 10**9, cores=1, bf16=False, cards=cards)
    monkeypatch.setattr(inventory, "survey", lambda devices: machine)
    asked = []
    monkeypatch.setattr(local, "load", lambda *given, **_: asked.append(given))
    local.prepared(Config(model=str(folder)))
    assert asked == [(str(folder), "cuda:0" if capability else "cpu", *planned, folder)]


def test_int4_names_the_tool_that_makes_it(tiny_checkpoint):
    with pytest.raises(UnsupportedModel, match=r"not stored in INT4 but in fp32; .* `python -m engine.tools.quantize`"):
        LocalBackend.load(Config(model=str(tiny_checkpoint), devices="cpu", precision="int4"))


def test_a_card_that_is_not_there_is_refused_with_how_many_there_are(tiny_checkpoint):
    with pytest.raises(ConfigError, match=r"no device 'cuda:7': .* 0 CUDA cards; use --devices cpu"):
        LocalBackend.load(Config(model=str(tiny_checkpoint), devices="cuda:7"))


def test_a_hub_model_is_asked_for_once_and_its_licence_said_once(tiny_checkpoint, monkeypatch, caplog):
    asked = []

    def snapshot(name: str, *, dry_run: bool = False, **_: object) -> list[object] | str:
        if dry_run:  # what is missing
            return []
        asked.append(name)
        return str(tiny_checkpoint)

    monkeypatch.setattr("engine.hub.snapshot_download", snapshot)
    loaded, _ = local.prepared(Config(model="tencent/HY-MT1.5-1.8B", devices="cpu"))
    assert loaded.info.name == "tencent/HY-MT1.5-1.8B"
    assert asked == ["tencent/HY-MT1.5-1.8B"]
    assert sum("Tencent HY Community License" in record.getMessage() for record in caplog.records) == 1


def test_a_hub_model_without_a_network_is_told_at_once_after_its_licence(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.perf_counter()
    with pytest.raises(ModelNotFound, match=r"no folder 'tencent/HY-MT1.5-7B', and the model hub .*check the name"):
        LocalBackend.load(Config(model="tencent/HY-MT1.5-7B", devices="cpu"))
    assert time.perf_counter() - began < 5
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [
        "model tencent/HY-MT1.5-7B: Tencent HY Community License: not granted in the EU, the UK and South Korea; "
        "not affiliated with Tencent"
    ]


@pytest.mark.parametrize("error", [httpx.ProxyError("no"), httpx.ReadError("cut"), OSError(28, "No space left")])
def test_a_download_that_breaks_is_told_in_a_sentence(monkeypatch, error):
    def breaks(name, **_):
        raise error

    monkeypatch.setattr("engine.hub.snapshot_download", breaks)
    with pytest.raises(ModelNotFound, match=type(error).__name__) as failed:
        LocalBackend.load(Config(model="tencent/Hy-MT2-1.8B", devices="cpu"))
    assert failed.value.__cause__ is error


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("tencent/HY-MT1.5-7B", "hy-mt1.5"),
        ("tencent/HY-MT1.5-1.8B", "hy-mt1.5"),
        ("tencent/HY-MT1.5-7B-GPTQ-Int4", "hy-mt1.5"),
        ("tencent/Hy-MT2-7B", "hy-mt2"),
        ("tencent/Hy-MT2-1.8B", "hy-mt2"),
        ("/models/hymt2-7b", "hy-mt2"),
        ("/models/mine", "hy-mt1.5"),
    ],
)
def test_the_family_is_read_from_the_name(name, family):
    assert family_of(name, {}) == family


@pytest.mark.parametrize(
    ("card", "family"),
    [
        ("# Hy-MT2-7B\nThe successor of HY-MT1.5.", "hy-mt2"),
        ("---\nbase_model: tencent/HY-MT1.5-7B\n---\nSee Hy-MT2, too.", "hy-mt1.5"),
        ("# A model", "hy-mt1.5"),
        ("x" * 5_000 + "Hy-MT2", "hy-mt1.5"),
    ],
)
def test_where_the_name_does_not_tell_the_card_does(card, family, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert family_of(str(tmp_path), {}) == family
    assert family_of(str(tmp_path), {"yiwen": {"family": "hy-mt2"}}) == "hy-mt2"


def test_what_a_checkpoint_says_of_its_family_and_licence_counts_more_than_its_name():
    config = {"yiwen": {"family": "hy-mt1.5", "licence": "MIT"}}
    assert (family_of("Hy-MT2-7B", config), licence_of("Hy-MT2-7B", config)) == ("hy-mt1.5", "MIT")
    assert licence_of("Hy-MT2-7B", {}).startswith("Apache-2.0")


def test_weights_that_do_not_fit_the_device_are_said_in_a_sentence(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loader, "load_model", full)
    with pytest.raises(ConfigError, match="do not fit the memory of cpu as"):
        LocalBackend.load(Config(model=str(tiny_checkpoint), devices="cpu"))


def test_the_first_token_and_the_end_wait_for_nobody_and_what_is_between_is_told_once_a_paint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "PAINT_SECONDS", 60)

    async def go():
        outbox = local._Outbox(asyncio.get_running_loop())
        one, other = asyncio.Queue(), asyncio.Queue()
        outbox.put(one, (1, None, None), at_once=True)
        await asyncio.sleep(0.01)
        assert one.qsize() == 1
        for token in (2, 3):
            outbox.put(one, (token, None, None), at_once=False)
        await asyncio.sleep(0.05)
        assert one.qsize() == 1
        outbox.put(other, (1, None, None), at_once=True)
        await asyncio.sleep(0.01)
        assert (one.qsize(), other.qsize()) == (3, 1)

    asyncio.run(go())


def test_an_answer_does_not_wait_for_the_paint_to_end(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PAINT_SECONDS", 600)

    async def go() -> int:
        backend = LocalBackend.load(Config(model=str(tiny_checkpoint), devices="cpu"))
        tokens = 0
        for number in range(3):
            chunks = await answer(backend, ask(f"Sentence number {number}.", 20))
            tokens += sum(chunk.tokens for chunk in chunks)
        await backend.close()
        return tokens

    assert asyncio.run(asyncio.wait_for(go(), 30)) == 60


def test_many_first_tokens_of_a_step_wake_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PAINT_SECONDS", 60)

    async def go() -> None:
        loop = asyncio.get_running_loop()
        woken, wake = [], loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda call: woken.append(wake(call)))
        outbox, readers = local._Outbox(loop), [asyncio.Queue() for _ in range(32)]
        for reader in readers:
            outbox.put(reader, (1, None, None), at_once=True)
        outbox.put(readers[0], (2, None, None), at_once=False)
        await asyncio.sleep(0.01)
        assert len(woken) == 1
        outbox.put(readers[0], (3, None, None), at_once=False)  # waits for the tick
        await asyncio.sleep(0.01)
        assert [reader.qsize() for reader in readers] == [2] + 31 * [1]

    asyncio.run(go())
