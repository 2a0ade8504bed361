"""What every backend promises, whatever is behind it: the text of `Backend`, as tests."""

import asyncio
import shutil
import threading
from contextlib import aclosing
from dataclasses import replace

import pytest

from engine.backends.echo import EchoBackend
from engine.backends.pool import Pool
from engine.backends.process import ProcessBackend
from engine.backends.select import choose, select
from engine.config import Config
from engine.errors import BackendError, TextTooLong
from engine.progress import Progress
from engine.tools.export_onnx import export
from engine.types import Sampling
from tests.checkpoints import CONTEXT_TOKENS, quantize_gptq, quantize_int8, write_checkpoint
from tests.streams import GREEDY, LONG, answer, ask, is_at_rest, text_of

SLOTS = 3
TEXTS = [f"Sentence number {number} of the committee. 我昨天去了图书馆。" for number in range(2 * SLOTS)]
MODELS = [
    "torch-fp32",
    "process-fp32",
    "pool-fp32",
    *(f"openvino-{precision}" for precision in ("int8", "int4")),
    *(f"onnx-{precision}" for precision in ("fp32", "int8", "int4")),
    *(f"exported-{precision}" for precision in ("fp32", "fp16", "int8", "int4")),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One model in every form."""
    root = tmp_path_factory.mktemp("forms")
    write_checkpoint(root / "fp32", yiwen={"name": "tiny", "segment_tokens": 64})
    for precision, quantize in (("int8", quantize_int8), ("int4", lambda folder: quantize_gptq(folder, group_size=32))):
        shutil.copytree(root / "fp32", root / precision)
        quantize(root / precision)
        export(root / precision, root / f"exported-{precision}", precision)
    export(root / "fp32", root / "exported-fp32", "fp32")
    export(root / "fp32", root / "exported-fp16", "fp16", "fp16")
    return root


def opened(folders, name):
    if name == "echo":
        return EchoBackend(delay_seconds=0.001, slots=SLOTS)
    engine, precision = name.split("-")
    folder = folders / (name if engine == "exported" else precision)
    choice = {
        "torch": "local",
        "process": "local",
        "pool": "local",
        "openvino": "local",
        "onnx": "onnx",
        "exported": "auto",
    }[engine]
    config = Config(
        model=str(folder),
        backend=choice,
        devices="cpu",
        precision=precision,
        max_concurrent=SLOTS,
        deterministic=engine == "openvino",
    )
    if engine == "pool":
        loads = [("cpu", choose(replace(config, max_concurrent=slots))) for slots in (1, SLOTS - 1)]
        backend = Pool.load(loads, Progress())
    else:
        backend = ProcessBackend.load(config) if engine == "process" else select(config)
    kernels = {"torch": "torch", "process": "torch", "pool": "torch", "openvino": "OpenVINO"}
    assert backend.info.kernel == kernels.get(engine, "ONNX Runtime")
    return backend


@pytest.fixture(scope="module")
def once(folders):
    """Each backend, opened when it is first asked for."""
    made = {}
    yield lambda name: made.get(name) or made.setdefault(name, opened(folders, name))
    for backend in made.values():
        asyncio.run(backend.close())


@pytest.fixture(params=["echo", *MODELS])
def backend(request, once):
    return once(request.param)


@pytest.fixture(params=MODELS)
def model(request, once):
    return once(request.param)


def said(backend, prompt):
    return text_of(asyncio.run(answer(backend, prompt)))


def depends_on_the_step(backend):
    """Whether a row's scores do: ONNX Runtime takes other products for several rows, and rounds what it multiplies."""
    return "ONNX" in backend.info.kernel and backend.info.precision in ("int8", "int4", "gptq-int4")


def test_it_says_what_it_serves(backend):
    info = backend.info
    assert min(map(len, (info.name, info.precision, info.device))) > 0
    assert {"en", "fr"} <= set(info.languages)
    assert 0 < info.segment_tokens < info.max_context_tokens
    assert backend.slots == SLOTS
    assert not backend.failed.done()


def test_the_last_chunk_alone_has_a_finish_and_tokens_are_counted(backend):
    chunks = asyncio.run(answer(backend, ask(TEXTS[0], 7)))
    assert [chunk.finish for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].finish, sum(chunk.tokens for chunk in chunks)) == ("length", 7)


def test_tokens_of_a_text_are_counted_from_any_thread(backend):
    counted = []
    thread = threading.Thread(target=lambda: counted.append(backend.count_tokens(TEXTS[0])))
    thread.start()
    thread.join()
    assert counted == [backend.count_tokens(TEXTS[0])]
    assert counted[0] > backend.count_tokens("no") > backend.count_tokens("") == 0


def test_more_streams_than_slots_each_get_their_own_answer(backend):
    prompts = [ask(text, 6 + number) for number, text in enumerate(TEXTS)]

    async def together():
        return await asyncio.gather(*(answer(backend, prompt) for prompt in prompts))

    alone = [asyncio.run(answer(backend, prompt)) for prompt in prompts]
    chunks = asyncio.run(together())
    assert [sum(chunk.tokens for chunk in each) for each in chunks] == [prompt.max_new_tokens for prompt in prompts]
    assert len({text_of(each) for each in alone}) == len(alone)
    if depends_on_the_step(backend):  # a first token is made by itself
        chunks, alone = [each[:1] for each in chunks], [each[:1] for each in alone]
    assert [text_of(each) for each in chunks] == [text_of(each) for each in alone]


def test_closing_a_stream_frees_its_slot(backend):
    async def go():
        async with aclosing(backend.stream(ask(TEXTS[0] * 5, LONG))) as chunks:
            await anext(chunks)
            await anext(chunks)
            assert backend.running == 1
        await is_at_rest(backend)
        task = asyncio.create_task(answer(backend, ask(TEXTS[0] * 5, LONG)))
        while not backend.running:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await is_at_rest(backend)
        return await answer(backend, ask(TEXTS[1], 3))

    assert sum(chunk.tokens for chunk in asyncio.run(go())) == 3


def test_memory_is_told_by_use(backend):
    memory = backend.memory()
    assert memory.keys() >= {"weights", "kv_used", "kv_total"}
    assert all(type(value) is int and value >= 0 for value in memory.values())
    assert memory["kv_used"] <= memory["kv_total"]


def test_a_seed_says_the_same_again_and_another_does_not(model):
    def sampled(seed):
        return said(model, ask(TEXTS[0], 20, Sampling(temperature=1.0, top_p=0.9, top_k=50, seed=seed)))

    assert sampled(1) == sampled(1) != sampled(2)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, top_k=50, repetition_penalty=1.2, seed=7)])
def test_an_answer_begun_elsewhere_goes_on_after_what_was_made(model, sampling):
    whole = asyncio.run(answer(model, ask(TEXTS[0], 20, sampling)))
    for told in (1, len(whole) // 2, len(whole) - 1):
        made, expected = ids_of(whole[:told]), ids_of(whole[told:])
        rest = asyncio.run(answer(model, replace(ask(TEXTS[0], 20, sampling), made=made)))
        assert len(made) >= told
        if depends_on_the_step(model):
            assert ids_of(rest)[:1] == expected[:1]
        else:
            assert (ids_of(rest), text_of(rest)) == (expected, text_of(whole[told:]))
            assert rest[-1].finish == whole[-1].finish


def ids_of(chunks):
    return tuple(id for chunk in chunks for id in chunk.ids)


def test_a_penalty_leaves_fewer_repetitions(model):
    def spread(penalty):
        text = said(model, ask(TEXTS[0], 60, Sampling(temperature=0.0, repetition_penalty=penalty)))
        return len(set(text)) / len(text)

    assert spread(3.0) > spread(1.0)


def test_a_prompt_that_cannot_fit_is_refused(model):
    with pytest.raises(TextTooLong, match=rf"prompt of \d{{4,}} tokens .* {CONTEXT_TOKENS}; shorten the context"):
        said(model, ask("no " * CONTEXT_TOKENS))
    asyncio.run(is_at_rest(model))


def test_an_answer_gets_the_room_that_is_left(model):
    chunks = asyncio.run(answer(model, ask("1" * (CONTEXT_TOKENS - 12), LONG)))
    assert (sum(chunk.tokens for chunk in chunks), chunks[-1].finish) == (10, "length")


@pytest.mark.parametrize(
    "name", ["echo", "torch-fp32", "process-fp32", "pool-fp32", "openvino-int4", "onnx-int4", "exported-int8"]
)
def test_closing_ends_open_streams_and_twice_is_once(folders, name):
    backend = opened(folders, name)

    async def go():
        task = asyncio.create_task(answer(backend, ask(TEXTS[0] * 20, LONG)))
        while not backend.running:
            await asyncio.sleep(0.001)
        await backend.close()
        with pytest.raises(BackendError):
            await task
        await backend.close()
        with pytest.raises(BackendError):
            await answer(backend, ask("Hello"))
        assert not backend.failed.done()

    asyncio.run(go())
